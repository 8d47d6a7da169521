"""Files that are whole or not there: published by rename, and their digests."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from shards.errors import ShardError, describe

__all__ = ["publish", "publish_pieces", "sha256_file", "sweep", "sync_directory"]


def publish(path: Path, content: bytes) -> None:
    """Write a file so that it has either its old content or all of the new one, also after a power cut."""
    publish_pieces(path, (content,))


def publish_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Do what `publish` does with content that comes piece by piece; what they raise leaves the old content."""
    # Its own name for each process on each machine: parts of a run write some files at the same time.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as exc:
        then = "make room or choose another folder, and run the same command again"
        raise ShardError(describe(f"cannot write: {exc.strerror or exc}", file=path, then=then)) from exc
    finally:
        with contextlib.suppress(OSError):  # renamed, or on a disk that became read-only
            temporary.unlink()
    sync_directory(path.parent)


def sweep(out: Path) -> None:
    """Remove from a folder of splits what a run that was killed had not yet renamed; for who is alone in the folder."""
    for pattern in (".*.tmp", "*/.*.tmp", "*/.work/.*.tmp"):
        for path in out.glob(pattern):
            path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make the renames in a folder durable; a rename alone may be lost with the power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
