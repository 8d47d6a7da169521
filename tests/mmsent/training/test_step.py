from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from mmsent.config import ModelConfig, TrainConfig
from mmsent.model.multimodal import MultimodalModel
from mmsent.training.losses import MultitaskLoss
from mmsent.training.step import Stepper
from shards.schema import MELD_LABELS
from tests.support.batches import make_batch
from tests.support.encoders import save_bert
from tests.support.samples import make_spec

CPU = torch.device("cpu")
COUNTS = {labels.task: dict.fromkeys(labels.names, 2) for labels in MELD_LABELS}
TEXT = ModelConfig(modalities=("text",), text_encoder="scratch", encoder_dropout=0, fusion_dropout=0)
CONFIG = TrainConfig(learning_rate=1e-3, max_grad_norm=1e9, max_epochs=2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers without dropout, for the tokens of the samples."""
    return save_bert(tmp_path_factory.mktemp("encoder") / "scratch", num_layers=2)


def make_stepper(encoder: Path, config: TrainConfig = CONFIG, *, trained: bool = True) -> Stepper:
    model_config = replace(TEXT, text_encoder=str(encoder), train_encoders=("text",) if trained else ())
    torch.manual_seed(1)
    model = MultimodalModel(model_config, spec=make_spec(), label_sets=MELD_LABELS, pretrained=True).train()
    loss = MultitaskLoss(config, MELD_LABELS, COUNTS, CPU)
    return Stepper(model, config, loss=loss, precision="fp32", device=CPU, steps_per_epoch=5)


def step(stepper: Stepper, samples: list[int]) -> float:
    batch = make_batch(samples)
    loss = stepper.forward_backward(batch, global_size=len(batch))
    stepper.optimizer_step()
    return float(loss)


def weights(stepper: Stepper) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in stepper.tensors().items() if name.startswith("model.")}


def largest_change(before: dict[str, Tensor], after: dict[str, Tensor], part: str) -> float:
    return max(float((after[name] - before[name]).abs().max()) for name in before if part in name)


def test_each_part_moves_at_its_own_learning_rate(encoder: Path) -> None:
    """The first step of Adam moves a weight by its learning rate, whatever the size of the gradient."""
    config = replace(CONFIG, learning_rate=1e-2, text_learning_rate=1e-4, layer_decay=0.1)
    stepper = make_stepper(encoder, config)
    before = weights(stepper)
    step(stepper, [0, 1, 2, 3])
    after = weights(stepper)
    assert largest_change(before, after, "heads.") == pytest.approx(1e-2, rel=1e-2)
    assert largest_change(before, after, "fusion.") == pytest.approx(1e-2, rel=1e-2)
    for part, rate in (("pooler.", 1e-4), ("layer.1.", 1e-4), ("layer.0.", 1e-5), ("embeddings.", 1e-6)):
        assert largest_change(before, after, part) == pytest.approx(rate, rel=0.05)


def test_a_frozen_encoder_does_not_move_and_has_no_optimizer_state(encoder: Path) -> None:
    stepper = make_stepper(encoder, trained=False)
    before = {name: value.clone() for name, value in stepper.model.frozen_state().items()}
    step(stepper, [0, 1, 2])
    assert before
    assert all(torch.equal(value, stepper.model.frozen_state()[name]) for name, value in before.items())
    assert not [name for name in stepper.tensors() if "backbone" in name]
    num_states = len({name.split(".")[1] for name in stepper.tensors() if name.startswith("optimizer.")})
    assert num_states == sum(parameter.requires_grad for parameter in stepper.model.parameters())


def test_learning_rates_rise_in_the_warm_up_and_fall_in_a_line_to_the_last_step(encoder: Path) -> None:
    config = replace(CONFIG, learning_rate=1.0, warmup_steps=4, schedule="linear")
    stepper = make_stepper(encoder, replace(config, learning_rate=1e-9), trained=False)
    rates = []
    for _ in range(10):
        step(stepper, [0, 1])
        rates.append(stepper.learning_rate / 1e-9)
    assert rates == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1.0, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])


def test_learning_rates_fall_when_the_validation_loss_stops_falling(encoder: Path) -> None:
    stepper = make_stepper(encoder, replace(CONFIG, plateau_patience=1, plateau_factor=0.5), trained=False)
    rates = []
    for loss in (2.0, 1.0, 1.0, 1.0, 1.0):
        stepper.optimizer.end_epoch(loss)
        rates.append(stepper.learning_rate)
    assert rates == [1e-3, 1e-3, 1e-3, 5e-4, 5e-4]


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_a_step_in_parts_is_the_step_at_once(encoder: Path, parts: int) -> None:
    config = replace(CONFIG, class_weights="sqrt", text_learning_rate=1e-3)
    whole, cut = make_stepper(encoder, config), make_stepper(encoder, replace(config, accumulation_steps=parts))
    for samples in ([0, 1, 2, 3, 4, 5, 6], [7, 8]):  # the second has fewer samples than some have parts
        assert step(cut, samples) == pytest.approx(step(whole, samples), rel=1e-5)
    expected = weights(whole)
    for name, value in weights(cut).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-5)


def test_the_average_follows_the_weights_and_is_what_is_evaluated(encoder: Path) -> None:
    stepper = make_stepper(encoder, replace(CONFIG, ema_decay=0.3), trained=False)
    name = "model.heads.emotion_head.weight"
    expected = stepper.tensors()[name].clone()
    for number in range(1, 5):
        step(stepper, [number, number + 1])
        decay = min(0.3, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * stepper.tensors()[name]
    torch.testing.assert_close(stepper.evaluated_tensors()[name], expected)
    assert stepper.evaluated_model is not stepper.model
    frozen = [item for item in stepper.model.parameters() if not item.requires_grad]
    shared = {id(item) for item in stepper.evaluated_model.parameters()}
    assert frozen
    assert all(id(item) in shared for item in frozen)  # half a gigabyte of BERT is there once


def test_random_numbers_of_a_step_depend_on_its_number_alone(encoder: Path) -> None:
    model_config = replace(TEXT, text_encoder=str(encoder), fusion_dropout=0.5)
    loss = MultitaskLoss(CONFIG, MELD_LABELS, COUNTS, CPU)
    losses = []
    for draws in (0, 1000):
        torch.manual_seed(1)
        model = MultimodalModel(model_config, spec=make_spec(), label_sets=MELD_LABELS, pretrained=True).train()
        stepper = Stepper(model, CONFIG, loss=loss, precision="fp32", device=CPU, steps_per_epoch=5)
        torch.rand(draws)
        batch = make_batch([0, 1, 2])
        losses.append([float(stepper.forward_backward(batch, global_size=3)) for _ in range(2)])
    assert losses[0] == losses[1]
    assert losses[0][0] == losses[0][1]  # the same step twice
    stepper.optimizer_step()
    assert float(stepper.forward_backward(batch, global_size=3)) != losses[0][0]


def test_a_forward_pass_moves_nothing_that_is_saved_before_its_update() -> None:
    """A signal in the middle of a step saves the state after the last one, running statistics included."""
    model_config = ModelConfig(modalities=("audio",))
    torch.manual_seed(1)
    model = MultimodalModel(model_config, spec=make_spec(), label_sets=MELD_LABELS, pretrained=True).train()
    loss = MultitaskLoss(CONFIG, MELD_LABELS, COUNTS, CPU)
    stepper = Stepper(model, CONFIG, loss=loss, precision="fp32", device=CPU, steps_per_epoch=5)
    before = {name: value.clone() for name, value in stepper.tensors().items()}
    batch = make_batch([0, 1, 2])
    stepper.forward_backward(batch, global_size=3)
    assert all(torch.equal(value, stepper.tensors()[name]) for name, value in before.items())
    stepper.optimizer_step()
    moved = [name for name, value in before.items() if not torch.equal(value, stepper.tensors()[name])]
    assert any("running_mean" in name for name in moved)


def test_what_is_loaded_goes_on_as_what_was_saved(encoder: Path) -> None:
    config = replace(CONFIG, ema_decay=0.9, warmup_steps=3)
    first = make_stepper(encoder, config)
    step(first, [0, 1, 2])
    tensors = {name: value.clone() for name, value in first.tensors().items()}
    state = first.state()
    second = make_stepper(encoder, replace(config, seed=0))
    second.load(tensors, state)
    for samples in ([3, 4], [5, 6, 7]):
        assert step(first, samples) == step(second, samples)
    assert cast("int", first.state()["num_steps"]) == 3
    assert all(torch.equal(value, second.tensors()[name]) for name, value in first.tensors().items())


def test_what_is_loaded_lies_in_memory_as_its_weights_do() -> None:
    """A file has no memory format; the fused optimizer refuses moments that are laid out unlike their weights."""

    def make() -> Stepper:
        config = ModelConfig(modalities=("video",), video_weights="none")
        model = MultimodalModel(config, spec=make_spec(), label_sets=MELD_LABELS, pretrained=True).train()
        model.use_channels_last()
        loss = MultitaskLoss(CONFIG, MELD_LABELS, COUNTS, CPU)
        return Stepper(model, CONFIG, loss=loss, precision="fp32", device=CPU, steps_per_epoch=5)

    stopped, resumed = make(), make()
    for parameter in stopped.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    stopped.optimizer_step()
    resumed.load({name: tensor.contiguous() for name, tensor in stopped.tensors().items()}, stopped.state())
    ours, theirs = resumed.tensors(), stopped.tensors()
    assert any(not tensor.is_contiguous() for name, tensor in theirs.items() if name.endswith("exp_avg"))
    assert {name: tensor.stride() for name, tensor in ours.items()} == {
        name: tensor.stride() for name, tensor in theirs.items()
    }
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
