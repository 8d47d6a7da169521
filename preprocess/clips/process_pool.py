"""Processes that work for this one, each with a pipe of its own, so that one of them may die at any moment.

A pool whose workers share pipes needs locks between processes. A worker killed while it holds one (by the system, say,
which does so where memory is short) stops all others; and the locks' names stay in /dev/shm when everything is killed.
"""

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess, parent_process
from typing import Any, TypeVar

from preprocess.errors import MachineError
from shards.errors import describe

__all__ = [
    "Death",
    "WorkerDiedError",
    "WorkerHungError",
    "Workers",
    "clip_timeout",
    "ending_in_words",
    "in_order",
    "keep_quiet",
    "machine_error",
    "outcome_of",
    "worker_context",
]

S = TypeVar("S")
T = TypeVar("T")

_AHEAD = 16
"""Clips in flight per worker: enough that the others go on while one decodes 4 minutes, and few enough that the results
waiting in the parent (0.6 MB each by default) never pile up."""

_UNKNOWN_EXIT_CODE = 255
"""What multiprocessing says of a worker whose server, which would know, was killed itself."""
_MOST_FAILED_STARTS = 5
"""Workers in a row that end before they can take a task: then no other one will do better."""


def worker_context(*, preload: list[str]) -> BaseContext:
    """Return how workers start: from a server that has imported `preload` once for all of them.

    A worker that replaces a dead one is there at once, and the server is a fresh process, so no thread of the parent
    is forked. Windows has none.
    """
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    return context


def keep_quiet() -> None:
    """Keep native decoders' chatter off the terminal: what matters comes back as an exception."""
    sys.stderr.flush()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    os.close(silent)


def ending_in_words(exit_code: int) -> str:
    """Say how a process ended: `SIGABRT` or `exit code 7`."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-exit_code}"


_LACKS = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC)
"""What a machine has none of any more; ENOSPC is what a full `/dev/shm` says."""


class WorkerDiedError(Exception):
    """The process of a task ended in it."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code

    @property
    def from_outside(self) -> bool:
        """Whether something else than the task may have ended it: a person, or the system for want of memory."""
        return self.exit_code in (-signal.SIGKILL, _UNKNOWN_EXIT_CODE)


class WorkerHungError(Exception):
    """A task took longer than it may, and its process was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The end of a worker in a clip."""

    reason: str
    timed_out: bool = False
    from_outside: bool = False
    """Perhaps not the decoder's own end: the system kills a process that fills the memory, or a person did."""


def clip_timeout(seconds: float, *, num_bytes: int) -> float:
    """Return the seconds that a clip may take: 10 more per megabyte. 5 minutes of footage decode in about 10 s."""
    return seconds + 10 * num_bytes / 1e6


def in_order(clips: Iterable[S], start: Callable[[S], T], *, num_workers: int) -> Generator[T]:
    """Start clip after clip, a few for each worker ahead of the one that is waited for, and give them back in order."""
    coming = iter(clips)
    waiting: deque[T] = deque()
    while True:
        waiting.extend(map(start, islice(coming, _AHEAD * num_workers - len(waiting))))
        if not waiting:
            return
        yield waiting.popleft()


def outcome_of(future: "Future[T]", *, timeout_seconds: float) -> T | Death:
    """Wait for what a worker makes of a clip, or for its end.

    Raises:
        MachineError: if workers cannot start, or one lacks memory, threads, or a library.
        Exception: whatever else the worker raised that is not about its clip: a bug, with its traceback.
    """
    try:
        return future.result()
    except MachineError:
        raise
    except (MemoryError, ImportError) as exc:
        raise machine_error(f"a worker process fails: {type(exc).__name__}: {exc}") from exc
    except (OSError, RuntimeError) as exc:
        if getattr(exc, "errno", None) not in _LACKS and "can't start new thread" not in str(exc):
            raise
        raise machine_error(f"a worker process fails: {exc}") from exc
    except WorkerHungError:
        return Death(reason=f"the decoder hung: killed after {timeout_seconds:.0f} s", timed_out=True)
    except WorkerDiedError as exc:
        reason = f"the decoder crashed: {ending_in_words(exc.exit_code)}"
        return Death(reason=reason, from_outside=exc.from_outside)


def machine_error(what: str) -> MachineError:
    """Return the error that ends a run whose machine is too small for it, with what to change."""
    then = (
        "run the same command again with fewer `--workers`, with memory free, or with higher limits (`ulimit -v`, "
        "`ulimit -u`, those of the container); what was made is kept, and nothing was recorded of the other clips"
    )
    return MachineError(describe(what, then=then))


