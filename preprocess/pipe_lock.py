"""A lock between processes that leaves nothing behind, however they end."""

import os
import select
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

__all__ = ["PipeLock", "TracelessContext"]


class PipeLock:
    """A byte in a pipe: whoever has read it has the lock, and writes it back.

    The locks of `multiprocessing` are named semaphores where processes do not fork from the one that made them: files
    in /dev/shm, which stay there when all processes are killed at once. A pipe goes with the last process that has it.

    The same thread may acquire it again, as with `multiprocessing.RLock`.
    """

    def __init__(self, reader: Connection, writer: Connection) -> None:
        """Take the two ends of a pipe that has one byte in it, or will have."""
        self._reader = reader
        self._writer = writer
        self._owner: tuple[int, int] | None = None
        self._depth = 0
        os.set_blocking(reader.fileno(), False)

    def __getstate__(self) -> tuple[Connection, Connection]:
        return self._reader, self._writer

    def __setstate__(self, state: tuple[Connection, Connection]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock; return whether that was done within `timeout` seconds, for ever if None."""
        me = (os.getpid(), threading.get_ident())
        if self._owner != me:
            deadline = time.monotonic() + timeout if timeout is not None else None
            while not self._take():
                left = deadline - time.monotonic() if deadline is not None else None
                if not block or (left is not None and left <= 0):
                    return False
                select.select([self._reader], [], [], left)
            self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        """Give it back."""
        self._depth -= 1
        if not self._depth:
            self._owner = None
            os.write(self._writer.fileno(), b"!")

    def _take(self) -> bool:
        try:
            return bool(os.read(self._reader.fileno(), 1))
        except BlockingIOError:
            return False


class TracelessContext(ForkServerContext):
    """A fork server whose locks leave nothing in /dev/shm.

    With a fork server the heavy imports happen once, and a worker that replaces a killed one is there at once; the
    server is a fresh process, so no thread of the parent is forked.
    """

    def RLock(self) -> PipeLock:  # type: ignore[override]  # noqa: N802 (multiprocessing's name)
        """Make a lock that a thread may take again."""
        reader, writer = self.Pipe(duplex=False)
        os.write(writer.fileno(), b"!")
        return PipeLock(reader, writer)
