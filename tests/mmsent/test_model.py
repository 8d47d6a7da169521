from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmsent.batch import Batch, to_device
from mmsent.config import ModelConfig, TrainConfig
from mmsent.errors import EncoderError
from mmsent.model import MultimodalModel
from shards.reader import Split
from shards.schema import MELD_LABELS, LabelSet, Modality
from tests.samples import loader_in_order, make_sample, make_spec, write_split

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


@pytest.mark.parametrize("trained", [(), ("text",)])
def test_a_pretrained_encoder_is_trained_only_when_asked(tmp_path: Path, trained: tuple[Modality, ...]) -> None:
    name = pretrained_text(tmp_path)
    spec = make_spec()
    spec = replace(spec, text=replace(spec.text, tokenizer=Path(name).name))
    config = ModelConfig(modalities=("text",), text_encoder=name, train_encoders=trained)
    model = MultimodalModel(config, spec=spec, label_sets=MELD_LABELS, pretrained=True).train()
    backbone = model.encoders["text"].backbone
    assert isinstance(backbone, nn.Module)
    groups = model.parameter_groups(learning_rate=1e-3, encoder_learning_rate=1e-5)
    in_groups = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    rates = {in_groups.get(id(parameter)) for parameter in backbone.parameters()}
    assert rates == ({1e-5} if trained else {None})
    assert backbone.training == bool(trained)


def test_encoders_from_random_weights_are_always_trained() -> None:
    model = model_of(SCRATCH)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert len(model.parameter_groups(learning_rate=1e-3, encoder_learning_rate=1e-5)) == 1


def test_shards_tokenized_for_another_encoder_are_refused_with_the_remedy() -> None:
    with pytest.raises(EncoderError, match="--text-encoder scratch"):
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


def test_another_tokenizer_is_refused_before_any_weights_are_fetched() -> None:
    """No network and no weights here: asked for first, the Kinetics weights would be the error."""
    config = ModelConfig(text_encoder="bert-base-uncased", video_weights="/no/such/weights.pth")
    with pytest.raises(EncoderError, match="the shards were tokenized for text encoder 'scratch'"):
        MultimodalModel(config, spec=make_spec(), label_sets=MELD_LABELS, pretrained=True)
