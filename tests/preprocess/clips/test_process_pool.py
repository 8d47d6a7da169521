import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocess.clips.extract_all import _context
from preprocess.clips.process_pool import (
    _AHEAD,
    WorkerDiedError,
    WorkerHungError,
    Workers,
    clip_timeout,
    ending_in_words,
    in_order,
    keep_quiet,
)
from preprocess.errors import MachineError
from tests.support.commands import environment

CONTEXT = _context()  # that of the clips: all contexts share one server, and what it has imported


# These run in workers, so they stand at the top of the file.


def double(number: int) -> int:
    return 2 * number


def process_number() -> int:
    return os.getpid()


def server_number() -> int:
    return os.getppid()


def large(number: int) -> bytes:
    return bytes([number]) * 5_000_000


def fail() -> None:
    raise ValueError("a reason")


def sleep_with_note(path: str) -> None:
    Path(path).write_text(str(os.getpid()), "ascii")
    time.sleep(60)


def refuse_to_start() -> None:
    os._exit(9)


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(2, initializer=keep_quiet, context=CONTEXT)
    yield workers
    workers.stop()


def test_results_belong_to_their_calls_whatever_the_order_of_the_work(workers: Workers) -> None:
    futures = [workers.schedule(double, args=(number,), kwargs={}, timeout=30) for number in range(50)]
    assert [future.result() for future in futures] == [2 * number for number in range(50)]


def test_large_results_come_whole(workers: Workers) -> None:
    futures = [workers.schedule(large, args=(number,), kwargs={}, timeout=30) for number in range(6)]
    assert [future.result() == bytes([number]) * 5_000_000 for number, future in enumerate(futures)] == [True] * 6


def test_an_error_is_raised_with_where_it_happened(workers: Workers) -> None:
    future = workers.schedule(fail, args=(), kwargs={}, timeout=30)
    with pytest.raises(ValueError, match="a reason") as caught:
        future.result()
    assert "in fail" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_killed_at_work_costs_its_call_alone(workers: Workers, tmp_path: Path, number: signal.Signals) -> None:
    doomed = workers.schedule(sleep_with_note, args=(str(tmp_path / "pid"),), kwargs={}, timeout=30)
    others = [workers.schedule(double, args=(number,), kwargs={}, timeout=30) for number in range(10)]
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text("ascii"):
        time.sleep(0.01)
    os.kill(int((tmp_path / "pid").read_text("ascii")), number)
    with pytest.raises(WorkerDiedError) as caught:
        doomed.result()
    assert caught.value.exit_code == -number
    assert [future.result() for future in others] == [2 * number for number in range(10)]


def test_a_worker_of_a_server_that_was_killed_may_have_been_killed_too(workers: Workers, tmp_path: Path) -> None:
    """Nobody is left who knows how it ended, so that its clip is not to blame; the next worker has a new server."""
    server = workers.schedule(server_number, args=(), kwargs={}, timeout=30).result()
    doomed = workers.schedule(sleep_with_note, args=(str(tmp_path / "pid"),), kwargs={}, timeout=30)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text("ascii"):
        time.sleep(0.01)
    os.kill(server, signal.SIGKILL)
    time.sleep(0.2)
    os.kill(int((tmp_path / "pid").read_text("ascii")), signal.SIGSEGV)
    with pytest.raises(WorkerDiedError) as caught:
        doomed.result()
    assert caught.value.from_outside
    assert workers.schedule(double, args=(4,), kwargs={}, timeout=30).result() == 8


@pytest.mark.parametrize(("exit_code", "expected"), [(-signal.SIGKILL, True), (-signal.SIGSEGV, False), (7, False)])
def test_only_what_the_system_or_a_person_does_comes_from_outside(exit_code: int, expected: bool) -> None:
    assert WorkerDiedError(exit_code).from_outside == expected


def test_workers_killed_while_they_wait_are_replaced(workers: Workers) -> None:
    numbers = {workers.schedule(process_number, args=(), kwargs={}, timeout=30).result() for _ in range(20)}
    for number in numbers:
        os.kill(number, signal.SIGKILL)
    time.sleep(0.2)
    after = {workers.schedule(process_number, args=(), kwargs={}, timeout=30).result() for _ in range(20)}
    assert not numbers & after


def test_a_call_that_takes_too_long_is_given_up_and_its_process_ended(workers: Workers, tmp_path: Path) -> None:
    future = workers.schedule(sleep_with_note, args=(str(tmp_path / "pid"),), kwargs={}, timeout=1)
    with pytest.raises(WorkerHungError):
        future.result()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text("ascii")), 0)
    assert workers.schedule(double, args=(4,), kwargs={}, timeout=30).result() == 8


def test_workers_that_cannot_start_are_an_error_and_no_endless_wait() -> None:
    workers = Workers(1, initializer=refuse_to_start, context=CONTEXT)
    future = workers.schedule(double, args=(1,), kwargs={}, timeout=30)
    with pytest.raises(MachineError, match="worker processes cannot start: 5 in a row"):
        future.result(timeout=60)
    with pytest.raises(MachineError):
        workers.schedule(double, args=(1,), kwargs={}, timeout=30).result(timeout=60)
    workers.stop()


def test_stopping_ends_processes_and_thread_whatever_they_are_at(tmp_path: Path) -> None:
    workers = Workers(1, initializer=keep_quiet, context=CONTEXT)
    workers.schedule(sleep_with_note, args=(str(tmp_path / "pid"),), kwargs={}, timeout=60)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text("ascii"):
        time.sleep(0.01)
    workers.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text("ascii")), 0)
    assert "workers" not in {thread.name for thread in threading.enumerate()}


def test_an_ending_is_said_in_words() -> None:
    assert [ending_in_words(code) for code in (7, -6, -9, -40)] == ["exit code 7", "SIGABRT", "SIGKILL", "signal 40"]


RUN_AND_WAIT = """
import sys, time
from preprocess.clips.process_pool import Workers, keep_quiet, worker_context
from tests.preprocess.clips.test_process_pool import sleep_with_note
if __name__ == "__main__":
    workers = Workers(1, initializer=keep_quiet, context=worker_context(preload=["preprocess.clips.process_pool"]))
    workers.schedule(sleep_with_note, args=(sys.argv[1],), kwargs={}, timeout=60)
    time.sleep(60)
"""


def test_a_worker_that_hangs_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RUN_AND_WAIT, "utf-8")
    with subprocess.Popen([sys.executable, script, tmp_path / "pid"], env=environment()) as process:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text("ascii"):
            time.sleep(0.01)
        process.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{(tmp_path / 'pid').read_text('ascii')}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text('ascii')}").exists()


def test_clips_are_started_a_few_ahead_and_come_back_in_order() -> None:
    started: list[int] = []

    def start(number: int) -> int:
        started.append(number)
        return -number

    clips = in_order(range(100), start, num_workers=2)
    assert (next(clips), len(started)) == (0, 2 * _AHEAD)
    assert (next(clips), len(started)) == (-1, 2 * _AHEAD + 1)
    assert list(clips) == [-number for number in range(2, 100)]


def test_no_clips_are_no_work() -> None:
    assert list(in_order([], abs, num_workers=1)) == []


def test_a_larger_clip_has_more_time() -> None:
    assert clip_timeout(60.0, num_bytes=3_000_000) == 90.0
