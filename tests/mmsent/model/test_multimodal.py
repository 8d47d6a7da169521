from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmsent.batches.batch import Batch, to_device
from mmsent.config import OF_SHARDS, Fusion, ModelConfig, TrainConfig, check_together
from mmsent.errors import EncoderError
from mmsent.model.multimodal import MultimodalModel
from mmsent.training.optimizer import parameter_groups
from shards.reading.split import Split
from shards.schema import MELD_LABELS, MODALITIES, LabelSet, Modality
from shards.spec import Encoding, FeatureSpec
from tests.support.batches import make_batch
from tests.support.samples import loader_in_order, make_sample, make_spec, write_split

SCRATCH = ModelConfig(text_encoder="scratch", video_weights="none")


def batch_of(tmp_path: Path, *, absent: tuple[str, ...] = (), count: int = 3) -> Batch:
    write_split(tmp_path, [make_sample(i, absent=absent if i == 1 else ()) for i in range(count)])
    host = next(iter(loader_in_order(Split(tmp_path / "train"), batch_size=count)))
    return to_device(host, torch.device("cpu"))


def model_of(config: ModelConfig) -> MultimodalModel:
    torch.manual_seed(0)
    return MultimodalModel(config, spec=make_spec(), label_sets=MELD_LABELS, pretrained=True)


def test_a_batch_gives_logits_of_every_task(tmp_path: Path) -> None:
    logits = model_of(SCRATCH).eval()(batch_of(tmp_path))
    assert {task: tuple(value.shape) for task, value in logits.items()} == {"emotion": (3, 7), "sentiment": (3, 3)}


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_what_stands_in_place_of_an_absent_modality_is_never_read(tmp_path: Path, modality: Modality) -> None:
    batch = batch_of(tmp_path, absent=(modality,))
    model = model_of(SCRATCH).train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    frames, logmel = batch.frames.clone(), batch.logmel.clone()
    frames[1], logmel[1] = 255, torch.nan
    changed = replace(
        batch,
        frames=frames if modality == "video" else batch.frames,
        logmel=logmel if modality == "audio" else batch.logmel,
    )
    torch.testing.assert_close(model(changed), model(batch))  # in training mode: batch statistics included


def test_a_batch_in_which_nobody_has_a_modality_still_gives_logits(tmp_path: Path) -> None:
    batch = replace(batch_of(tmp_path), rows={name: torch.tensor([], dtype=torch.int64) for name in SCRATCH.modalities})
    logits = model_of(SCRATCH).eval()(batch)
    assert torch.isfinite(logits["emotion"]).all()
    torch.testing.assert_close(logits["emotion"][0], logits["emotion"][1])


def test_a_model_of_one_modality_does_not_look_at_the_others(tmp_path: Path) -> None:
    batch = batch_of(tmp_path)
    model = model_of(replace(SCRATCH, modalities=("text",))).eval()
    other = replace(batch, frames=torch.zeros_like(batch.frames), logmel=torch.zeros_like(batch.logmel))
    torch.testing.assert_close(model(other), model(batch))
    assert list(model.encoders) == ["text"]


@pytest.mark.parametrize("task", ["type", "values", "training", "head", "laughter"])
def test_a_task_may_have_any_name_that_a_column_may_have(tmp_path: Path, task: str) -> None:
    labels = LabelSet(task=task, names=("no", "yes"))
    config = replace(SCRATCH, modalities=("audio",))
    model = MultimodalModel(config, spec=make_spec(), label_sets=[labels], pretrained=True)
    logits = model.eval()(batch_of(tmp_path))
    assert {name: tuple(value.shape) for name, value in logits.items()} == {task: (3, 2)}


def pretrained_text(folder: Path) -> str:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(folder)
    return str(folder)


def model_with_text(
    folder: Path, *, trained: tuple[Modality, ...] = (), modalities: tuple[Modality, ...] = ("text",)
) -> MultimodalModel:
    name = pretrained_text(folder)
    spec = make_spec()
    spec = replace(spec, text=replace(spec.text, tokenizer=Path(name).name))
    config = replace(SCRATCH, modalities=modalities, text_encoder=name, train_encoders=trained)
    torch.manual_seed(0)
    return MultimodalModel(config, spec=spec, label_sets=MELD_LABELS, pretrained=True).train()


