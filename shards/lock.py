"""One run at a time on one output folder, or several that share its shards among them."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from shards.errors import OutputBusyError, ShardError, describe

__all__ = ["locked"]

_LOG = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""Errors of disks that know no locks, as Lustre mounted without `flock`."""


@contextmanager
def locked(folder: Path, *, number: int = 1, count: int = 1) -> Iterator[None]:
    """Keep other runs out of a folder until the block ends, except the other parts of the same whole.

    The locks belong to the process: they go with it, however it ends, so there is never a stale one to delete. The
    files stay; `.lock` says which process had it last, or into how many parts the work is cut.

    Args:
        folder: Where the run writes.
        number: Which part of the work it does, from 1.
        count: Into how many parts the work is cut; 1 keeps all others out.

    Raises:
        OutputBusyError: if another process has it.
        ShardError: if the disk is full or cannot be written.
    """
    with ExitStack() as stack:
        whole = stack.enter_context(_opened(folder / ".lock"))
        alone = _try_lock(whole, fcntl.LOCK_EX)
        if count == 1:
            if not alone:
                raise _busy(folder, f"another run is writing here ({_said(whole) or 'unknown process'})")
            _say(whole, f"process {os.getpid()}")
        else:
            said = f"parts of {count}"
            if alone:
                _say(whole, said)
            if not _try_lock(whole, fcntl.LOCK_SH) or _said(whole) != said:
                raise _busy(folder, f"another run is writing here ({_said(whole) or 'unknown process'})")
            mine = stack.enter_context(_opened(folder / f".lock-{number}"))
            if not _try_lock(mine, fcntl.LOCK_EX):
                raise _busy(folder, f"part {number} of {count} is being made already ({_said(mine)})")
            _say(mine, f"process {os.getpid()}")
        yield


def _opened(path: Path) -> FileIO:
    """Open unbuffered: what a full disk did not take would be written once more, and fail again, on closing."""
    try:
        return path.open("ab+", buffering=0)
    except OSError as exc:
        raise _unwritable(path, exc) from exc


def _try_lock(file: FileIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno not in _NO_LOCKS:
            raise
        _LOG.warning("the disk of %s has no locks: see to it that no other run writes there", file.name)
    return True


def _said(file: FileIO) -> str:
    file.seek(0)
    return file.read().decode("ascii", "replace").strip()


def _say(file: FileIO, words: str) -> None:
    try:
        file.truncate(0)
        file.write(f"{words}\n".encode())
    except OSError as exc:
        raise _unwritable(Path(str(file.name)), exc) from exc


def _unwritable(path: Path, exc: OSError) -> ShardError:
    then = "make room or choose another folder, and run the same command again"
    return ShardError(describe(f"cannot write: {exc.strerror or exc}", file=path, then=then))


def _busy(folder: Path, what: str) -> OutputBusyError:
    then = "wait for it to end, or choose another --out"
    return OutputBusyError(describe(what, file=folder, then=then))
