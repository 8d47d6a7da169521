"""Several processes over Gloo, as torchrun starts them on machines without a GPU."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmsent.compute.distributed import ALONE, World, world_from_environment
from mmsent.errors import TrainingError
from mmsent.runs.checkpoint import checkpoint_to_resume
from mmsent.runs.folder import checkpoint_paths
from tests.mmsent.training.test_start import assert_same_run
from tests.support.commands import COMMAND, left_alive
from tests.support.encoders import save_bert
from tests.support.samples import make_sample, make_spec, write_split
from tests.support.warm_start import ROOT, environment, start_python

SPEC = make_spec(num_frames=8, size=32)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 samples: batches of 4 leave one for a step, of which the second of two ranks has none."""
    root = tmp_path_factory.mktemp("shards")
    for split, count in (("train", 13), ("dev", 5)):
        absent = {1: ("video", "audio"), 2: ("audio",), 3: ("video",)}
        samples = [make_sample(i, spec=SPEC, split=split, absent=absent.get(i, ())) for i in range(count)]
        write_split(root, samples, spec=SPEC, split=split)
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without dropout, for the tokens of the samples."""
    return save_bert(tmp_path_factory.mktemp("encoder") / "scratch")


def start_ranks(size: int, *arguments: object, command: tuple[str, ...] = ()) -> list["subprocess.Popen[str]"]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*(command or (sys.executable, "-m", "tests.support.ranks"))[1:], *map(str, arguments)]
    common = {**environment(), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start_python(
            *words,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)},
            cwd=ROOT,
            new_session=True,
            fresh="torch.distributed.run" in words,
        )
        for rank in range(size)
    ]


def losses_of(ranks: list["subprocess.Popen[str]"]) -> dict[str, Any]:
    outputs = [process.communicate(timeout=300) for process in ranks]
    assert [process.returncode for process in ranks] == [0] * len(ranks), outputs
    assert [out for out, _ in outputs[1:]] == [""] * (len(ranks) - 1)
    return dict(json.loads(outputs[0][0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "batch_size", "modalities"), [(2, 4, "audio,text"), (3, 5, "audio,text"), (2, 4, "text")]
)
def test_several_processes_have_the_losses_of_one(
    shards: Path, encoder: Path, tmp_path: Path, size: int, batch_size: int, modalities: str
) -> None:
    alone = losses_of(start_ranks(1, shards, tmp_path / "one", encoder, modalities, batch_size))
    together = losses_of(start_ranks(size, shards, tmp_path / "many", encoder, modalities, batch_size))
    assert len(alone["steps"]) == 3 * -(-13 // batch_size)
    assert together["steps"] == pytest.approx(alone["steps"], rel=1e-5)
    assert together["dev"] == pytest.approx(alone["dev"], rel=1e-5)
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


@pytest.mark.slow
def test_a_batch_of_which_a_rank_has_no_clip_and_no_sample_hangs_nobody(
    shards: Path, encoder: Path, tmp_path: Path
) -> None:
    assert len(losses_of(start_ranks(2, shards, tmp_path / "run", encoder, "video,audio,text", 4))["dev"]) == 3


@pytest.mark.slow
def test_ranks_of_which_now_one_and_now_the_other_has_a_clip_exchange_in_one_order(
    encoder: Path, tmp_path: Path
) -> None:
    """Gradients of an idle video network came before the sums of audio's batch normalisation, others after them."""
    for split, count in (("train", 16), ("dev", 4)):
        samples = [make_sample(i, spec=SPEC, split=split, absent=("video",) * (i % 2)) for i in range(count)]
        write_split(tmp_path / "half", samples, spec=SPEC, split=split)
    ranks = start_ranks(2, tmp_path / "half", tmp_path / "run", encoder, "video,audio,text", 2)
    assert len(losses_of(ranks)["dev"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_the_other_with_a_message_and_the_run_goes_on(
    shards: Path, encoder: Path, tmp_path: Path, killed: int
) -> None:
    def start(run: Path, epochs: int) -> list["subprocess.Popen[str]"]:
        options = ("--modalities", "audio,text", "--batch-size", "2", "--precision", "fp32", "--epochs", epochs)
        train = ("train", "--shards", shards, "--out", run, "--text-encoder", encoder, *options, "--resume")
        return start_ranks(2, *train, command=COMMAND)

    run = tmp_path / "run"
    ranks = start(run, 100_000)
    while not checkpoint_paths(run):
        assert [process.poll() for process in ranks] == [None, None]
        time.sleep(0.01)
    os.killpg(ranks[killed].pid, signal.SIGKILL)
    _, said = ranks[1 - killed].communicate(timeout=60)
    assert ranks[1 - killed].returncode == 1
    assert "another process of the run ended" in said
    assert "Traceback" not in said
    ranks[killed].communicate()
    assert [left_alive(process.pid) for process in ranks] == [[], []]
    last = checkpoint_to_resume(run, resume=True)
    assert last is not None
    epochs = len(last.history) + 1
    for folder in (run, tmp_path / "never-killed"):
        again = start(folder, epochs)
        said_of_each = [process.communicate(timeout=300) for process in again]
        assert [process.returncode for process in again] == [0, 0], said_of_each
    assert_same_run(tmp_path / "never-killed", run)


@pytest.mark.slow
def test_under_torchrun_a_signal_saves_and_the_run_goes_on(shards: Path, encoder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", *COMMAND)
    train = ("train", "--shards", shards, "--out", run, "--text-encoder", encoder, "--modalities", "audio,text")
    options = ("--batch-size", "2", "--precision", "fp32", "--set", "train.checkpoint_steps=100000")
    [launcher] = start_ranks(1, *train, *options, "--epochs", "100000", command=command)
    while not (run / "history.json").exists():
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.01)
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert "SIGTERM: saving" in said
    assert left_alive(launcher.pid) == []
    steps = [int(path.stem.partition("-")[2]) for path in checkpoint_paths(run)]
    epochs = len(json.loads((run / "history.json").read_text()))
    [launcher] = start_ranks(1, *train, *options, "--epochs", str(epochs + 1), "--resume", command=command)
    _, said = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, said
    assert checkpoint_paths(run)[-1].name == f"step-{7 * (epochs + 1):08d}.safetensors"
    assert steps[-1] >= 7 * epochs


def test_a_process_that_is_told_only_half_of_its_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        world_from_environment()


def test_processes_of_srun_that_know_nothing_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(TrainingError, match="srun started 8 processes"):
        world_from_environment()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert world_from_environment() == ALONE


def test_a_single_process_of_a_launcher_knows_that_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert world_from_environment() == World(launched=True)  # so that a signal it is sent twice is one
