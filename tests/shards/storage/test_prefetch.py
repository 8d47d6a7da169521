import hashlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shards.errors import CacheFullError, UrlError
from shards.storage.cache import Lease, ShardCache
from shards.storage.prefetch import Prefetcher
from shards.storage.url_folder import RetryPolicy, UrlFolder
from tests.support.faulty_server import Fault, FaultyServer, folder_answer, wait_until

QUICK = RetryPolicy(num_tries=2, first_wait_seconds=0.001, longest_wait_seconds=0.002, request_bytes=1000)
SIZE = 1000
CONTENTS = [random.Random(number).randbytes(SIZE) for number in range(8)]
ORDER = [(f"{number}.tar", SIZE, hashlib.sha256(content).hexdigest()) for number, content in enumerate(CONTENTS)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    for (name, _, _), content in zip(ORDER, CONTENTS, strict=True):
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def server(served: Path) -> Iterator[FaultyServer]:
    with FaultyServer(folder_answer(served)) as server:
        yield server


@pytest.fixture
def folder(server: FaultyServer) -> UrlFolder:
    return UrlFolder(server.url, retries=QUICK)


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "cache", max_bytes=4 * SIZE, room_timeout_seconds=0.2)


def asked(server: FaultyServer) -> list[str]:
    return [path.strip("/") for path, _ in server.requests]


def take(prefetcher: Prefetcher, k: int) -> bytes:
    with prefetcher.get(k) as path:
        return path.read_bytes()


def test_files_come_in_order_from_a_cache_smaller_than_all(cache: ShardCache, folder: UrlFolder) -> None:
    with Prefetcher(cache, folder, ORDER, ahead_bytes=2 * SIZE) as prefetcher:
        assert [take(prefetcher, k) for k in range(8)] == CONTENTS


def test_not_more_is_ahead_than_allowed(cache: ShardCache, folder: UrlFolder, server: FaultyServer) -> None:
    with Prefetcher(cache, folder, ORDER, ahead_bytes=2 * SIZE) as prefetcher:
        wait_until(lambda: len(server.requests) == 2)
        time.sleep(0.1)
        assert sorted(asked(server)) == ["0.tar", "1.tar"]
        lease = prefetcher.get(0)
        wait_until(lambda: len(server.requests) == 3)
        time.sleep(0.1)
        assert sorted(asked(server)) == ["0.tar", "1.tar", "2.tar"]
        lease.release()


def test_with_nothing_ahead_allowed_one_file_is(cache: ShardCache, folder: UrlFolder, server: FaultyServer) -> None:
    with Prefetcher(cache, folder, ORDER, ahead_bytes=0) as prefetcher:
        wait_until(lambda: len(server.requests) == 1)
        time.sleep(0.1)
        assert asked(server) == ["0.tar"]
        assert take(prefetcher, 0) == CONTENTS[0]


def test_what_is_ahead_is_not_evicted(cache: ShardCache, folder: UrlFolder, server: FaultyServer) -> None:
    with Prefetcher(cache, folder, ORDER[:3], ahead_bytes=3 * SIZE) as prefetcher:
        wait_until(lambda: len(list(cache.directory.glob("?" * 64))) == 3)
        for name, num_bytes, sha256 in ORDER[3:]:
            cache.lease(folder, name, num_bytes=num_bytes, sha256=sha256).release()
        before = len(server.requests)
        assert [take(prefetcher, k) for k in range(3)] == CONTENTS[:3]
        assert len(server.requests) == before


def test_a_cache_of_one_file_is_enough_for_who_holds_one(tmp_path: Path, folder: UrlFolder) -> None:
    cache = ShardCache(tmp_path / "cache", max_bytes=SIZE, room_timeout_seconds=0.2)
    with Prefetcher(cache, folder, ORDER, ahead_bytes=8 * SIZE) as prefetcher:
        for k, content in enumerate(CONTENTS):
            with prefetcher.get(k) as path:
                time.sleep(0.25 if k == 0 else 0)  # longer than the cache waits for room: nobody is starved
                assert path.read_bytes() == content


def test_who_holds_more_than_the_cache_has_is_told(cache: ShardCache, folder: UrlFolder) -> None:
    with Prefetcher(cache, folder, ORDER, ahead_bytes=SIZE) as prefetcher:
        leases = [prefetcher.get(k) for k in range(4)]
        with pytest.raises(CacheFullError, match="at least 5,000 bytes"):
            prefetcher.get(4)
        for lease in leases:
            lease.release()


