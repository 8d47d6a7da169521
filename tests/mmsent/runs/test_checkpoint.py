import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmsent.config import ModelConfig, TrainConfig
from mmsent.errors import CheckpointError
from mmsent.model.multimodal import MultimodalModel
from mmsent.runs.checkpoint import Checkpoint, check_fit, load_checkpoint, part_of, restore_model, save_checkpoint
from shards.errors import SpecMismatchError
from shards.reading.split import Split
from shards.schema import MELD_LABELS
from tests.support.samples import make_sample, make_spec, write_split


def make_checkpoint() -> Checkpoint:
    config = ModelConfig(modalities=("audio", "text"), text_encoder="scratch", video_weights="none")
    torch.manual_seed(1)
    model = MultimodalModel(config, spec=make_spec(), label_sets=MELD_LABELS, pretrained=True)
    return Checkpoint(
        model_config=config,
        train_config=TrainConfig(),
        spec=make_spec(),
        label_sets=MELD_LABELS,
        train_counts={"emotion": {"joy": 3}, "sentiment": {"positive": 3}},
        text_config=model.text_config(),
        frozen_sha256={},
        history=(),
        state={"loader": {"position": 3}},
        tensors={f"model.{name}": value for name, value in model.state_dict().items()},
    )


def test_a_checkpoint_read_back_is_the_one_that_was_written(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    save_checkpoint(tmp_path / "a.safetensors", checkpoint)
    back = load_checkpoint(tmp_path / "a.safetensors")
    torch.testing.assert_close(dict(back.tensors), dict(checkpoint.tensors), rtol=0, atol=0)
    for name in (
        "model_config",
        "train_config",
        "spec",
        "label_sets",
        "train_counts",
        "text_config",
        "history",
        "state",
    ):
        assert getattr(back, name) == getattr(checkpoint, name)
    torch.testing.assert_close(
        restore_model(back, tmp_path).state_dict(), part_of(checkpoint.tensors, "model"), rtol=0, atol=0
    )


def test_a_checkpoint_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make_checkpoint())
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            load_checkpoint(path)


def test_a_file_of_another_program_is_no_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint of mmsent"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_a_checkpoint_that_is_not_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="mmsent train --out"):
        load_checkpoint(tmp_path / "best.safetensors")


def test_a_save_that_finds_the_disk_full_keeps_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make_checkpoint())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        save_checkpoint(path, make_checkpoint())
    assert "--resume" in str(caught.value)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.safetensors"]


def test_shards_of_another_spec_are_refused_field_by_field(tmp_path: Path) -> None:
    write_split(tmp_path, [make_sample(0, spec=make_spec(num_hops=11))], spec=make_spec(num_hops=11))
    with pytest.raises(SpecMismatchError, match=r"audio\.num_hops: 10 against 11"):
        check_fit(make_checkpoint(), Split(tmp_path / "train"), path=tmp_path / "best.safetensors")


def test_another_version_of_the_decoder_still_fits(tmp_path: Path) -> None:
    spec = make_spec()
    spec = replace(spec, video=replace(spec.video, decoder_version="2"))
    write_split(tmp_path, [make_sample(0)], spec=spec)
    check_fit(make_checkpoint(), Split(tmp_path / "train"), path=tmp_path / "best.safetensors")


def test_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    write_split(tmp_path, [make_sample(0)])
    emotion, sentiment = MELD_LABELS
    turned = replace(make_checkpoint(), label_sets=(replace(emotion, names=emotion.names[::-1]), sentiment))
    with pytest.raises(SpecMismatchError, match="labels of emotion"):
        check_fit(turned, Split(tmp_path / "train"), path=tmp_path / "best.safetensors")
