"""One run at a time on one output folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocess.errors import OutputBusyError
from shards.errors import describe

__all__ = ["locked"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder until the block ends.

    The lock belongs to the process: it goes with it, however it ends, so there is never a stale one to delete. The file
    stays, with the number of the process that had it last.

    Raises:
        OutputBusyError: if another process has it.
    """
    path = folder / ".lock"
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.seek(0)
            what = f"another run is writing here (process {file.read().strip() or 'unknown'})"
            then = "wait for it to end, or choose another --out"
            raise OutputBusyError(describe(what, file=folder, then=then)) from exc
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
