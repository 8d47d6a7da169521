"""The commands as a user types them in an empty folder, with nothing else on the line; a run repeated from its file."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmsent.runs.folder import checkpoint_paths
from tests.support.commands import mmsent
from tests.support.samples import make_sample, write_split

pytestmark = pytest.mark.slow

SMALL = ("--frames", "4", "--size", "32x32", "--set", "preprocess.num_hops=100")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which `mmsent make-demo meld` was run."""
    home = tmp_path_factory.mktemp("home")
    assert mmsent("make-demo", "meld", "--utterances", "18", cwd=home).returncode == 0
    return home


def test_the_four_commands_end_well_as_they_stand(home: Path) -> None:
    made = mmsent("preprocess", "meld/", "--text-encoder", "scratch", *SMALL, cwd=home)
    assert made.returncode == 0, made.stderr
    assert made.stderr.startswith("the shards go to meld-shards\n")
    assert made.stdout.splitlines()[-1] == "Next: mmsent train --shards meld-shards"
    train = ("train", "--shards", "meld-shards", "--video-weights", "none", "--epochs", "1")
    trained = mmsent(*train, cwd=home)
    assert trained.returncode == 0, trained.stderr
    assert "the run goes to runs/meld-shards\n" in trained.stderr
    assert trained.stdout.splitlines()[-1] == "Next: mmsent evaluate --run runs/meld-shards"
    evaluated = mmsent("evaluate", "--run", "runs/meld-shards", cwd=home)
    assert evaluated.returncode == 0, evaluated.stderr
    assert (home / "runs" / "meld-shards" / "evaluation-test" / "metrics.json").is_file()

    resumed = mmsent(*train, "--resume", cwd=home)
    assert "the run goes to runs/meld-shards\n" in resumed.stderr
    again = mmsent("train", "--config", "runs/meld-shards/config.toml", "--out", "again", cwd=home)
    assert again.returncode == 0, again.stderr
    for paths in (
        [home / run / "best.safetensors" for run in ("runs/meld-shards", "again")],
        [checkpoint_paths(home / run)[-1] for run in ("runs/meld-shards", "again")],
    ):
        first, second = map(load_file, paths)
        assert [key for key in first if not torch.equal(first[key], second[key])] == []
        assert first.keys() == second.keys()

    (home / "meld-shards").rename(home / "moved")
    moved = mmsent("evaluate", "--run", "again", cwd=home)
    assert moved.returncode == 1
    assert f"no longer where they were, in {home / 'meld-shards'}" in moved.stderr
    assert "--shards FOLDER" in moved.stderr
    assert mmsent("evaluate", "--run", "again", "--shards", "moved", cwd=home).returncode == 0


def test_a_name_that_is_taken_by_something_else_is_left_alone(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "some"
    shutil.copytree(home / "meld", data)
    (tmp_path / "some-shards").write_text("mine")
    refused = mmsent("preprocess", "some/", "--text-encoder", "scratch", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: the shards would go to some-shards, and there is a file of this name\n")
    assert "--out" in refused.stderr
    (tmp_path / "some-shards").unlink()
    (tmp_path / "some-shards").mkdir()
    (tmp_path / "some-shards" / "notes.txt").write_text("mine")
    refused = mmsent("preprocess", "some", "--text-encoder", "scratch", cwd=tmp_path)
    assert refused.returncode == 1
    assert "a folder that holds no shards of ours" in refused.stderr
    assert (tmp_path / "some-shards" / "notes.txt").read_text() == "mine"


def test_a_data_folder_called_like_a_file_is_read_as_a_folder(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "meld", tmp_path / "meld.csv")
    dry = mmsent("preprocess", "meld.csv", "--text-encoder", "scratch", "--dry-run", "--json", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert dry.stderr.startswith("the shards go to meld.csv-shards\n")
    assert json.loads(dry.stdout)["num_rows"] == 18


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for split in ("train", "dev"):
        write_split(tmp_path / "s", [make_sample(i, split=split) for i in range(3)], split=split)
    return tmp_path / "s"


TEXT = ("--modalities", "text", "--epochs", "1")


def test_runs_without_a_folder_are_numbered_and_resume_takes_the_last(shards: Path, tmp_path: Path) -> None:
    for folder in ("runs/s", "runs/s-2"):
        trained = mmsent("train", "--shards", "s", *TEXT, cwd=tmp_path)
        assert trained.returncode == 0, trained.stderr
        assert f"the run goes to {folder}\n" in trained.stderr
        assert (tmp_path / folder / "best.safetensors").is_file()
    resumed = mmsent("train", "--shards", "s", *TEXT, "--resume", cwd=tmp_path)
    assert "the run goes to runs/s-2\n" in resumed.stderr


def test_a_place_for_runs_that_is_a_file_is_told_before_a_model_is_built(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    refused = mmsent("train", "--shards", "s", *TEXT, cwd=tmp_path)
    assert refused.returncode == 1
    assert "error: the folder of the run cannot be made: what should hold it is a file\n  file: " in refused.stderr
    assert "--out" in refused.stderr


def test_a_run_that_does_not_say_where_its_shards_are_wants_them_given(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert "there is no such run" in mmsent("evaluate", "--run", tmp_path / "nothing").stderr
    assert "this is no folder of a run" in mmsent("evaluate", "--run", tmp_path / "run").stderr
    (tmp_path / "run" / "best.safetensors").write_bytes(b"")
    refused = mmsent("evaluate", "--run", tmp_path / "run")
    assert refused.returncode == 1
    assert "does not say where its shards are" in refused.stderr
    assert "--shards" in refused.stderr
