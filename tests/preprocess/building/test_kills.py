"""`mmsent preprocess` killed at any moment, in whole or in part: the bytes are those of a run that nobody disturbed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from shards.reading.split import Split, read_split
from tests.support.clips import clip_path, index_pictures, make_rows, write_clip, write_csv, write_numbered_clip
from tests.support.commands import (
    digests_of,
    in_shared_memory,
    left_alive,
    left_in_shared_memory,
    mmsent,
    start_mmsent,
    workers_of,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc"),
]

NUM_ROWS = {"train": 240, "dev": 12}
NUM_CLIPS = 8
SAMPLES_PER_SHARD = 6
KILLS_PER_FOLDER = 4


def preprocess(meld: Path, out: Path, *, workers: int = 2, timeout_seconds: float = 60) -> list[str | Path]:
    options = ["--text-encoder", "scratch", "--frames", "4", "--size", "32x32", "--set", "preprocess.num_hops=24"]
    options += [
        "--set",
        f"preprocess.samples_per_shard={SAMPLES_PER_SHARD}",
        "--set",
        f"preprocess.clip_timeout_seconds={timeout_seconds}",
    ]
    return [
        "preprocess",
        meld,
        "--out",
        out,
        "--set",
        "preprocess.max_failed_fraction=1",
        "--workers",
        str(workers),
        *options,
    ]


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A data set and a run over it that nobody killed."""

    meld: Path
    out: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Many rows of few different clips: they are made fast, and the run has long to go through many shards."""
    folder = tmp_path_factory.mktemp("whole")
    clips = [write_numbered_clip(folder / f"{number}.mp4", number) for number in range(NUM_CLIPS)]
    for split, num_rows in NUM_ROWS.items():
        rows = make_rows(num_rows)
        write_csv(folder / "meld" / f"{split}_sent_emo.csv", rows)
        for number, row in enumerate(rows):
            path = clip_path(folder / "meld", split, row)
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(clips[number % NUM_CLIPS], path)
    done = mmsent(*preprocess(folder / "meld", folder / "out"))
    assert done.returncode == 0, done.stderr
    return Undisturbed(folder / "meld", folder / "out")


def finish(meld: Path, out: Path) -> None:
    done = mmsent(*preprocess(meld, out), timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(out.rglob("*.tmp")) == []


@contextmanager
def running(
    meld: Path, out: Path, *, timeout_seconds: float = 60, fresh: bool = False
) -> Iterator["subprocess.Popen[str]"]:
    """Start a run, and see to it that nothing of it outlives the block."""
    process = start_mmsent(*preprocess(meld, out, timeout_seconds=timeout_seconds), fresh=fresh)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        left_alive(process.pid)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait for a moment of a run, which must come before its end."""
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)


def num_shards(out: Path) -> int:
    return len(list(out.glob("*/*.tar")))


def assert_indices_are_true(out: Path, whole: Path) -> None:
    """Check that a split that says it is finished is."""
    for path in out.glob("*/index.json"):
        assert len(Split(path.parent)) == len(Split(whole / path.parent.name))


# All of it at once.


@pytest.mark.parametrize("num_folders", [2, pytest.param(5, marks=pytest.mark.exhaustive)])
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes_and_leaves_nothing(
    whole: Undisturbed, tmp_path: Path, num_folders: int
) -> None:
    """Each folder is killed some times, then finished. A moment is so many shards and a little later, or start-up:
    measured by the clock, all moments would lie behind the end on a machine that has less to do than a while ago."""
    rng = np.random.default_rng(0)
    stages = []
    for folder in range(num_folders):
        out = tmp_path / str(folder)
        for shards in (0, *sorted(rng.choice(range(1, num_shards(whole.out)), KILLS_PER_FOLDER - 1, False).tolist())):
            with running(whole.meld, out, fresh=shards == 0) as process:
                while num_shards(out) < shards and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.2 if shards else 2))
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                assert left_alive(process.pid) == []
            stages.append((shards, process.returncode, num_shards(out)))
            assert_indices_are_true(out, whole.out)
        finish(whole.meld, out)
        assert digests_of(out) == digests_of(whole.out), stages
    killed = [stage for stage in stages if stage[1] == -signal.SIGKILL]
    assert len(killed) > num_folders * KILLS_PER_FOLDER / 2, stages
    assert len({shards for _, _, shards in killed}) > 2, stages  # before the first shard, and among them


