import os
import signal
import threading
import time
from pathlib import Path

import pytest

from preprocess.pipe_lock import PipeLock
from preprocess.pool import _context

CONTEXT = _context()  # that of the pool: all contexts share one server, and its imports


def count_up(lock: PipeLock, path: str, times: int) -> None:
    for _ in range(times):
        assert lock.acquire(timeout=30)
        number = int(Path(path).read_text("ascii"))
        time.sleep(0.001)
        Path(path).write_text(str(number + 1), "ascii")
        lock.release()


def hold(lock: PipeLock, path: str) -> None:
    lock.acquire()
    Path(path).write_text("held", "ascii")
    time.sleep(60)


def test_one_process_at_a_time_has_it(tmp_path: Path) -> None:
    lock, path = CONTEXT.RLock(), tmp_path / "number"
    path.write_text("0", "ascii")
    processes = [CONTEXT.Process(target=count_up, args=(lock, str(path), 40)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert path.read_text("ascii") == "120"


def test_a_thread_may_take_it_again_and_another_may_not() -> None:
    lock = CONTEXT.RLock()
    assert lock.acquire()
    assert lock.acquire(block=False)
    got: list[bool] = []

    def other() -> None:
        got.append(lock.acquire(timeout=0.05))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    lock.release()
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert got == [False, False]
    lock.release()
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert got[-1]


def test_waiting_ends_with_its_time() -> None:
    lock = CONTEXT.RLock()
    lock.acquire()
    got: list[tuple[bool, float]] = []

    def other() -> None:
        start = time.monotonic()
        got.append((lock.acquire(timeout=0.2), time.monotonic() - start))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    [(taken, seconds)] = got
    assert not taken
    assert seconds >= 0.2


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="looks into /dev/shm")
def test_it_leaves_nothing_in_dev_shm(tmp_path: Path) -> None:
    before = set(Path("/dev/shm").iterdir())
    lock = CONTEXT.RLock()
    process = CONTEXT.Process(target=hold, args=(lock, str(tmp_path / "held")))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    ours = {path for path in set(Path("/dev/shm").iterdir()) - before if path.stat().st_uid == os.getuid()}
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert not [path for path in ours if _is_mapped(path)]


def _is_mapped(path: Path) -> bool:
    """Whether this process has the file; other programs may have made files of their own meanwhile."""
    return str(path) in Path("/proc/self/maps").read_text("utf-8")
