"""The shards of a split behind a URL: leased from the local cache, mapped, and brought near in the order of a pass."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import CacheFullError, describe
from shards.format.index import INDEX_NAME, Index, ShardInfo, parse_index
from shards.format.samples_table import TABLE_NAME, parse_table
from shards.storage.cache import Lease, LeaseStoppedError, ShardCache
from shards.storage.prefetch import Prefetcher
from shards.storage.source import Ahead, map_file, read_pieces
from shards.storage.url_folder import UrlFolder

__all__ = ["UrlShards", "UrlSource"]

_CLOSE_SECONDS = 0.5
"""How long the end of a pass waits for requests that are under way, which nobody can interrupt."""


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A split behind a URL, and the cache that its shards come through."""

    folder: UrlFolder
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

    def files(self, index: Index) -> "UrlShards":
        """Return its shards; nothing is fetched yet."""
        return UrlShards(self, index.shards)


class UrlShards:
    """The shards of a split behind a URL. Digests are checked when they are downloaded, so they cannot change after."""

    def __init__(self, source: UrlSource, shards: tuple[ShardInfo, ...]) -> None:
        self._folder = source.folder
        self._cache = source.cache
        self._shards = shards
        self._open: OrderedDict[int, tuple[Lease, NDArray[np.uint8]]] = OrderedDict()
        self._passes: list[_Pass] = []
        self._lock = threading.Lock()

    def bytes_of(self, number: int) -> NDArray[np.uint8]:
        """Return the content of a shard as `(bytes,)`, read-only and mapped, when it is here.

        Raises:
            CacheFullError, UrlError, ShardError: as `ShardCache.lease`.
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
            CacheFullError, UrlError, ShardError: as `ShardCache.lease`.
        """
        with self._lease(number) as path:
            yield from read_pieces(path, spans)

    @contextmanager
    def follow(self, ahead: Ahead | None) -> Iterator[Callable[[], None]]:
        """Download the shards of a pass ahead of their use while the context lasts, and lease none of them after.

        As many as are needed at once are leased, and the rest of the cache is filled ahead. If any shard may come at
        any time, all are downloaded and leased: the first batch then waits for most of the split.

        Yields:
            What to call before readers are joined: one that waits for a download gets an exception at once.

        Raises:
            CacheFullError: if the cache is too small for that.
        """
        order = list(range(len(self._shards))) if ahead is None else list(ahead.shards)
        max_open = len(order) if ahead is None else min(ahead.num_at_once, len(order))
        needed = sum(sorted(self._shards[number].bytes for number in order)[len(order) - max_open :])
        max_bytes = self._cache.max_bytes
        if needed > max_bytes:
            need = f"this order needs up to {max_open} shards at a time, {needed:,} bytes"
            gigabytes = math.ceil(needed / 1e6) / 1e3
            then = (
                f"give at least `--cache-size {gigabytes}`, or `--set train.order=block-shuffle` "
                "with few `train.shards_per_block`"
            )
            raise CacheFullError(
                describe(f"{need}; the cache may hold {max_bytes:,}", file=self._folder.url, then=then)
            )
        files = ((self._shards[i].name, self._shards[i].bytes, self._shards[i].sha256) for i in order)
        ahead_bytes = max_bytes if max_open == len(order) else max_bytes - needed
        prefetcher = Prefetcher(self._cache, self._folder, files, ahead_bytes=ahead_bytes)
        this = _Pass(prefetcher=prefetcher, order=order, max_open=max_open)
        with self._lock:
            self._passes.append(this)

        def end_waits() -> None:
            this.failure = LeaseStoppedError("the pass is over")
            prefetcher.close(timeout_seconds=0)

        try:
            yield end_waits
        finally:
            prefetcher.close(timeout_seconds=_CLOSE_SECONDS)
            with self._lock:
                self._passes.remove(this)
                self._release(sum(each.max_open for each in self._passes))

    def _open_next(self, number: int) -> None:
        """Open the next shard of the pass if `number` is among those to come, else `number` itself.

        What must go goes before: a cache that holds just what is needed has no room for one more.
        """
        self._release(max(1, sum(each.max_open for each in self._passes)) - 1)
        latest = self._passes[-1] if self._passes else None
        if latest is not None and latest.failure is not None:
            raise latest.failure  # or every reader would ask for it once more, and be waited for
        if latest is None or number not in latest.order[latest.num_taken :]:
            opened, lease = number, self._lease(number)
        else:
            try:
                opened, lease = latest.order[latest.num_taken], latest.prefetcher.get(latest.num_taken)
            except Exception as exc:
                latest.failure = latest.failure or exc
                raise
            finally:
                latest.num_taken += 1
        if opened in self._open:  # by another pass
            lease.release()
        else:
            self._open[opened] = lease, map_file(lease.path)
        self._open.move_to_end(opened)

    def _lease(self, number: int) -> Lease:
        shard = self._shards[number]
        return self._cache.lease(self._folder, shard.name, num_bytes=shard.bytes, sha256=shard.sha256)

    def _release(self, num_left: int) -> None:
        while len(self._open) > num_left:
            _, (lease, mapped) = self._open.popitem(last=False)
            del mapped  # a map keeps the disk space of an evicted file
            lease.release()


@dataclass(slots=True, kw_only=True, eq=False)
class _Pass:
    """One pass over the shards that is under way."""

    prefetcher: Prefetcher
    order: list[int]
    """Numbers of the shards in the order of their use, each once."""
    max_open: int
    """So many of them are leased at a time."""
    num_taken: int = 0
    """Shards of `order` that were asked for."""
    failure: Exception | None = None
    """Why it cannot go on."""