@pytest.mark.parametrize("trained", [(), ("text",)])
def test_a_pretrained_encoder_is_trained_only_when_asked(tmp_path: Path, trained: tuple[Modality, ...]) -> None:
    model = model_with_text(tmp_path, trained=trained)
    backbone = model.encoders["text"].backbone
    assert isinstance(backbone, nn.Module)
    groups = parameter_groups(model, TrainConfig(learning_rate=1e-3, text_learning_rate=1e-5))
    in_groups = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    rates = {in_groups.get(id(parameter)) for parameter in backbone.parameters()}
    assert rates == ({1e-5} if trained else {None})
    assert backbone.training == bool(trained)


def test_a_frozen_encoder_has_no_graph_and_no_gradient_and_stays_in_evaluation(tmp_path: Path) -> None:
    model = model_with_text(tmp_path)
    backbone = model.encoders["text"].backbone
    assert isinstance(backbone, nn.Module)
    seen: list[tuple[bool, bool]] = []
    backbone.register_forward_hook(
        lambda module, _inputs, output: seen.append((output.pooler_output.is_inference(), module.training))
    )
    logits = model(make_batch([0, 1, 2]))
    sum(values.sum() for values in logits.values()).backward()
    assert seen == [(True, False)]
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_encoders_from_random_weights_are_always_trained() -> None:
    model = model_of(SCRATCH)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [group["name"] for group in parameter_groups(model, TrainConfig())] == ["scratch"]
    assert model.frozen_state() == {}


def test_every_trained_parameter_is_in_exactly_one_group_and_what_is_new_in_the_first(tmp_path: Path) -> None:
    model = model_with_text(tmp_path, trained=("text",), modalities=("audio", "text"))
    groups = parameter_groups(model, TrainConfig(layer_decay=0.5, text_learning_rate=1e-5, learning_rate=1e-3))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {"scratch": 1e-3, "text.top": 1e-5, "text.layer.0": 1e-5, "text.stem": 5e-6}


def test_frozen_and_trained_weights_are_the_two_parts_of_all(tmp_path: Path) -> None:
    model, other = model_with_text(tmp_path / "a"), model_with_text(tmp_path / "b")
    frozen, trained = model.frozen_state(), model.trained_state()
    assert {*frozen, *trained} == set(model.state_dict())
    assert all(name.startswith("encoders.text.backbone.") for name in frozen)
    assert not any(name.startswith("encoders.text.backbone.") for name in trained)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    other.load_frozen_state(frozen)
    other.load_trained_state(trained)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="unknown"):
        other.load_frozen_state(model.state_dict())


NO_VIDEO: dict[int, tuple[Modality, ...]] = dict.fromkeys(range(3), ("video",))
ALL_ABSENT: dict[int, tuple[Modality, ...]] = dict.fromkeys(range(3), MODALITIES)


@pytest.mark.parametrize("fusion", ["concat", "gated"])
@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize(
    "batch", [make_batch([0, 1, 2], absent=NO_VIDEO), make_batch([0, 1], absent=ALL_ABSENT), make_batch([])]
)
def test_every_trained_parameter_gets_a_gradient_whatever_a_batch_lacks(
    batch: Batch, turns: int, fusion: Fusion
) -> None:
    model = model_of(replace(SCRATCH, dialogue_turns=turns, fusion=fusion)).train()
    sum(logits.sum() for logits in model(batch).values()).backward()
    assert [name for name, item in model.named_parameters() if item.grad is None] == []
    video = model.encoders["video"].backbone
    assert isinstance(video, nn.Module)
    assert not any(item.grad.any() for item in video.parameters() if item.grad is not None)


DIALOGUE = replace(SCRATCH, modalities=("audio", "text"), dialogue_turns=3)


