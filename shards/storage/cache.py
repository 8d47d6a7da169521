"""A bounded local cache of whole files by URL, which the processes of one machine share.

Note [Files of a cache]: an entry is a file named by its SHA-256, and exists only when it is whole. `<SHA-256>.part` is
one that is being downloaded; it has its final size from the start, so the sizes in the folder are all the accounting
there is, and a process killed at any moment leaves nothing that is not counted or not true. Who may touch what is said
by `flock`, which the kernel takes back from a dead process:

- `.lock`, held for moments: whoever decides anything (what is here, what must go, a rename) does it alone.
- an entry, shared while it is leased: what cannot be locked exclusively is not evicted.
- a part, exclusively while it is downloaded: others wait for it; one that can be locked is a dead process's.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shards.errors import CacheFullError, ShardError, UrlError, describe
from shards.storage.url_folder import UrlFolder

__all__ = ["Lease", "LeaseStoppedError", "ShardCache"]

_SHORTEST_POLL_SECONDS = 0.01
_LONGEST_POLL_SECONDS = 0.25


class LeaseStoppedError(Exception):
    """The caller of `ShardCache.lease` wished to stop before it had one."""


class Lease:
    """A file in the cache that stays there until it is released, or this process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._process = os.getpid()

    def release(self) -> None:
        """Let the file be evicted; maps of it must be gone, or their disk space stays taken. Twice is once.

        In a forked child this only closes the file: the lock is one with the parent's, who still uses it.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and os.getpid() != self._process:
            os.close(descriptor)
        elif descriptor is not None:
            _touch(descriptor)
            _close(descriptor)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.release()


class ShardCache:
    """Files of any URLs, by content, in a local folder of its own whose files never hold more than `max_bytes`.

    Threads and processes may share it; a file is downloaded once. When room is needed, what was used longest ago goes
    first, and nothing that is leased goes. See Note [Files of a cache].

    Args:
        directory: Made when it is missing; on a local disk, because `flock` must work. Other files in it are counted
            and never removed.
        max_bytes: The most that all files in it take, unfinished ones included. No process may be given another bound
            at the same time.
        room_timeout_seconds: How long to wait for room when all files are in use.

    Raises:
        ShardError: if the folder cannot be made.
    """

    def __init__(self, directory: Path, *, max_bytes: int, room_timeout_seconds: float = 60.0) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.directory = directory
        self.max_bytes = max_bytes
        self.room_timeout_seconds = room_timeout_seconds
        with self._disk_trouble_named():
            directory.mkdir(parents=True, exist_ok=True)

    def lease(
        self,
        folder: UrlFolder,
        name: str,
        *,
        num_bytes: int,
        sha256: str,
        on_room: Callable[[], None] = lambda: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Lease:
        """Return a lease of a file, downloaded if it is not here; a wrong digest is downloaded once more.

        Args:
            folder: Where it is.
            name: Its name there.
            num_bytes: Its size by the index.
            sha256: Its digest by the index; the same content from another URL is the same entry.
            on_room: Called once, when the file is here or has room reserved, and before it is downloaded.
            stopped: Asked between the pieces of a download and while waiting.

        Raises:
            CacheFullError: if it is larger than the cache, or what is in use left no room for `room_timeout_seconds`.
            UrlError: if it cannot be downloaded, or is not the one of the index.
            ShardError: if the local disk fails or is full.
            LeaseStoppedError: if `stopped()` became true.
        """
        if not re.fullmatch("[0-9a-f]{64}", sha256):  # it becomes a file name
            raise ValueError(f"a SHA-256 has 64 hexadecimal digits, got {sha256!r}")
        url = folder.file_url(name)
        if num_bytes > self.max_bytes:
            what = f"a shard of {num_bytes:,} bytes does not fit into a cache of {self.max_bytes:,}"
            raise CacheFullError(describe(what, file=url, then=f"give the cache at least {num_bytes:,} bytes"))
        with self._disk_trouble_named():
            found = self._find_or_reserve(url, sha256, num_bytes, on_room, stopped)
            return found if isinstance(found, Lease) else self._fill(found, folder, name, num_bytes, sha256, stopped)

    def _find_or_reserve(
        self, url: str, sha256: str, num_bytes: int, on_room: Callable[[], None], stopped: Callable[[], bool]
    ) -> Lease | int:
        """Return a lease of the entry, or the descriptor of a part of the right size that is ours to fill."""
        deadline = time.monotonic() + self.room_timeout_seconds
        poll_seconds = _SHORTEST_POLL_SECONDS
        while not stopped():
            with self._locked():
                descriptor = self._open_entry(sha256, num_bytes)
                if descriptor is not None:
                    on_room()
                    return Lease(self.directory / sha256, descriptor)
                if self._is_downloading(sha256):
                    deadline = time.monotonic() + self.room_timeout_seconds
                else:
                    used_bytes = self._make_room(num_bytes)
                    if used_bytes + num_bytes <= self.max_bytes:
                        descriptor = self._reserve(sha256, num_bytes)
                        on_room()
                        return descriptor
                    if time.monotonic() >= deadline:
                        raise CacheFullError(self._full(url, num_bytes, used_bytes))
            time.sleep(poll_seconds)
            poll_seconds = min(1.5 * poll_seconds, _LONGEST_POLL_SECONDS)
        raise LeaseStoppedError

    def _open_entry(self, sha256: str, num_bytes: int) -> int | None:
        """Return a descriptor that holds the shared lock of an entry, or `None` if it is not here."""
        path = self.directory / sha256
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != num_bytes:  # somebody wrote into it: it is never renamed before it is whole
            os.close(descriptor)
            path.unlink()
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # at once: who locks it exclusively holds the lock of the folder too
        _touch(descriptor)
        return descriptor

    def _is_downloading(self, sha256: str) -> bool:
        try:
            descriptor = os.open(self._part(sha256), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not _lock_if_free(descriptor)
        finally:
            _close(descriptor)

    def _make_room(self, num_bytes: int) -> int:
        """Remove dead parts, then entries that nobody leases until `num_bytes` more fit; return the bytes left."""
        entries = []
        used_bytes = 0
        for file in self.directory.iterdir():
            status = file.stat()
            is_ours = re.fullmatch("[0-9a-f]{64}", file.stem) is not None
            if not file.is_file() or (is_ours and file.suffix == ".part" and _removed_if_free(file)):
                continue
            used_bytes += status.st_size
            if is_ours and not file.suffix:
                entries.append((status.st_mtime_ns, file.name, status.st_size))
        for _, name, size in sorted(entries):
            if used_bytes + num_bytes <= self.max_bytes:
                break
            if _removed_if_free(self.directory / name):
                used_bytes -= size
        return used_bytes

    def _reserve(self, sha256: str, num_bytes: int) -> int:
        descriptor = os.open(self._part(sha256), os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, num_bytes)
        return descriptor

    def _fill(
        self,
        descriptor: int,
        folder: UrlFolder,
        name: str,
        num_bytes: int,
        sha256: str,
        stopped: Callable[[], bool],
    ) -> Lease:
        try:
            got = ""
            for _ in range(2):
                got = _download(descriptor, folder.stream(name, num_bytes=num_bytes), stopped)
                if got == sha256:
                    break
            else:
                what = f"downloaded twice, and its SHA-256 is not the one in the index\n  want: {sha256}\n  got:  {got}"
                then = "copy the shard and its index there again, from one and the same run"
                raise UrlError(describe(what, file=folder.file_url(name), then=then))
            with self._locked():
                self._part(sha256).rename(self.directory / sha256)
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # lets go of it for a moment, in which nobody can evict
                _touch(descriptor)
        except BaseException:
            with contextlib.suppress(OSError), self._locked():
                self._part(sha256).unlink()
            _close(descriptor)
            raise
        return Lease(self.directory / sha256, descriptor)

    def _part(self, sha256: str) -> Path:
        return self.directory / f"{sha256}.part"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            _close(descriptor)

    @contextlib.contextmanager
    def _disk_trouble_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            then = "make room on its disk, or choose another folder on a local disk"
            what = f"the cache cannot be used: {exc.strerror or exc}"
            raise ShardError(describe(what, file=self.directory, then=then)) from exc

    def _full(self, url: str, num_bytes: int, used_bytes: int) -> str:
        what = (
            f"no room for a shard of {num_bytes:,} bytes: all {used_bytes:,} bytes in a cache of {self.max_bytes:,}"
            f" were in use for {self.room_timeout_seconds:g} s\n  cache: {self.directory}"
        )
        then = f"give the cache at least {used_bytes + num_bytes:,} bytes, or let fewer processes share it"
        return describe(what, file=url, then=then)


def _download(descriptor: int, pieces: Iterator[bytes], stopped: Callable[[], bool]) -> str:
    """Write pieces to the start of a file and return their SHA-256."""
    digest = hashlib.sha256()
    with open(descriptor, "wb", closefd=False) as file:
        file.seek(0)  # "wb" cuts nothing off when it is given a descriptor
        for piece in pieces:
            if stopped():
                raise LeaseStoppedError
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def _removed_if_free(path: Path) -> bool:
    """Remove a file unless somebody has it locked. The caller holds the lock of the folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if not _lock_if_free(descriptor):
            return False
        path.unlink()
        return True
    finally:
        _close(descriptor)


def _lock_if_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _touch(descriptor: int) -> None:
    """Say that a file was used now; the kernel's own time stamps are too coarse to order quick uses."""
    now = time.time_ns()
    with contextlib.suppress(OSError):  # another user's file: it may be read, and is only evicted too early
        os.utime(descriptor, ns=(now, now))


def _close(descriptor: int) -> None:
    """Close and unlock: closing alone would leave the lock with a child that was forked meanwhile."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
