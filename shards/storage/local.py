"""The bytes of shards, mapped from their files and copied out of them."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardCorruptError, describe
from shards.format.index import Index, ShardInfo, read_index
from shards.format.samples_table import read_table
from shards.storage.source import Ahead, map_file, read_pieces

__all__ = ["LocalShards", "LocalSource"]

_MAX_MAPPED = 128
"""Shards open at a time: far below the 256 to 1,024 files that systems allow a process."""


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A split in a folder of this machine."""

    directory: Path

    @property
    def location(self) -> str:
        """The path of the split."""
        return str(self.directory)

    def index(self) -> Index:
        """Read the index, as `read_index`."""
        return read_index(self.directory)

    def table(self, index: Index) -> NDArray[Any]:
        """Map the samples table, as `read_table`."""
        num_tasks = len(index.label_sets)
        return read_table(
            self.directory, sha256=index.samples_sha256, num_samples=index.num_samples, num_tasks=num_tasks
        )

    def files(self, index: Index) -> "LocalShards":
        """Check that all shards are there; `ShardCorruptError` if not."""
        return LocalShards(self.directory, index.shards)


class LocalShards:
    """The shards of a split in a folder of this machine."""

    def __init__(self, directory: Path, shards: Sequence[ShardInfo]) -> None:
        """Check all shards by one look at the folder: a question for each path costs seconds with tens of thousands.

        Raises:
            ShardCorruptError: if one is missing or has another size than the index says.
        """
        self._directory = directory
        self._shards = shards
        self._signatures: list[_Signature] = []
        with os.scandir(directory) as entries:
            found = {entry.name: entry for entry in entries}
        for shard in shards:
            try:
                status = found[shard.name].stat()
            except (KeyError, FileNotFoundError) as exc:  # the latter for a link that leads nowhere
                raise _missing(directory / shard.name) from exc
            if status.st_size != shard.bytes:
                raise _other_size(directory / shard.name, shard, status.st_size)
            self._signatures.append(_signature(status))
        self._readahead: _Readahead | None = None
        # Bounded, because each map holds a file descriptor; a view of a map that was dropped keeps it alive.
        self._mapped = lru_cache(_MAX_MAPPED)(self._map)

    def bytes_of(self, number: int) -> NDArray[np.uint8]:
        """Return the content of a shard as `(bytes,)`, read-only and mapped.

        Raises:
            ShardCorruptError: if it is missing or has another size than the index says.
        """
        return self._mapped(number)

    def check_unchanged(self, number: int) -> None:
        """Compare the file of a shard with what it was when the split was opened.

        A page of a map that is no longer in the file ends the process with SIGBUS, without a word; and the bytes of a
        file that is written to are of neither the old nor the new one.

        Raises:
            ShardCorruptError: if it was cut, written to, replaced or deleted since then.
        """
        if (readahead := self._readahead) is not None:
            readahead.used(number)
        path = f"{self._directory}/{self._shards[number].name}"
        try:
            status = os.stat(path)  # noqa: PTH116  # for every shard of every batch: Path takes four times as long
            what = None if _signature(status) == self._signatures[number] else "a shard was changed"
        except FileNotFoundError:
            what = "a shard is gone"
        if what is not None:
            then = "leave shards alone while they are read, and run `mmsent verify`"
            raise ShardCorruptError(describe(f"{what} since the split was opened", file=path, then=then))

    def where(self, number: int) -> str:
        """Return the path of a shard."""
        return str(self._directory / self._shards[number].name)

    def pieces(self, number: int, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Yield parts of a shard, given by offset and size, by reading them.

        Raises:
            ShardCorruptError: if it is missing or has another size than the index says.
        """
        path = self._directory / self._shards[number].name
        _check_size(path, self._shards[number])
        yield from read_pieces(path, spans)

    @contextmanager
    def follow(self, ahead: Ahead | None) -> Iterator[Callable[[], None]]:
        """Ask the system to read the next shards into the page cache while the ones before them are used.

        Whole files one after the other are what disks are fastest at. Without a known order there is nothing to ask.
        """
        if ahead is None or not hasattr(os, "posix_fadvise"):
            yield _end_no_wait
            return
        readahead = _Readahead(self._directory, [self._shards[number].name for number in ahead.shards], ahead)
        self._readahead = readahead
        try:
            with readahead:
                yield _end_no_wait
        finally:
            self._readahead = None

    def _map(self, number: int) -> NDArray[np.uint8]:
        shard = self._shards[number]
        path = self._directory / shard.name
        _check_size(path, shard)
        return map_file(path)


def _end_no_wait() -> None:
    """Do nothing: nobody waits for files of this machine."""


class _Readahead:
    """A thread that has shards read into the page cache, as many from the latest one in use on as are used at once."""

    def __init__(self, directory: Path, names: Sequence[str], ahead: Ahead) -> None:
        self._paths = [directory / name for name in names]
        self._place = {number: place for place, number in enumerate(ahead.shards)}
        self._num_at_once = ahead.num_at_once
        self._wanted = ahead.num_at_once  # this many from the start of the order
        self._num_asked = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="shard-readahead", daemon=True)

    def used(self, number: int) -> None:
        """Note that a shard is in use, and wait until it was asked for.

        Who touches pages that nobody asked for reads them a few at a time, in between the whole files, and slows both.
        """
        place = self._place.get(number, -1)
        if place + self._num_at_once > self._wanted or place >= self._num_asked:
            with self._changed:
                self._wanted = max(self._wanted, place + self._num_at_once)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopped or place < self._num_asked)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        for place, path in enumerate(self._paths):
            with self._changed:
                self._changed.wait_for(lambda place=place: self._stopped or place < self._wanted)  # type: ignore[misc]
                if self._stopped:
                    return
            with contextlib.suppress(OSError), path.open("rb") as file:  # whoever maps it says what is wrong with it
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            with self._changed:
                self._num_asked = place + 1
                self._changed.notify_all()


def _check_size(path: Path, shard: ShardInfo) -> None:
    """Compare the size of a shard's file with what its index says.

    Raises:
        ShardCorruptError: if the file is missing or has another size.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError as exc:
        raise _missing(path) from exc
    if size != shard.bytes:
        raise _other_size(path, shard, size)


def _missing(path: Path) -> ShardCorruptError:
    then = "copy it again, or run `mmsent preprocess` to make it"
    return ShardCorruptError(describe("a shard of the index is missing", file=path, then=then))


def _other_size(path: Path, shard: ShardInfo, size: int) -> ShardCorruptError:
    what = f"shard {shard.name} holds {size:,} bytes, its index says {shard.bytes:,}"
    then = "copy it again, or delete it and its split's index.json and run `mmsent preprocess`"
    return ShardCorruptError(describe(what, file=path, then=then))


_Signature = tuple[int, int, int]


def _signature(status: os.stat_result) -> _Signature:
    """Return what of a file changes when it is replaced, cut or written to."""
    return status.st_ino, status.st_size, status.st_mtime_ns
