"""Training by the real command, killed and signalled at any moment: what is resumed ends as what was never stopped."""

import fcntl
import os
import pty
import random
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmsent.runs.folder import checkpoint_paths
from tests.support.commands import COMMAND, environment, left_alive, mmsent, start_mmsent
from tests.support.samples import make_sample, make_spec, write_split

SMALL = make_spec(num_frames=2, size=16, num_mels=8, num_hops=24)
LARGE = make_spec(num_frames=16, size=112)
OPTIONS = ("--text-encoder", "scratch", "--video-weights", "none", "--precision", "fp32")


def write_shards(root: Path, spec: object, *, sizes: dict[str, int]) -> Path:
    for name, size in sizes.items():
        samples = [make_sample(number, spec=spec, split=name) for number in range(size)]  # type: ignore[arg-type]
        write_split(root, samples, spec=spec, split=name)  # type: ignore[arg-type]
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("small"), SMALL, sizes={"train": 40, "dev": 30})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of which a step takes many seconds, in one call of native code."""
    return write_shards(tmp_path_factory.mktemp("large"), LARGE, sizes={"train": 16, "dev": 2})


def assert_same_run(got: Path, expected: Path) -> None:
    last = (checkpoint_paths(got)[-1], checkpoint_paths(expected)[-1])
    for paths in (last, (got / "best.safetensors", expected / "best.safetensors")):
        ours, theirs = map(load_file, paths)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("num_signals", [4, pytest.param(8, marks=pytest.mark.exhaustive)])
def test_a_run_killed_and_signalled_again_and_again_ends_as_one_never_stopped(
    small: Path, tmp_path: Path, num_signals: int
) -> None:
    options = (*OPTIONS, "--modalities", "audio,text", "--batch-size", "1")
    arguments = (
        "train",
        "--shards",
        small,
        *options,
        "--epochs",
        "12",
        "--set",
        "train.checkpoint_steps=7",
        "--set",
        "train.ema_decay=0.99",
        "--set",
        "train.early_stopping_patience=99",
    )
    whole = mmsent(*arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    rng = random.Random(5)
    run = tmp_path / "killed"
    num_stopped = 0
    for number in range(num_signals):
        process = start_mmsent(*arguments, "--out", run, "--resume")
        while process.poll() is None and len(list(run.glob("tensorboard/*"))) <= number:
            time.sleep(0.002)  # until it trains
        time.sleep(rng.uniform(0, 0.5))  # in the first batch, a step, a save, an evaluation
        signum = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)[number % 5]
        process.send_signal(signum)
        said, _ = process.communicate(timeout=30)
        assert process.returncode in (0, -signum if signum == signal.SIGKILL else 128 + signum), said
        assert "Traceback" not in said
        assert left_alive(process.pid) == []
        num_stopped += process.returncode != 0
    assert num_stopped > num_signals / 3
    last = mmsent(*arguments, "--out", run, "--resume")
    assert last.returncode == 0, last.stderr
    assert_same_run(run, tmp_path / "whole")
    assert not list(run.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_long_first_step_saves_within_seconds(
    large: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = start_mmsent("train", "--shards", large, *OPTIONS, "--batch-size", "16", "--out", run, "--epochs", "1")
    while not (run / "run.json").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    time.sleep(2)  # the step has begun
    began = time.monotonic()
    process.send_signal(signum)
    said, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert process.returncode == 128 + signum
    assert "--resume" in said
    assert [path.name for path in checkpoint_paths(run)] == ["step-00000000.safetensors"]
    assert left_alive(process.pid) == []


@pytest.mark.slow
def test_a_terminal_that_is_closed_costs_no_step(large: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    run = tmp_path / "run"
    arguments = ("train", "--shards", large, *OPTIONS, "--batch-size", "16", "--out", run, "--epochs", "1")
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(),
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    while not (run / "run.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(2)
    os.close(ours)  # the kernel sends SIGHUP, and whatever is printed from now on fails
    assert process.wait(timeout=60) != 0
    assert [path.name for path in checkpoint_paths(run)] == ["step-00000000.safetensors"]
    assert left_alive(process.pid) == []


@pytest.mark.slow
def test_a_second_ctrl_c_quits_at_once(large: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_mmsent("train", "--shards", large, *OPTIONS, "--batch-size", "16", "--out", run, "--epochs", "1")
    while not (run / "run.json").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert time.monotonic() - began < 2
    assert process.returncode == 128 + signal.SIGINT


@pytest.mark.slow
def test_a_signal_while_the_encoders_are_compiled_saves_within_seconds(large: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (*OPTIONS, "--batch-size", "2", "--epochs", "1", "--set", "train.compile=true")
    process = start_mmsent("train", "--shards", large, *options, "--out", run)
    while not (run / "run.json").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    time.sleep(8)  # compiling r3d_18 takes minutes
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert process.returncode == 128 + signal.SIGTERM, said
    assert [path.name for path in checkpoint_paths(run)] == ["step-00000000.safetensors"]
    assert left_alive(process.pid) == []