@settings(deadline=None, max_examples=15)
@given(data=st.data())
@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_a_result_depends_on_the_sample_and_its_dialogue_alone(fusion: Fusion, data: st.DataObject) -> None:
    """Not on the other samples of the batch, on where rows lie, or on how far the window reaches beyond the start."""
    model = model_of(replace(DIALOGUE, fusion=fusion)).eval()
    absent: dict[int, tuple[Modality, ...]] = {1: ("audio",), 2: ("text",), 3: MODALITIES}
    numbers = data.draw(st.permutations(range(8)))
    history = numbers[1 : 1 + data.draw(st.integers(0, 2))]
    others = numbers[4 : 4 + data.draw(st.integers(0, 3))]
    alone = make_batch([numbers[0], *history], window=[[*range(1, 1 + len(history)), 0]], absent=absent)
    padding = data.draw(st.integers(0, 2))
    first = 1 + len(others)
    window = [[-1] * padding + [*range(first, first + len(history)), 0]]
    window += [[-1] * (padding + len(history)) + [row] for row in range(1, first)]
    together = make_batch([numbers[0], *others, *history], window=window, absent=absent)
    with torch.inference_mode():
        expected, got = model(alone), model(together)
    for task in expected:
        assert len(got[task]) == 1 + len(others)
        torch.testing.assert_close(got[task][:1], expected[task], atol=1e-5, rtol=1e-4)


def test_a_model_looks_no_further_back_than_it_is_told_to() -> None:
    model = model_of(replace(DIALOGUE, dialogue_turns=2)).eval()
    batch = make_batch([0, 1, 2, 3], window=[[3, 2, 1, 0]])
    near = make_batch([0, 1], window=[[1, 0]])
    torch.testing.assert_close(model(batch), model(near))
    far = model_of(DIALOGUE).eval()
    assert not torch.allclose(far(batch)["emotion"], far(make_batch([0, 1], window=[[1, 0]]))["emotion"])


def test_a_model_without_a_dialogue_judges_the_same_samples_of_a_batch_with_one() -> None:
    model = model_of(replace(DIALOGUE, dialogue_turns=1)).eval()
    with_history = make_batch([0, 1, 2], window=[[2, 0], [0, 1]])
    torch.testing.assert_close(model(with_history), model(make_batch([0, 1])))


def test_channels_last_weights_change_no_result() -> None:
    batch = make_batch([0, 1], spec=make_spec(num_frames=8, size=16))
    model = model_of(replace(SCRATCH, modalities=("video",))).eval()
    expected = model(batch)
    model.use_channels_last()
    stem = model.encoders["video"].backbone.get_parameter("stem.0.weight")  # type: ignore[union-attr]
    assert stem.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-4)


def encoded_spec(**encoded: Encoding) -> FeatureSpec:
    return replace(make_spec(), encoded=cast("dict[Modality, Encoding]", encoded))


def encoding(encoder: str, *, pooling: str = "", width: int) -> Encoding:
    return Encoding(encoder=encoder, weights_sha256="0" * 64, pooling=pooling, width=width, precision="fp32")


AS_VIDEO = encoding("r3d_18", width=512)
AS_TEXT = encoding("scratch", pooling="pooler", width=128)
AS_AUDIO = encoding("scratch", width=128)


def test_encoded_shards_give_what_raw_ones_give_without_the_backbones() -> None:
    raw = model_of(SCRATCH).eval()
    absent: dict[int, tuple[Modality, ...]] = {1: ("video", "audio"), 2: ("text",)}
    batch = make_batch([0, 1, 2], absent=absent, spec=make_spec(num_frames=8, size=16))
    with torch.inference_mode():
        features = {name: raw.encode(name, batch) for name in MODALITIES}
    assert {name: tuple(values.shape) for name, values in features.items()} == {
        "video": (3, 512),
        "audio": (3, 128),
        "text": (3, 128),
    }
    for name in MODALITIES:
        there = features[name].any(dim=1).nonzero().flatten()
        assert there.tolist() == batch.rows[name].tolist()
    spec = encoded_spec(video=AS_VIDEO, audio=AS_AUDIO, text=AS_TEXT)
    config = replace(SCRATCH, video_weights="kinetics")  # which are not looked for
    model = MultimodalModel(config, spec=spec, label_sets=MELD_LABELS, pretrained=True).eval()
    assert not any(".backbone." in name for name in model.state_dict())
    assert model.text_config() is None
    model.load_state_dict({name: value for name, value in raw.state_dict().items() if ".backbone." not in name})
    empty = torch.zeros(0)
    encoded = replace(batch, frames=empty, logmel=empty, tokens=empty, token_mask=empty, features=features)
    torch.testing.assert_close(model(encoded), raw(batch))


