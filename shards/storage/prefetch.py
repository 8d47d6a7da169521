"""Files by URL, leased in a given order and downloaded ahead of their use."""

import threading
import time
from collections.abc import Iterable

from shards.errors import CacheFullError
from shards.storage.cache import Lease, LeaseStoppedError, ShardCache
from shards.storage.url_folder import UrlFolder

__all__ = ["Prefetcher"]


class Prefetcher:
    """Threads that download the files of `order` ahead of the consumer, who takes their leases one by one.

    What is ahead is leased, so it is never evicted, and at most `ahead_bytes` of it (or one larger file). Give the
    cache at least the bytes that the consumer holds at once plus `ahead_bytes`, and that for each process that reads
    other files than the rest. With less room a file is fetched when an earlier one is released, which is slower and
    works as long as there is room for what consumers hold at once. In memory each thread has one piece of a file
    (`RetryPolicy.request_bytes`).

    An error, of a download or of `order` itself, is raised by `get` at the file it belongs to.

    Args:
        cache: Where the files go.
        folder: Where they come from.
        order: Name, size in bytes and SHA-256 of each file, in the order of use; read as far as is ahead. A file may
            come again.
        ahead_bytes: Size of the files that may be begun and not yet taken.
        num_threads: Downloads at a time.
    """

    def __init__(
        self,
        cache: ShardCache,
        folder: UrlFolder,
        order: Iterable[tuple[str, int, str]],
        *,
        ahead_bytes: int,
        num_threads: int = 4,
    ) -> None:
        if ahead_bytes < 0 or num_threads < 1:
            raise ValueError("ahead_bytes must not be negative, and num_threads at least 1")
        self._cache = cache
        self._folder = folder
        self._order = enumerate(order)
        self._max_ahead_bytes = ahead_bytes
        self._changed = threading.Condition()  # guards all below
        self._next: tuple[int, tuple[str, int, str]] | None = None
        self._num_items: int | None = None  # once `order` has ended
        self._ahead: dict[int, int] = {}  # bytes of each file that was begun and not taken
        self._done: dict[int, Lease | BaseException] = {}
        self._num_taken = 0
        self._is_wanted = False  # whether the consumer waits for file `_num_taken`
        self._room_turn = 0  # files get their room in order, or a later one might take that of an earlier
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"prefetch-{number}", daemon=True) for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def get(self, k: int) -> Lease:
        """Return the lease of the k-th file, 0, 1, 2 and so on, when it is there; the caller releases it.

        Raises:
            IndexError: if the order has ended before.
            ValueError: if `k` is not the next one, or the prefetcher is closed.
            CacheFullError, UrlError, ShardError: as `ShardCache.lease` does. The file is taken then, and the next
                call may go on with the one after it.
        """
        with self._changed:
            if k != self._num_taken:
                raise ValueError(f"files are taken in order: {self._num_taken} is the next, not {k}")
            self._is_wanted = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: k in self._done or self._closed or self._num_items == k)
            self._is_wanted = False
            if self._closed:
                raise ValueError("the prefetcher is closed")
            if k not in self._done:
                raise IndexError(f"the order has {k} files")
            found = self._done.pop(k)
            self._ahead.pop(k, None)
            self._num_taken += 1
            self._changed.notify_all()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self, *, timeout_seconds: float = 2.0) -> None:
        """End the threads and release what was not taken.

        A thread inside a request to a slow server cannot be interrupted: after the timeout it is left to itself, and
        gives back what it has when the request ends, or this process does.
        """
        with self._changed:
            self._closed = True
            left, self._done = self._done, {}
            self._changed.notify_all()
        for item in left.values():
            if isinstance(item, Lease):
                item.release()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (item := self._begin()) is not None:
            k, (name, num_bytes, sha256) = item
            try:
                found: Lease | BaseException = self._lease(k, name, num_bytes, sha256)
            except LeaseStoppedError:
                return
            except BaseException as exc:  # the consumer raises it
                found = exc
            self._pass_room_turn(k)
            with self._changed:
                if not self._closed:
                    self._done[k] = found
                    self._changed.notify_all()
                    continue
            if isinstance(found, Lease):
                found.release()

    def _begin(self) -> tuple[int, tuple[str, int, str]] | None:
        """Wait until the next file may be begun and return it, or `None` when there is nothing more to do."""
        with self._changed:
            while not self._closed and self._num_items is None:
                if self._next is None:
                    self._advance()
                    continue
                k, (_, num_bytes, _) = self._next
                if not self._ahead or sum(self._ahead.values()) + num_bytes <= self._max_ahead_bytes:
                    item, self._next = self._next, None
                    self._ahead[k] = num_bytes
                    return item
                self._changed.wait()
            return None

    def _advance(self) -> None:
        """Read one file of the order."""
        k = self._num_taken + len(self._ahead)
        try:
            self._next = next(self._order, None)
            if self._next is None:
                self._num_items = k
        except BaseException as exc:  # the consumer raises it
            self._done[k] = exc
            self._num_items = k + 1
        self._changed.notify_all()

    def _lease(self, k: int, name: str, num_bytes: int, sha256: str) -> Lease:
        with self._changed:
            self._changed.wait_for(lambda: self._room_turn == k or self._closed)
        while True:
            with self._changed:
                was_wanted = self._is_wanted and self._num_taken == k
            try:
                return self._cache.lease(
                    self._folder,
                    name,
                    num_bytes=num_bytes,
                    sha256=sha256,
                    on_room=lambda: self._pass_room_turn(k),
                    stopped=lambda: self._closed,
                )
            except CacheFullError:
                # The consumer may use what it holds for as long as it likes; if it waits itself, no room is in sight.
                if was_wanted or num_bytes > self._cache.max_bytes:
                    raise

    def _pass_room_turn(self, k: int) -> None:
        with self._changed:
            if self._room_turn == k:
                self._room_turn = k + 1
                self._changed.notify_all()