def test_an_error_is_raised_at_its_file_and_only_there(
    cache: ShardCache, folder: UrlFolder, server: FaultyServer
) -> None:
    order = [*ORDER[:2], ("none.tar", SIZE, "0" * 64), *ORDER[2:4]]
    with Prefetcher(cache, folder, order, ahead_bytes=4 * SIZE) as prefetcher:
        assert [take(prefetcher, k) for k in (0, 1)] == CONTENTS[:2]
        with pytest.raises(UrlError, match=r"(?s)no such file.*none\.tar"):
            prefetcher.get(2)
        assert [take(prefetcher, k) for k in (3, 4)] == CONTENTS[2:4]


def test_a_file_larger_than_the_cache_is_an_error_at_once(cache: ShardCache, folder: UrlFolder) -> None:
    cache.room_timeout_seconds = 600
    with (
        Prefetcher(cache, folder, [("0.tar", 5000, "0" * 64)], ahead_bytes=0) as prefetcher,
        pytest.raises(CacheFullError, match="does not fit"),
    ):
        prefetcher.get(0)


def test_an_error_of_the_order_is_raised_where_it_happened(cache: ShardCache, folder: UrlFolder) -> None:
    def order() -> Iterator[tuple[str, int, str]]:
        yield ORDER[0]
        raise RuntimeError("no more")

    with Prefetcher(cache, folder, order(), ahead_bytes=2 * SIZE) as prefetcher:
        assert take(prefetcher, 0) == CONTENTS[0]
        with pytest.raises(RuntimeError, match="no more"):
            prefetcher.get(1)
        with pytest.raises(IndexError, match="2 files"):
            prefetcher.get(2)


def test_an_order_without_end_is_read_as_far_as_is_ahead(cache: ShardCache, folder: UrlFolder) -> None:
    read: list[int] = []

    def order() -> Iterator[tuple[str, int, str]]:
        while True:
            read.append(len(read))
            yield ORDER[read[-1] % 8]

    with Prefetcher(cache, folder, order(), ahead_bytes=2 * SIZE) as prefetcher:
        assert [take(prefetcher, k) for k in range(20)] == [CONTENTS[k % 8] for k in range(20)]
        time.sleep(0.1)
        assert len(read) <= 23


def test_after_the_last_file_comes_an_index_error(cache: ShardCache, folder: UrlFolder) -> None:
    with Prefetcher(cache, folder, ORDER[:1], ahead_bytes=SIZE) as prefetcher:
        take(prefetcher, 0)
        for _ in range(2):
            with pytest.raises(IndexError, match="1 files"):
                prefetcher.get(1)


def test_files_out_of_order_are_refused(cache: ShardCache, folder: UrlFolder) -> None:
    with (
        Prefetcher(cache, folder, ORDER, ahead_bytes=SIZE) as prefetcher,
        pytest.raises(ValueError, match="0 is the next, not 1"),
    ):
        prefetcher.get(1)


@pytest.mark.parametrize(("ahead_bytes", "num_threads"), [(-1, 1), (0, 0)])
def test_a_prefetcher_that_cannot_work_is_refused(
    ahead_bytes: int, num_threads: int, cache: ShardCache, folder: UrlFolder
) -> None:
    with pytest.raises(ValueError, match="must"):
        Prefetcher(cache, folder, ORDER, ahead_bytes=ahead_bytes, num_threads=num_threads)


def test_closing_releases_what_was_not_taken(cache: ShardCache, folder: UrlFolder, server: FaultyServer) -> None:
    with Prefetcher(cache, folder, ORDER[:4], ahead_bytes=4 * SIZE):
        wait_until(lambda: len(list(cache.directory.glob("?" * 64))) == 4)
    leases = [cache.lease(folder, name, num_bytes=SIZE, sha256=sha256) for name, _, sha256 in ORDER[4:]]
    for lease in leases:
        lease.release()


def test_closing_is_prompt_while_the_cache_is_full(cache: ShardCache, folder: UrlFolder) -> None:
    cache.room_timeout_seconds = 600
    leases = [cache.lease(folder, name, num_bytes=SIZE, sha256=sha256) for name, _, sha256 in ORDER[:4]]
    prefetcher = Prefetcher(cache, folder, ORDER[4:], ahead_bytes=4 * SIZE)
    time.sleep(0.1)
    begin = time.monotonic()
    prefetcher.close()
    assert time.monotonic() - begin < 1.5
    assert not any(thread.is_alive() for thread in prefetcher._threads)
    assert len(leases) == 4