@pytest.mark.parametrize(
    ("config", "encoding", "match"),
    [
        (ModelConfig(video_encoder="mc3_18"), {"video": AS_VIDEO}, "--set model.video_encoder=r3d_18"),
        (SCRATCH, {"video": AS_VIDEO}, "leave out `--video-weights`"),
        (replace(SCRATCH, text_pooling="mean"), {"text": AS_TEXT}, "--set model.text_pooling=pooler"),
        (replace(SCRATCH, text_encoder="roberta-base"), {"text": AS_TEXT}, "--text-encoder scratch"),
        (ModelConfig(train_encoders=("video",)), {"video": AS_VIDEO}, "leave video out of `--train-encoders`"),
    ],
)
def test_outputs_of_another_encoder_are_refused_with_the_remedy(
    config: ModelConfig, encoding: dict[str, Encoding], match: str
) -> None:
    with pytest.raises(EncoderError, match=match):
        MultimodalModel(config, spec=encoded_spec(**encoding), label_sets=MELD_LABELS, pretrained=True)


def test_shards_tokenized_for_another_encoder_are_refused_with_the_remedy() -> None:
    with pytest.raises(EncoderError, match="leave out `--text-encoder`"):
        model_of(replace(SCRATCH, text_encoder="bert-base-uncased"))


@pytest.mark.parametrize(
    "change",
    [
        {"modalities": ()},
        {"modalities": ("text", "video")},
        {"train_encoders": ("audio",)},
        {"fusion_dropout": 1.0},
        {"feature_dim": 0},
    ],
)
def test_a_network_that_cannot_be_is_a_value_error(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="got"):
        replace(SCRATCH, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"train_encoders": ("video",), "video_weights": "none"}, "trained anyway"),
        ({"train_encoders": ("text",), "text_encoder": "scratch"}, "trained anyway"),
        ({"train_encoders": ("text",), "modalities": ("video",)}, "does not look at"),
    ],
)
def test_encoders_to_train_that_would_change_nothing_are_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ModelConfig(**values)


@pytest.mark.parametrize(
    "values", [{"learning_rate": float("nan")}, {"max_grad_norm": float("inf")}, {"seed": 2**63}, {"seed": -1}]
)
def test_numbers_that_make_no_run_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        TrainConfig(**values)


def test_the_text_encoder_is_the_one_the_shards_were_tokenized_for() -> None:
    model = model_of(replace(SCRATCH, text_encoder=OF_SHARDS))
    assert model.config == SCRATCH
    with pytest.raises(EncoderError, match="leave text out of `--train-encoders`"):
        model_of(replace(SCRATCH, text_encoder=OF_SHARDS, train_encoders=("text",)))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"text_pooling": "mean", "modalities": ("audio",)}, "text_pooling is for text"),
        ({"video_encoder": "mc3_18", "modalities": ("audio",)}, "video_encoder is for video"),
        ({"fusion": "gated", "modalities": ("audio",)}, "fusion is for several modalities"),
    ],
)
def test_what_a_model_has_no_use_for_is_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ModelConfig(**values)


@pytest.mark.parametrize(
    ("model", "values", "match"),
    [
        ({}, {"text_learning_rate": 1e-3}, "trained text encoder"),
        ({"train_encoders": ("text",)}, {"video_learning_rate": 1e-3}, "trained video encoder"),
        ({}, {"layer_decay": 0.9}, "trained encoders"),
        ({"modalities": ("text",)}, {"crop_and_flip": True}, "for video"),
        ({"modalities": ("text",)}, {"spec_augment": True}, "for audio"),
        ({"modalities": ("text",)}, {"modality_dropout": 0.1}, "the only modality"),
    ],
)
def test_what_the_training_of_a_model_has_no_use_for_is_refused(
    model: dict[str, Any], values: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        check_together(ModelConfig(**model), TrainConfig(**values))


def test_another_tokenizer_is_refused_before_any_weights_are_fetched() -> None:
    """No network and no weights here: asked for first, the Kinetics weights would be the error."""
    config = ModelConfig(text_encoder="bert-base-uncased", video_weights="/no/such/weights.pth")
    with pytest.raises(EncoderError, match="the shards were tokenized for text encoder 'scratch'"):
        MultimodalModel(config, spec=make_spec(), label_sets=MELD_LABELS, pretrained=True)