class Workers:
    """So many processes; one that dies is replaced."""

    def __init__(self, num_workers: int, *, initializer: Callable[[], None], context: BaseContext) -> None:
        """Start the processes, each with `initializer`."""
        self._initializer = initializer
        self._context = context
        self._waiting: deque[_Task] = deque()
        self._workers: list[_Worker] = []
        self._num_workers = num_workers
        self._failed_starts = 0
        self._stopped = False
        self._broken: BaseException | None = None
        self._lock = threading.Lock()
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="workers", daemon=True)
        self._thread.start()

    def schedule(
        self, function: Callable[..., Any], *, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float
    ) -> "Future[Any]":
        """Queue a call.

        Args:
            function: Found by its name in the worker.
            args: Positional arguments of the call.
            kwargs: Positional arguments of the call.
            timeout: Seconds from the moment that a worker takes it.

        Returns:
            Its result, or what it raised, or `WorkerDiedError`, or `WorkerHungError`.
        """
        task = _Task((function, args, kwargs), timeout, Future())
        with self._lock:
            if self._broken is not None:
                task.future.set_exception(self._broken)
            else:
                self._waiting.append(task)
        os.write(self._wake, b"\0")
        return task.future

    def stop(self) -> None:
        """End the processes, whatever they are at."""
        self._stopped = True
        os.write(self._wake, b"\0")
        self._thread.join()
        os.close(self._woken)
        os.close(self._wake)

    def _run(self) -> None:
        try:
            while not self._stopped:
                while len(self._workers) < self._num_workers:
                    self._workers.append(self._start())
                self._hand_out()
                self._listen()
        except (OSError, RuntimeError, MemoryError) as exc:  # no process, no thread, no memory for one
            self._break(machine_error(f"a worker process cannot be started: {exc}"))
        except BaseException as exc:  # whoever waits for a result must not wait for ever
            self._break(exc)
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
                worker.connection.close()

    def _break(self, exc: BaseException) -> None:
        with self._lock:
            self._broken = exc
            tasks = [*self._waiting, *(worker.task for worker in self._workers if worker.task is not None)]
        for task in tasks:
            task.future.set_exception(exc)

    def _start(self) -> "_Worker":
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._initializer))  # type: ignore[attr-defined]
        process.start()
        theirs.close()  # it must be the worker's alone, so that its end is the end of what can be read
        return _Worker(process, ours)

    def _hand_out(self) -> None:
        for worker in self._workers:
            with self._lock:
                if not worker.ready or worker.task is not None or not self._waiting:
                    continue
                worker.task = self._waiting.popleft()
            worker.deadline = time.monotonic() + worker.task.timeout
            with contextlib.suppress(OSError):  # it is dead, which is seen next
                worker.connection.send(worker.task.call)

    def _listen(self) -> None:
        """Wait until something happens, and see to all that did."""
        deadlines = [worker.deadline for worker in self._workers if worker.task is not None]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        happened = wait([self._woken, *(worker.connection for worker in self._workers)], timeout)
        if self._woken in happened:
            os.read(self._woken, 2**16)
        for worker in list(self._workers):
            if worker.connection in happened:
                self._hear(worker)
            elif worker.task is not None and time.monotonic() >= worker.deadline:
                self._end(worker, WorkerHungError())

    def _hear(self, worker: "_Worker") -> None:
        """Take what a worker sends; the end of its pipe, also in the middle of a message, is its own end."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._end(worker, None)
            return
        task, worker.task = worker.task, None
        if task is None:
            worker.ready = True
            self._failed_starts = 0
            return
        done, value = message
        if done:
            task.future.set_result(value)
        else:
            task.future.set_exception(value)

    def _end(self, worker: "_Worker", why: Exception | None) -> None:
        """Part with a worker that hangs or is dead, and say so of its task."""
        self._workers.remove(worker)
        if why is not None:
            worker.process.kill()
        worker.process.join()
        worker.connection.close()
        exit_code = worker.process.exitcode or 0
        if worker.task is not None:
            worker.task.future.set_exception(why or WorkerDiedError(exit_code))
        elif not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == _MOST_FAILED_STARTS:
                ending = ending_in_words(exit_code)
                many = f"{_MOST_FAILED_STARTS} in a row ended before taking a clip ({ending})"
                raise machine_error(f"worker processes cannot start: {many}")


@dataclass(slots=True, eq=False)
class _Task:
    call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    timeout: float
    future: "Future[Any]"


@dataclass(slots=True, eq=False)
class _Worker:
    process: BaseProcess
    connection: "Connection[Any, Any]"
    ready: bool = False
    task: _Task | None = None
    deadline: float = 0.0


def _work(connection: "Connection[Any, Any]", initializer: Callable[[], None]) -> None:
    """Do what comes through a pipe until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent sees to its end
    threading.Thread(target=_end_with_the_parent, name="parent-watch", daemon=True).start()
    initializer()
    try:
        connection.send(None)
        while True:
            function, args, kwargs = connection.recv()
            try:
                answer = True, function(*args, **kwargs)
            except Exception as exc:
                exc.add_note(traceback.format_exc())
                answer = False, exc
            connection.send(answer)
    except (EOFError, OSError):
        pass  # whoever asked is gone


def _end_with_the_parent() -> None:
    """End this process when the one that uses it ends.

    A worker that waits for a call sees the end of its pipe; one that hangs in a decoder sees nothing.
    """
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
