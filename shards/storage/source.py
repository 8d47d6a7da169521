"""Where the bytes of a split come from, and how they are mapped."""

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.format.index import Index

__all__ = ["Ahead", "ShardFiles", "Source", "map_file", "read_pieces"]


@dataclass(frozen=True, slots=True)
class Ahead:
    """Which shards a pass over a split will need, in the order of their first use."""

    shards: Sequence[int]
    """Their numbers."""
    num_at_once: int
    """How many of them, one after the other, the batches in memory may lie in."""


class ShardFiles(Protocol):
    """The shards of a split, by number, wherever they are."""

    def bytes_of(self, number: int) -> NDArray[np.uint8]:
        """Return the content of a shard as `(bytes,)`, read-only and mapped; `ShardError` if it cannot be had."""

    def check_unchanged(self, number: int) -> None:
        """Raise `ShardCorruptError` if a shard is no longer what it was when it was mapped."""

    def where(self, number: int) -> str:
        """Return the path or URL of a shard."""

    def pieces(self, number: int, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Yield parts of a shard, given by offset and size, by reading them: a map would bring in all around them."""

    def follow(self, ahead: Ahead | None) -> AbstractContextManager[Callable[[], None]]:
        """Have what a pass needs next brought near, while the context lasts; None if any shard may come at any time.

        Call what it yields before the context ends and before readers are joined: nobody waits for a shard any more.
        """


class Source(Protocol):
    """Where a split is."""

    @property
    def location(self) -> str:
        """The path or URL of the split."""

    def index(self) -> Index:
        """Return the index, checked; `ShardError` if there is none or it is not the one that was written."""

    def table(self, index: Index) -> NDArray[Any]:
        """Return the samples table, checked, `(num_samples,)` of `row_dtype`; `ShardError` as `index`."""

    def files(self, index: Index) -> ShardFiles:
        """Return its shards; `ShardError` if they are seen not to be there."""


def read_pieces(path: Path, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Yield parts of a file, given by offset and size."""
    with path.open("rb") as file:
        for offset, size in spans:
            file.seek(offset)
            yield file.read(size)


def map_file(path: Path) -> NDArray[np.uint8]:
    """Return the content of a file as `(bytes,)`, read-only and mapped: pages are read when they are touched."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
