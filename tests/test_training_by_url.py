"""Training and scoring by the real commands, from shards behind a URL and through kills, on samples made here."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmsent.runs.folder import checkpoint_paths
from tests.support.commands import in_shared_memory, left_alive, left_in_shared_memory, mmsent, start_mmsent
from tests.support.samples import make_sample, make_spec, write_split

SPEC = make_spec(num_frames=2, size=16, num_mels=8, num_hops=24)
SIZES = {"train": 24, "dev": 5, "test": 7}
TRAIN = ("--text-encoder", "scratch", "--modalities", "audio,text", "--batch-size", "4", "--precision", "fp32")
BLOCKS = ("--set", "train.order=block-shuffle", "--set", "train.shards_per_block=2", "--set", "train.num_readers=2")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    for name, size in SIZES.items():
        samples = [make_sample(number, spec=SPEC, split=name) for number in range(size)]
        write_split(root, samples, spec=SPEC, split=name, samples_per_shard=2)
    return root


def assert_same_run(got: Path, expected: Path) -> None:
    names = [path.relative_to(expected) for path in (*checkpoint_paths(expected), expected / "best.safetensors")]
    for name in names:
        ours, theirs = load_file(got / name), load_file(expected / name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("order", [BLOCKS, ("--set", "train.order=shuffle")], ids=["block-shuffle", "shuffle"])
def test_training_and_scoring_by_url_is_as_from_the_folder(
    shards: Path, tmp_path: Path, order: tuple[str, ...]
) -> None:
    cache = tmp_path / "cache"
    by_url = ("--shards", shards.as_uri(), "--cache", cache, "--cache-size", "0.001")
    for run, where in (("folder", ("--shards", shards)), ("url", by_url)):
        trained = mmsent("train", *where, "--out", tmp_path / run, *TRAIN, *order, "--epochs", "2")
        assert trained.returncode == 0, trained.stderr
        scored = mmsent("evaluate", *where, "--run", tmp_path / run, "--split", "test")
        assert scored.returncode == 0, scored.stderr
    assert_same_run(tmp_path / "url", tmp_path / "folder")
    evaluations = [tmp_path / run / "evaluation-test" for run in ("folder", "url")]
    for name in ("predictions.csv", "metrics.json"):
        first, second = ((evaluation / name).read_bytes() for evaluation in evaluations)
        assert first == second
    assert 0 < sum(path.stat().st_size for path in cache.iterdir()) <= 1_000_000
    assert not list(cache.glob("*.part"))


@pytest.mark.slow
def test_a_cache_that_is_too_small_says_how_large_it_must_be(shards: Path, tmp_path: Path) -> None:
    by_url = ("train", "--shards", shards.as_uri(), "--cache", tmp_path / "cache", *TRAIN, "--epochs", "1")
    refused = mmsent(*by_url, "--out", tmp_path / "run", "--cache-size", "0.00003")
    assert refused.returncode == 1
    assert "--cache-size 0.001" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert mmsent(*by_url, "--out", tmp_path / "run", "--cache-size", "0.001").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_run_killed_within_an_epoch_of_blocks_and_resumed_ends_as_one_never_killed(
    shards: Path, tmp_path: Path, scheme: str
) -> None:
    arguments: tuple[str | Path, ...] = ("train", "--shards", f"{scheme}{shards}", *TRAIN, *BLOCKS)
    arguments = (*arguments, "--epochs", "3", "--set", "train.checkpoint_steps=2")
    if scheme:
        arguments = (*arguments, "--cache", tmp_path / "cache", "--cache-size", "0.001")
    whole = mmsent(*arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    before = in_shared_memory()
    killed = tmp_path / "killed"
    process = start_mmsent(*arguments, "--out", killed)
    while len(checkpoint_paths(killed)) < 2:  # after two and four of the first epoch's six steps
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert left_alive(process.pid) == []
    assert left_in_shared_memory(before) == set()
    assert not (killed / "history.json").exists()
    resumed = mmsent(*arguments, "--out", killed, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(killed, tmp_path / "whole")
    assert not list(killed.glob("*.tmp"))
    if scheme:
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 1_000_000
        assert not list((tmp_path / "cache").glob("*.part"))


@pytest.mark.slow
def test_ctrl_c_ends_training_by_url_and_leaves_nothing(shards: Path, tmp_path: Path) -> None:
    before = in_shared_memory()
    by_url = ("--shards", shards.as_uri(), "--cache", tmp_path / "cache", "--cache-size", "0.001")
    process = start_mmsent("train", *by_url, "--out", tmp_path / "run", *TRAIN, *BLOCKS, "--epochs", "1000")
    while not (tmp_path / "run" / "history.json").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode != 0
    assert "Traceback" not in said
    assert left_alive(process.pid) == []
    assert left_in_shared_memory(before) == set()


@pytest.mark.parametrize("command", [("train", "--out"), ("evaluate", "--run")], ids=["train", "evaluate"])
@pytest.mark.parametrize(
    ("location", "options", "said"),
    [
        ("here", ("--cache", "c"), "for --shards with a URL"),
        ("here", ("--cache-size", "1"), "for --shards with a URL"),
        ("file:///here", ("--cache-size", "0"), "must be above 0"),
        ("file:///here", ("--cache-size", "nan"), "must be above 0"),
    ],
)
def test_a_cache_that_makes_no_sense_is_wrong_usage_and_nothing_is_made(
    command: tuple[str, str], location: str, options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from cli import app

    name, out = command
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("COLUMNS", "200")
        result = CliRunner().invoke(app, [name, "--shards", location, out, "run", *options])
    assert result.exit_code == 2
    assert said in result.output
    assert list(tmp_path.iterdir()) == []