def test_closing_is_prompt_while_a_server_is_silent(cache: ShardCache, folder: UrlFolder, server: FaultyServer) -> None:
    server.script([Fault("delay", seconds=60)] * 2)
    prefetcher = Prefetcher(cache, folder, ORDER, ahead_bytes=2 * SIZE, num_threads=2)
    wait_until(lambda: len(server.requests) == 2)
    begin = time.monotonic()
    prefetcher.close(timeout_seconds=0.2)
    assert time.monotonic() - begin < 1.5
    server.go_on.set()
    for thread in prefetcher._threads:
        thread.join(20)
    assert [path.name for path in cache.directory.iterdir()] == [".lock"]  # what they had begun is gone


def test_a_lease_that_comes_after_closing_is_released(
    cache: ShardCache, folder: UrlFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    came, go_on = threading.Event(), threading.Event()
    lease_at_once = cache.lease

    def lease_late(folder: UrlFolder, name: str, *, num_bytes: int, sha256: str, **_: object) -> Lease:
        lease = lease_at_once(folder, name, num_bytes=num_bytes, sha256=sha256)
        came.set()
        go_on.wait(20)
        return lease

    monkeypatch.setattr(cache, "lease", lease_late)
    prefetcher = Prefetcher(cache, folder, ORDER, ahead_bytes=SIZE, num_threads=1)
    assert came.wait(20)
    prefetcher.close(timeout_seconds=0)
    go_on.set()
    # These need the whole cache.
    leases = [lease_at_once(folder, name, num_bytes=num_bytes, sha256=sha256) for name, num_bytes, sha256 in ORDER[4:]]
    for lease in leases:
        lease.release()


def test_a_consumer_that_waits_is_woken_by_closing(cache: ShardCache, folder: UrlFolder, server: FaultyServer) -> None:
    server.script([Fault("delay", seconds=60)])
    prefetcher = Prefetcher(cache, folder, ORDER, ahead_bytes=0, num_threads=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(prefetcher.get, 0)
        wait_until(lambda: len(server.requests) == 1)
        prefetcher.close(timeout_seconds=0)
        with pytest.raises(ValueError, match="closed"):
            waiting.result(timeout=20)
    server.go_on.set()


def test_two_prefetchers_in_the_same_order_download_each_file_once(
    cache: ShardCache, folder: UrlFolder, server: FaultyServer
) -> None:
    together = threading.Barrier(2)

    def consume() -> list[bytes]:
        got = []
        with Prefetcher(cache, folder, ORDER, ahead_bytes=SIZE) as prefetcher:
            for k in range(8):
                with prefetcher.get(k) as path:
                    together.wait(timeout=20)  # as the ranks of a job do in each step
                    got.append(path.read_bytes())
        return got

    with ThreadPoolExecutor(2) as pool:
        assert [each.result() for each in [pool.submit(consume), pool.submit(consume)]] == [CONTENTS, CONTENTS]
    assert sorted(asked(server)) == [name for name, _, _ in ORDER]


@example(numbers=[6, 0, 2, 2, 0, 0, 6], held=1, ahead=7, num_threads=5, spare=0)  # a file twice, soon after itself
@given(
    numbers=st.lists(st.integers(0, 7), max_size=20),
    held=st.integers(1, 3),
    ahead=st.integers(0, 10),
    num_threads=st.integers(1, 5),
    spare=st.integers(0, 2),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_comes_whole_when_what_is_held_fits(
    numbers: list[int],
    held: int,
    ahead: int,
    num_threads: int,
    spare: int,
    served: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cache = ShardCache(tmp_path_factory.mktemp("cache"), max_bytes=(held + spare) * SIZE, room_timeout_seconds=0.5)
    folder = UrlFolder(served.as_uri(), retries=QUICK)
    order = (ORDER[number] for number in numbers)
    got = []
    with Prefetcher(cache, folder, order, ahead_bytes=ahead * SIZE // 2, num_threads=num_threads) as prefetcher:
        for begin in range(0, len(numbers), held):
            block = [prefetcher.get(k) for k in range(begin, min(begin + held, len(numbers)))]
            got += [lease.path.read_bytes() for lease in block]
            for lease in block:
                lease.release()
    assert got == [CONTENTS[number] for number in numbers]
