"""The shards of a split behind a URL: leased from the local cache, mapped, and brought near in the order of a pass."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.cache import Lease, ShardCache
from shards.errors import CacheFullError, describe
from shards.index import INDEX_NAME, Index, ShardInfo, parse_index
from shards.maps import Ahead, map_file, read_pieces
from shards.prefetch import Prefetcher
from shards.remote import RemoteFolder
from shards.table import TABLE_NAME, parse_table

__all__ = ["RemoteShards", "RemoteSource"]


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """A split behind a URL, and the cache that its shards come through."""

    folder: RemoteFolder
    cache: ShardCache

    @property
    def location(self) -> str:
        """The URL of the split."""
        return self.folder.url

    def index(self) -> Index:
        """Fetch and check the index; `ShardError` if it cannot be had or is not the one that was written."""
        return parse_index(self.folder.read(INDEX_NAME), path=self.folder.file_url(INDEX_NAME))

    def table(self, index: Index) -> NDArray[Any]:
        """Fetch and check the samples table, which is then in memory; `ShardError` as `index`."""
        return parse_table(
            self.folder.read(TABLE_NAME),
            path=self.folder.file_url(TABLE_NAME),
            sha256=index.samples_sha256,
            num_samples=index.num_samples,
            num_tasks=len(index.label_sets),
        )

    def files(self, index: Index) -> "RemoteShards":
        """Return its shards; nothing is fetched yet."""
        return RemoteShards(self, index.shards)


class RemoteShards:
    """The shards of a split behind a URL. Digests are checked when they are downloaded, so they cannot change after."""

    def __init__(self, source: RemoteSource, shards: tuple[ShardInfo, ...]) -> None:
        self._folder = source.folder
        self._cache = source.cache
        self._shards = shards
        self._open: OrderedDict[int, tuple[Lease, NDArray[np.uint8]]] = OrderedDict()
        self._max_open = 1
        self._lock = threading.Lock()
        self._prefetcher: Prefetcher | None = None
        self._order: list[int] = []
        self._num_taken = 0
        self._stopped = False

    def bytes_of(self, number: int) -> NDArray[np.uint8]:
        """Return the content of a shard as `(bytes,)`, read-only and mapped, when it is here.

        Raises:
            CacheFullError, RemoteError, ShardError: as `ShardCache.lease`.
        """
        with self._lock:
            while number not in self._open:
                self._open_next(number)
            self._open.move_to_end(number)
            return self._open[number][1]

    def check_unchanged(self, number: int) -> None:
        """Do nothing: what is leased from the cache is named by its digest, and nobody writes to it."""

    def where(self, number: int) -> str:
        """Return the URL of a shard."""
        return self._folder.file_url(self._shards[number].name)

    def pieces(self, number: int, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Yield parts of a shard, given by offset and size; the whole shard is fetched for them.

        Raises:
            CacheFullError, RemoteError, ShardError: as `ShardCache.lease`.
        """
        with self._lease(number) as path:
            yield from read_pieces(path, spans)

    @contextmanager
    def follow(self, ahead: Ahead | None) -> Iterator[None]:
        """Download the shards of a pass ahead of their use while the context lasts, and lease none of them after.

        Up to twice as many shards as are mixed are leased at a time, those of a block and of the one before it, and the
        rest of the cache is filled ahead.

        Raises:
            CacheFullError: if the cache is too small for that.
        """
        largest = max(shard.bytes for shard in self._shards)
        num_open = len(self._shards) if ahead is None else min(2 * ahead.num_mixed, len(self._shards))
        needed = num_open * largest
        if needed > self._cache.max_bytes:
            what = f"this order needs up to {num_open} shards at a time, {needed:,} bytes; the cache may hold "
            then = "give a larger `--cache-size`, or `--order block-shuffle` with fewer `--shards-per-block`"
            raise CacheFullError(describe(f"{what}{self._cache.max_bytes:,}", file=self._folder.url, then=then))
        order = [] if ahead is None else list(ahead.shards)
        files = ((self._shards[i].name, self._shards[i].bytes, self._shards[i].sha256) for i in order)
        self._max_open, self._order, self._num_taken, self._stopped = num_open, order, 0, False
        self._prefetcher = Prefetcher(self._cache, self._folder, files, ahead_bytes=self._cache.max_bytes - needed)
        try:
            yield
        finally:
            self._stopped = True
            self._prefetcher.close()
            with self._lock:
                self._prefetcher, self._order = None, []
                self._release(0)
                self._max_open = 1

    def _open_next(self, number: int) -> None:
        """Open the next shard of the pass if `number` is among those to come, else `number` itself."""
        if self._prefetcher is not None and number in self._order[self._num_taken :]:
            place, self._num_taken = self._num_taken, self._num_taken + 1
            opened, lease = self._order[place], self._prefetcher.get(place)
        else:
            opened, lease = number, self._lease(number)
        self._open[opened] = lease, map_file(lease.path)
        self._open.move_to_end(opened)
        self._release(self._max_open)

    def _lease(self, number: int) -> Lease:
        shard = self._shards[number]
        return self._cache.lease(
            self._folder,
            shard.name,
            num_bytes=shard.bytes,
            sha256=shard.sha256,
            stopped=lambda: self._stopped,
        )

    def _release(self, num_left: int) -> None:
        while len(self._open) > num_left:
            _, (lease, mapped) = self._open.popitem(last=False)
            del mapped  # a map keeps the disk space of an evicted file
            lease.release()
