"""The bytes of shards, mapped from their files and copied out of them."""

import mmap
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardCorruptError, describe
from shards.index import ShardInfo

__all__ = ["LocalShards", "check_size", "copy_bytes", "map_file"]

_MAX_MAPPED = 128
"""Shards open at a time: far below the 256 to 1,024 files that systems allow a process."""


class LocalShards:
    """The shards of a split in a folder of this machine."""

    def __init__(self, directory: Path, shards: Sequence[ShardInfo]) -> None:
        """Check all shards by one look at the folder: a question for each path costs seconds with tens of thousands.

        Raises:
            ShardCorruptError: if one is missing or has another size than the index says.
        """
        self._directory = directory
        self._shards = shards
        with os.scandir(directory) as entries:
            found = {entry.name: entry for entry in entries}
        for shard in shards:
            try:
                size = found[shard.name].stat().st_size
            except (KeyError, FileNotFoundError) as exc:  # the latter for a link that leads nowhere
                raise _missing(directory / shard.name) from exc
            if size != shard.bytes:
                raise _other_size(directory / shard.name, shard, size)
        self._signatures: dict[int, tuple[str, _Signature | None]] = {}
        # Bounded, because each map holds a file descriptor; a view of a map that was dropped keeps it alive.
        self._mapped = lru_cache(_MAX_MAPPED)(self._map)

    def bytes_of(self, number: int) -> NDArray[np.uint8]:
        """Return the content of a shard as `(bytes,)`, read-only and mapped.

        Raises:
            ShardCorruptError: if it is missing or has another size than the index says.
        """
        return self._mapped(number)

    def check_unchanged(self, number: int) -> None:
        """Compare the file of a mapped shard with what it was when it was mapped.

        A page of a map that is no longer in the file ends the process with SIGBUS, without a word; and the bytes of a
        file that is written to are of neither the old nor the new one.

        Raises:
            ShardCorruptError: if it was cut, written to, replaced or deleted since then.
        """
        if number not in self._signatures:
            return
        path, before = self._signatures[number]
        if (now := _signature(path)) != before:
            what = f"a shard {'is gone' if now is None else 'was changed'} since it was opened"
            then = "leave shards alone while they are read, and run `mmsent verify`"
            raise ShardCorruptError(describe(what, file=path, then=then))

    def _map(self, number: int) -> NDArray[np.uint8]:
        shard = self._shards[number]
        path = self._directory / shard.name
        signature = _signature(str(path))  # before the map, so that no change is missed
        check_size(path, shard)
        mapped = map_file(path)
        self._signatures[number] = str(path), signature
        return mapped


def copy_bytes(payload: NDArray[np.uint8], copy: NDArray[np.uint8]) -> None:
    """Copy bytes, many of them word by word in a loop of NumPy's.

    An assignment ends in the C library's memcpy, which on AMD Zen processors uses `rep movsb`: that was seen a fifth
    slower than a plain loop, from mapped pages into a batch that is not in the processor's cache.
    """
    if payload.nbytes < _MANY_BYTES or payload.nbytes % 8:
        copy[:] = payload
    else:
        np.positive(payload.view(np.uint64), out=copy.view(np.uint64))


_MANY_BYTES = 64 * 1024
"""Below it either way takes as long as a call."""


def map_file(path: Path) -> NDArray[np.uint8]:
    """Return the content of a file as `(bytes,)`, read-only and mapped: pages are read when they are touched."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


def check_size(path: Path, shard: ShardInfo) -> None:
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


def _signature(path: str) -> _Signature | None:
    """Return what of a file changes when it is replaced, cut or written to; None when it is gone."""
    try:
        found = os.stat(path)  # noqa: PTH116  # for every shard of every batch: Path.stat takes four times as long
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
