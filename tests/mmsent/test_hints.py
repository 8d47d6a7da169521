from pathlib import Path

import pytest
import torch

from mmsent.config import ModelConfig
from mmsent.hints import FrozenClock
from mmsent.model import MultimodalModel
from shards.schema import MELD_LABELS
from tests.encoders import save_bert
from tests.mmsent.batches import make_batch
from tests.samples import make_spec

CPU = torch.device("cpu")


def clock_of(encoder: str, *, trained: bool = False) -> FrozenClock:
    config = ModelConfig(
        modalities=("audio", "text"),
        text_encoder=encoder,
        text_pooling="mean",
        train_encoders=("text",) if trained else (),
    )
    model = MultimodalModel(config, spec=make_spec(), label_sets=MELD_LABELS, pretrained=True).train()
    return FrozenClock(model, CPU, "fp32")


def said(clock: FrozenClock, *, epoch_seconds: float, shards: str = "my shards") -> str:
    return clock.hint(
        epoch_seconds=epoch_seconds, epoch_samples=4_000_000, world_size=1, all_samples=5_000_000, shards=shards
    )


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    return str(save_bert(tmp_path / "scratch"))


def test_frozen_encoders_that_take_most_of_an_epoch_are_told_with_the_command_to_spare_them(encoder: str) -> None:
    clock = clock_of(encoder)
    for _ in range(3):
        clock.look(make_batch([0, 1, 2, 3]))
    hint = said(clock, epoch_seconds=1.0)  # in which four million samples take longer on any machine
    command = f"mmsent encode --shards 'my shards' --out DIR --text-encoder {encoder} --text-pooling mean"
    assert f"frozen encoders (text) take 100% of each step: `{command} --modalities text`" in hint
    assert "an epoch takes about 0.0 s in place of 1.0 s" in hint
    assert said(clock, epoch_seconds=1e9) == ""


def test_what_was_not_timed_or_is_not_frozen_is_not_told(encoder: str) -> None:
    early = clock_of(encoder)
    for _ in range(2):
        early.look(make_batch([0, 1]))
    trained = clock_of(encoder, trained=True)
    for _ in range(5):
        trained.look(make_batch([0, 1]))
    assert said(early, epoch_seconds=1.0) == said(trained, epoch_seconds=1.0) == ""