def test_a_run_killed_as_a_whole_leaves_nothing_in_shared_memory(whole: Undisturbed, tmp_path: Path) -> None:
    """Nothing of the run is left to tidy up, so there must be nothing to tidy up."""
    before = in_shared_memory()
    with running(whole.meld, tmp_path / "out") as process:
        wait_for(lambda: num_shards(tmp_path / "out") > 2, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert left_in_shared_memory(before) == set()


def test_an_interrupted_run_says_so_by_its_exit_code_and_can_be_repeated(whole: Undisturbed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = in_shared_memory()
    with running(whole.meld, out) as process:
        wait_for(lambda: num_shards(out) > 2, process)
        os.killpg(process.pid, signal.SIGINT)  # what the terminal does on Ctrl-C: every process of the group has it
        output, _ = process.communicate(timeout=30)
        assert left_alive(process.pid) == []
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert list(out.rglob("*.tmp")) == []
    assert left_in_shared_memory(before) == set()
    assert 2 < num_shards(out) < num_shards(whole.out)
    assert_indices_are_true(out, whole.out)
    finish(whole.meld, out)
    assert digests_of(out) == digests_of(whole.out)


def test_a_run_interrupted_before_it_has_workers_ends_as_quietly(whole: Undisturbed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with running(whole.meld, out, fresh=True) as process:
        wait_for((out / "preprocess.json").exists, process)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert left_alive(process.pid) == []
    assert process.returncode == 130, output
    assert "Traceback" not in output
    finish(whole.meld, out)
    assert digests_of(out) == digests_of(whole.out)


# A part of it.


@pytest.mark.parametrize("with_a_worker", [False, True])
def test_workers_end_with_the_process_that_made_them(whole: Undisturbed, tmp_path: Path, with_a_worker: bool) -> None:
    out = tmp_path / "out"
    with running(whole.meld, out) as process:
        wait_for(lambda: num_shards(out) > 2, process)
        if with_a_worker:
            os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        process.kill()
        process.wait()
        assert left_alive(process.pid) == []
    finish(whole.meld, out)
    assert digests_of(out) == digests_of(whole.out)


@pytest.mark.parametrize(
    "shards_before", [0, 20, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (5, 10, 35))]
)
def test_a_worker_killed_from_outside_costs_nothing(whole: Undisturbed, tmp_path: Path, shards_before: int) -> None:
    """The system does it where memory is short. Whatever the worker was at, the row is made as if nothing had been."""
    out = tmp_path / "out"
    with running(whole.meld, out) as process:
        wait_for(lambda: num_shards(out) >= shards_before and bool(workers_of(process.pid)), process)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert digests_of(out) == digests_of(whole.out), output


def test_workers_killed_one_after_the_other_cost_nothing_after_the_next_run(whole: Undisturbed, tmp_path: Path) -> None:
    """A clip that was found in one killed worker after the other is given up; the next run tries it again."""
    out = tmp_path / "out"
    killed: set[int] = set()
    with running(whole.meld, out) as process:
        while process.poll() is None and len(killed) < 10:
            for worker in set(workers_of(process.pid)) - killed:
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)
                break
            time.sleep(0.15)
        output, _ = process.communicate(timeout=180)
    assert len(killed) > 3
    assert process.returncode == 0, output
    finish(whole.meld, out)
    assert digests_of(out) == digests_of(whole.out), output


# A worker at a known place: in the middle of one clip, or of handing over what it found.


@pytest.fixture(scope="module")
def slow_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 12 rows in two shards; the clip of row 4 takes a decoder long enough to be caught at it."""
    meld = tmp_path_factory.mktemp("slow") / "meld"
    rows = make_rows(2 * SAMPLES_PER_SHARD)
    write_csv(meld / "train_sent_emo.csv", rows)
    for number, row in enumerate(rows):
        path = write_numbered_clip(clip_path(meld, "train", row), number)
        if number == SLOW_ROW:
            pictures = np.repeat(index_pictures(32, height=720, width=1280), 4, axis=0)
            write_clip(path, pictures=pictures)
    return meld


SLOW_ROW = 4


@contextmanager
def sending(sent: signal.Signals, process: "subprocess.Popen[str]", clip: Path, *, times: int) -> Iterator[list[int]]:
    """Send a signal to every worker that is found with a clip open, so many at most; gives their numbers."""
    found: list[int] = []
    end = threading.Event()

    def watch() -> None:
        while not end.is_set() and len(found) < times:
            for pid in workers_of(process.pid):
                if pid not in found and has_open(pid, clip):
                    with contextlib.suppress(ProcessLookupError):  # it ended while we looked
                        os.kill(pid, sent)
                    found.append(pid)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        end.set()
        watcher.join()


def has_open(pid: int, path: Path) -> bool:
    try:
        return any(link.readlink() == path for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # it ended, or closed a file, while we looked


def run_with(sent: signal.Signals, meld: Path, out: Path, *, times: int) -> tuple[int, list[int]]:
    """Run, with a signal to the workers at the slow clip; return shards made, and the workers that had it."""
    clip = clip_path(meld, "train", make_rows(SLOW_ROW + 1)[SLOW_ROW])
    with (
        running(meld, out, timeout_seconds=2) as process,
        sending(sent, process, clip, times=times) as found,
    ):
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return json.loads((out / "report.json").read_bytes())["splits"]["train"]["num_shards_made"], found


@pytest.mark.parametrize("times", [1, 3])
def test_workers_killed_in_the_middle_of_the_same_clip_cost_nothing(
    slow_clip: Path, tmp_path: Path, times: int
) -> None:
    finish(slow_clip, tmp_path / "whole")
    _, found = run_with(signal.SIGKILL, slow_clip, tmp_path / "out", times=times)
    assert len(found) == times
    assert digests_of(tmp_path / "out") == digests_of(tmp_path / "whole")


def test_a_clip_killed_for_want_of_time_is_tried_again_by_the_next_run_and_no_other(
    slow_clip: Path, tmp_path: Path
) -> None:
    """A stopped decoder looks like one that hangs: one by one, all that are tried on the clip are stopped."""
    finish(slow_clip, tmp_path / "whole")
    out = tmp_path / "out"
    made, found = run_with(signal.SIGSTOP, slow_clip, out, times=9)
    assert made == 2
    assert found
    presence = [sample.meta.presence["video"] for sample in read_split(out / "train")]
    assert [number for number, one in enumerate(presence) if not one.present] == [SLOW_ROW]
    assert "killed after" in presence[SLOW_ROW].reason
    made, _ = run_with(signal.SIGSTOP, slow_clip, out, times=9)
    assert made == 1
    finish(slow_clip, out)
    assert json.loads((out / "report.json").read_bytes())["splits"]["train"]["num_shards_made"] == 1
    assert digests_of(out) == digests_of(tmp_path / "whole")


def test_a_worker_killed_while_it_hands_over_what_it_found_costs_nothing(whole: Undisturbed, tmp_path: Path) -> None:
    """While the run itself stands still, its workers fill what lies between; then one of them is killed at it."""
    out, calm = tmp_path / "out", tmp_path / "calm"
    options = ["--size", "224x224"]  # results larger than what a pipe holds
    done = mmsent(*preprocess(whole.meld, calm), *options)
    assert done.returncode == 0, done.stderr
    process = start_mmsent(*preprocess(whole.meld, out), *options)
    try:
        wait_for(lambda: num_shards(out) > 2, process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=180)
    finally:
        process.kill()
        left_alive(process.pid)
    assert process.returncode == 0, output
    assert digests_of(out) == digests_of(calm), output
