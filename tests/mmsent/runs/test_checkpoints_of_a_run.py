from dataclasses import replace
from pathlib import Path

import pytest

from mmsent.errors import CheckpointError
from mmsent.runs.checkpoint import checkpoint_to_resume
from mmsent.runs.folder import checkpoint_paths
from tests.mmsent.training.test_start import CONFIG, assert_same_run, run, shards

__all__ = ["shards"]


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_as_many_of_the_last_checkpoints_are_kept_as_asked_for(shards: Path, tmp_path: Path, keep: int) -> None:
    run(shards, tmp_path / "run", config=replace(CONFIG, keep_checkpoints=keep))
    names = [path.name for path in checkpoint_paths(tmp_path / "run")]
    assert names == [f"step-{step:08d}.safetensors" for step in (2, 3, 5, 6, 8, 9)][-keep:]


def test_a_cut_checkpoint_is_refused_and_without_it_the_run_goes_on_from_the_one_before(
    shards: Path, tmp_path: Path
) -> None:
    run(shards, tmp_path / "whole")
    run(shards, tmp_path / "cut", config=replace(CONFIG, max_epochs=2))
    *_, before, last = checkpoint_paths(tmp_path / "cut")
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=rf"(?s)damaged.*{last.name}.*delete it to go on from {before.name}"):
        run(shards, tmp_path / "cut", resume=True)
    assert last.is_file()
    last.unlink()
    run(shards, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_file_of_another_program_in_place_of_a_checkpoint_is_refused(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    for path in checkpoint_paths(tmp_path / "run"):
        path.write_bytes(b"PK\x03\x04 a pickle in a zip, as torch.save writes it")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint_to_resume(tmp_path / "run", resume=True)


def test_other_files_beside_the_checkpoints_are_left_alone(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1, keep_checkpoints=1))
    kept = tmp_path / "run" / "checkpoints" / "step-1 before the change.safetensors"
    kept.write_bytes(b"mine")
    run(shards, tmp_path / "run", config=replace(CONFIG, keep_checkpoints=1), resume=True)
    assert kept.read_bytes() == b"mine"
    assert len(checkpoint_paths(tmp_path / "run")) == 1
