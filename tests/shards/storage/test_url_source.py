"""A split behind a URL gives the batches of the same split in a folder, whatever the cache, readers and server do."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import CacheFullError, ShardError, UrlError
from shards.order.orders import BlockShuffled, InOrder, Order, Shuffled
from shards.order.sampling import ClassBalanced
from shards.reading.host_batch import HostBatch
from shards.reading.loader import ShardLoader
from shards.reading.split import Split
from shards.storage.cache import ShardCache
from shards.storage.url_folder import RetryPolicy, UrlFolder
from shards.storage.url_source import UrlSource
from tests.support.commands import environment
from tests.support.faulty_server import Fault, FaultyServer, folder_answer, wait_until
from tests.support.samples import make_sample, make_spec, write_split

SPEC = make_spec(num_frames=2, size=4, num_mels=3, num_hops=5)
NUM_SAMPLES = 26
SAMPLES_PER_SHARD = 4
NUM_SHARDS = 7
QUICK = RetryPolicy(num_tries=2, first_wait_seconds=0.001, longest_wait_seconds=0.002)

Copied = tuple[tuple[int, ...], int, bytes, bytes, bytes, tuple[int, ...]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("origin")
    samples = [make_sample(i, spec=SPEC, absent=("video",) if i % 5 == 0 else ()) for i in range(NUM_SAMPLES)]
    write_split(root, samples, spec=SPEC, samples_per_shard=SAMPLES_PER_SHARD)
    return root


@pytest.fixture(scope="module")
def local(root: Path) -> Split:
    return Split(root / "train")


@pytest.fixture
def server(root: Path) -> Iterator[FaultyServer]:
    with FaultyServer(folder_answer(root)) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: not threads_at_work(), seconds=3)


def threads_at_work() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("shard-", "prefetch-"))]


def shard_bytes(split: Split) -> list[int]:
    return [shard.bytes for shard in split.index.shards]


def open_remote(url: str, directory: Path, *, max_bytes: int, room_seconds: float = 1.0) -> Split:
    cache = ShardCache(directory, max_bytes=max_bytes, room_timeout_seconds=room_seconds)
    return Split(UrlSource(UrlFolder(url, retries=QUICK).child("train"), cache))


def block_shuffled(split: Split, shards_per_block: int, *, seed: int = 3) -> BlockShuffled:
    return BlockShuffled(tuple(shard.num_samples for shard in split.index.shards), seed, shards_per_block)


ORDERS: dict[str, Callable[[Split], Order]] = {
    "in order": lambda split: InOrder(len(split)),
    "blocks of 1": lambda split: block_shuffled(split, 1),
    "blocks of 2": lambda split: block_shuffled(split, 2),
    "blocks of 3": lambda split: block_shuffled(split, 3),
    "blocks of all": lambda split: block_shuffled(split, 50),
    "shuffled": lambda split: Shuffled(len(split), 3),
    "class-balanced": lambda split: ClassBalanced(split.rows["labels"][:, 0].astype(np.int64), 3),
}


def copied(batch: HostBatch) -> Copied:
    arrays = (batch.frames.tobytes(), batch.logmel.tobytes(), batch.tokens.tobytes())
    return (tuple(batch.samples.tolist()), batch.global_size, *arrays, tuple(batch.labels["emotion"].tolist()))


def epoch_of(loader: ShardLoader) -> list[Copied]:
    return [copied(batch) for batch in loader]


def assert_nothing_is_leased(directory: Path) -> None:
    """Lock what is in a cache exclusively, as who evicts it does; the lock of the folder is not one."""
    assert not list(directory.glob("*.part"))
    for path in directory.glob("?" * 64):
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def in_memory(root: Path) -> str:
    system = fsspec.filesystem("memory")
    for path in filter(Path.is_file, (root / "train").iterdir()):
        system.pipe_file(f"/{root.name}/train/{path.name}", path.read_bytes())
    return f"memory://{root.name}"


@pytest.mark.parametrize("scheme", ["file", "memory"])
@pytest.mark.parametrize("make_order", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("num_readers", [1, 3])
def test_batches_by_url_are_those_of_the_folder(
    root: Path, local: Split, tmp_path: Path, scheme: str, make_order: Callable[[Split], Order], num_readers: int
) -> None:
    url = root.as_uri() if scheme == "file" else in_memory(root)
    remote = open_remote(url, tmp_path / "cache", max_bytes=sum(shard_bytes(local)))
    expected = ShardLoader(local, order=make_order(local), batch_size=3)
    loader = ShardLoader(remote, order=make_order(remote), batch_size=3, num_readers=num_readers, check=True)
    for _ in range(2):
        assert epoch_of(loader) == epoch_of(expected)
    assert_nothing_is_leased(tmp_path / "cache")


@pytest.mark.parametrize("name", ORDERS)
def test_dialogues_that_cross_the_borders_of_shards_come_by_url_too(
    root: Path, local: Split, tmp_path: Path, name: str
) -> None:
    """A dialogue has 5 samples, a shard 4; from the smallest cache that is not refused to one that holds all."""
    options: dict[str, Any] = {"batch_size": 2, "ring_size": 2, "dialogue_turns": 4}
    expected = epoch_of(ShardLoader(local, order=ORDERS[name](local), **options))
    num_enough = 0
    for num_shards in range(1, NUM_SHARDS + 1):
        max_bytes = num_shards * max(shard_bytes(local))
        remote = open_remote(root.as_uri(), tmp_path / f"{num_shards}", max_bytes=max_bytes)
        loader = ShardLoader(remote, order=ORDERS[name](remote), num_readers=2, **options)
        with suppress(CacheFullError):
            assert epoch_of(loader) == expected
            num_enough += 1
    assert num_enough >= (4 if name == "in order" else 1)


@pytest.mark.parametrize(("name", "num_needed"), [("in order", 4), ("blocks of 1", 4), ("blocks of 3", 6)])
def test_a_cache_smaller_than_the_split_is_never_exceeded(
    root: Path, local: Split, tmp_path: Path, name: str, num_needed: int
) -> None:
    """As small as it may be: batches of 3 in 3 slots lie in 9 samples, of 4 shards or 2 blocks at most."""
    max_bytes = num_needed * max(shard_bytes(local))
    assert max_bytes < sum(shard_bytes(local))
    remote = open_remote(root.as_uri(), tmp_path / "cache", max_bytes=max_bytes)
    loader = ShardLoader(remote, order=ORDERS[name](remote), batch_size=3, num_readers=3)
    expected = ShardLoader(local, order=ORDERS[name](local), batch_size=3)
    largest, over = 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not over.is_set():
            sizes = []
            for entry in os.scandir(tmp_path / "cache"):
                try:
                    sizes.append(entry.stat().st_size)
                except FileNotFoundError:
                    continue
            largest = max(largest, sum(sizes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(3):
            assert epoch_of(loader) == epoch_of(expected)
    finally:
        over.set()
        watcher.join()
    # A scan is no snapshot: it may see an entry that goes and the one that comes. Never two.
    assert 0 < largest <= max_bytes + max(shard_bytes(local))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= max_bytes


@pytest.mark.parametrize("name", ["in order", "blocks of 3", "shuffled"])
def test_a_cache_too_small_for_an_order_is_an_error_with_the_remedy_before_anything_is_fetched(
    server: FaultyServer, tmp_path: Path, name: str
) -> None:
    remote = open_remote(server.url, tmp_path / "cache", max_bytes=30_000)
    assert max(shard_bytes(remote)) < 30_000
    loader = ShardLoader(remote, order=ORDERS[name](remote), batch_size=3)
    with pytest.raises(CacheFullError, match=rf"(?s)the cache may hold 30,000.*{server.url}/train.*--cache-size"):
        next(iter(loader))
    assert server.requests == []
    assert threads_at_work() == []


def test_a_sample_is_read_by_itself_before_and_after_an_epoch(root: Path, local: Split, tmp_path: Path) -> None:
    remote = open_remote(root.as_uri(), tmp_path / "cache", max_bytes=sum(shard_bytes(local)))
    for _ in range(2):
        assert remote.sample(7).meta == local.sample(7).meta
        assert list(remote.metas()) == list(local.metas())
        assert sum(len(batch) for batch in ShardLoader(remote, order=InOrder(len(remote)), batch_size=4)) == NUM_SAMPLES


@pytest.mark.parametrize("name", ["in order", "blocks of 2", "shuffled"])
def test_leaving_the_loop_gives_back_leases_and_threads_and_the_loader_goes_on(
    root: Path, local: Split, tmp_path: Path, name: str
) -> None:
    remote = open_remote(root.as_uri(), tmp_path / "cache", max_bytes=sum(shard_bytes(local)))
    loader = ShardLoader(remote, order=ORDERS[name](remote), batch_size=3, num_readers=2)
    begun = [copied(batch) for batch in islice(loader, 2)]
    assert threads_at_work() == []
    assert_nothing_is_leased(tmp_path / "cache")
    assert begun + epoch_of(loader) == epoch_of(ShardLoader(local, order=ORDERS[name](local), batch_size=3))


@pytest.mark.parametrize("name", ["in order", "blocks of 2", "shuffled"])
def test_the_end_of_a_pass_while_downloads_hang_is_prompt(
    server: FaultyServer, local: Split, tmp_path: Path, name: str
) -> None:
    remote = open_remote(server.url, tmp_path / "cache", max_bytes=sum(shard_bytes(local)))
    loader = ShardLoader(remote, order=ORDERS[name](remote), batch_size=1, num_readers=2)
    server.script([*([None] * 3), *([Fault("delay", seconds=60)] * 20)])
    begun = time.monotonic()
    interrupt = threading.Timer(0.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    interrupt.start()  # while the loop waits for a batch
    with pytest.raises(KeyboardInterrupt):
        epoch_of(loader)
    wait_until(lambda: "shard-reader-0" not in threads_at_work(), seconds=0.1)
    assert time.monotonic() - begun < 2
    server.go_on.set()  # ends the requests, which nobody can interrupt
    wait_until(lambda: not threads_at_work())
    assert_nothing_is_leased(tmp_path / "cache")


@pytest.mark.parametrize("name", ["in order", "blocks of 2", "shuffled"])
def test_a_second_iteration_is_not_disturbed_by_one_that_was_left_open(
    root: Path, local: Split, tmp_path: Path, name: str
) -> None:
    remote = open_remote(root.as_uri(), tmp_path / "cache", max_bytes=sum(shard_bytes(local)))
    loader = ShardLoader(remote, order=ORDERS[name](remote), batch_size=3, num_readers=2)
    left_open = iter(loader)
    begun = [copied(next(left_open))]
    again = iter(loader)
    begun.append(copied(next(again)))
    with pytest.raises(RuntimeError, match="another iteration over the same loader began"):
        next(left_open)
    del left_open
    begun += [copied(batch) for batch in again]
    assert begun == epoch_of(ShardLoader(local, order=ORDERS[name](local), batch_size=3))
    assert_nothing_is_leased(tmp_path / "cache")


def test_two_loaders_of_one_split_may_be_under_way_at_the_same_time(root: Path, local: Split, tmp_path: Path) -> None:
    remote = open_remote(root.as_uri(), tmp_path / "cache", max_bytes=2 * sum(shard_bytes(local)))
    outer = ShardLoader(remote, order=block_shuffled(remote, 2), batch_size=4)
    got = []
    for batch in outer:
        got.append(copied(batch))
        if len(got) == 2:
            inner = epoch_of(ShardLoader(remote, order=InOrder(len(remote)), batch_size=4))
            assert inner == epoch_of(ShardLoader(local, order=InOrder(len(local)), batch_size=4))
    assert got == epoch_of(ShardLoader(local, order=block_shuffled(local, 2), batch_size=4))
    assert_nothing_is_leased(tmp_path / "cache")


@pytest.mark.parametrize("name", ["in order", "blocks of 2"])
def test_a_resumed_epoch_gives_the_rest_from_an_empty_cache_and_fetches_only_what_it_needs(
    server: FaultyServer, local: Split, tmp_path: Path, name: str
) -> None:
    expected = epoch_of(ShardLoader(local, order=ORDERS[name](local), batch_size=3))
    first = open_remote(server.url, tmp_path / "first", max_bytes=sum(shard_bytes(local)))
    loader = ShardLoader(first, order=ORDERS[name](first), batch_size=3)
    assert [copied(batch) for batch in islice(loader, 6)] == expected[:6]
    server.script([])
    second = open_remote(server.url, tmp_path / "second", max_bytes=sum(shard_bytes(local)))
    resumed = ShardLoader(second, order=ORDERS[name](second), batch_size=3, num_readers=3)
    resumed.seek(loader.state())
    assert epoch_of(resumed) == expected[6:]
    assert len(server.requests) == 3  # 18 of 26 samples are over: four shards, or two blocks of two
    assert resumed.state().epoch == 1


RESUME = """
import hashlib, sys
from pathlib import Path
from shards.reading.planner import LoaderState
from tests.shards.storage.test_url_source import *
split = open_remote(sys.argv[1], Path(sys.argv[2]), max_bytes=int(sys.argv[3]))
loader = ShardLoader(split, order=block_shuffled(split, 2), batch_size=3)
loader.seek(LoaderState(order=loader.order.identity, epoch=1, position=int(sys.argv[4])))
for batch in loader:
    print(batch.samples.tolist(), hashlib.sha256(batch.frames.tobytes()).hexdigest(), flush=True)
    if len(sys.argv) > 5:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def resumed_process(url: str, cache: Path, max_bytes: int, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", RESUME, url, str(cache), str(max_bytes), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def test_a_killed_process_is_continued_by_a_new_one_on_the_same_cache(root: Path, local: Split, tmp_path: Path) -> None:
    max_bytes = 6 * max(shard_bytes(local))
    whole, *_ = resumed_process(root.as_uri(), tmp_path / "whole", max_bytes, "0").communicate(timeout=60)
    killed = resumed_process(root.as_uri(), tmp_path / "cache", max_bytes, "0", "kill")
    first, _ = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert first.count("\n") == 1
    rest, said = resumed_process(root.as_uri(), tmp_path / "cache", max_bytes, "3").communicate(timeout=60)
    assert first + rest == whole, said
    assert whole.count("\n") == 9
    assert_nothing_is_leased(tmp_path / "cache")
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= max_bytes


@pytest.mark.parametrize("name", ["in order", "blocks of 2", "shuffled"])
def test_a_download_that_fails_for_good_is_the_error_of_the_loop_with_its_url(
    server: FaultyServer, local: Split, tmp_path: Path, name: str
) -> None:
    remote = open_remote(server.url, tmp_path / "cache", max_bytes=sum(shard_bytes(local)))
    server.script([None, *[Fault("status", status=503)] * 1000])
    with pytest.raises(UrlError, match=rf"(?s)503.*{server.url}/train/train-0000\d\.tar"):
        epoch_of(ShardLoader(remote, order=ORDERS[name](remote), batch_size=3, num_readers=2))
    assert_nothing_is_leased(tmp_path / "cache")
    server.script([])
    assert len(epoch_of(ShardLoader(remote, order=ORDERS[name](remote), batch_size=3))) == 9


def test_a_shard_that_is_gone_from_the_server_is_an_error_with_its_url(root: Path, tmp_path: Path) -> None:
    write_split(tmp_path / "origin", [make_sample(i, spec=SPEC) for i in range(6)], spec=SPEC)
    remote = open_remote((tmp_path / "origin").as_uri(), tmp_path / "cache", max_bytes=1 << 20)
    (tmp_path / "origin" / "train" / "train-00001.tar").unlink()
    with pytest.raises(UrlError, match=r"(?s)no such file.*train/train-00001\.tar"):
        epoch_of(ShardLoader(remote, order=InOrder(6), batch_size=2))


def test_a_shard_of_another_run_is_an_error_with_its_url(root: Path, tmp_path: Path) -> None:
    write_split(tmp_path / "origin", [make_sample(i, spec=SPEC) for i in range(6)], spec=SPEC)
    remote = open_remote((tmp_path / "origin").as_uri(), tmp_path / "cache", max_bytes=1 << 20)
    shard = tmp_path / "origin" / "train" / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(ShardError, match=r"(?s)SHA-256.*train/train-00001\.tar"):
        epoch_of(ShardLoader(remote, order=InOrder(6), batch_size=2))


@settings(deadline=None, max_examples=40)
@given(
    shards_per_block=st.integers(0, 4),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 5),
    num_readers=st.integers(1, 5),
    ring_size=st.integers(2, 4),
    stop=st.integers(0, 30),
    spare_bytes=st.sampled_from([0, 1, 5_000, 100_000]),
)
def test_whatever_ranks_readers_and_stops_there_are_the_batches_are_those_of_the_folder(
    root: Path,
    local: Split,
    tmp_path_factory: pytest.TempPathFactory,
    shards_per_block: int,
    batch_size: int,
    world_size: int,
    num_readers: int,
    ring_size: int,
    stop: int,
    spare_bytes: int,
) -> None:
    """With the smallest cache that is accepted, or little more."""
    order: Order = block_shuffled(local, shards_per_block) if shards_per_block else InOrder(len(local))
    rank = stop % world_size
    sharing: dict[str, Any] = {"order": order, "batch_size": batch_size, "rank": rank, "world_size": world_size}
    expected = epoch_of(ShardLoader(local, **sharing))
    stop = min(stop, len(expected))
    options = {**sharing, "num_readers": num_readers, "ring_size": ring_size}
    remote = open_remote(root.as_uri(), tmp_path_factory.mktemp("cache"), max_bytes=1)
    with pytest.raises(CacheFullError) as caught:
        epoch_of(ShardLoader(remote, **options))
    needed = re.search(r"shards at a time, ([\d,]+) bytes", str(caught.value))
    assert needed is not None
    max_bytes = int(needed.group(1).replace(",", "")) + spare_bytes
    remote = open_remote(root.as_uri(), tmp_path_factory.mktemp("cache"), max_bytes=max_bytes, room_seconds=5)
    loader = ShardLoader(remote, **options)
    begun = [copied(batch) for batch in islice(loader, stop)] if stop else []
    resumed = ShardLoader(remote, **options)
    resumed.seek(loader.state())
    assert begun + epoch_of(resumed) == expected


@pytest.mark.parametrize("name", ["in order", "blocks of 2"])
def test_ranks_share_one_cache_and_each_shard_is_downloaded_once_per_epoch(
    server: FaultyServer, local: Split, tmp_path: Path, name: str
) -> None:
    """In lockstep, as the ranks of a job are."""
    world_size = 3
    barrier = threading.Barrier(world_size, timeout=60)

    def rank_of(rank: int) -> list[Copied]:
        split = open_remote(server.url, tmp_path / "cache", max_bytes=6 * max(shard_bytes(local)), room_seconds=10)
        loader = ShardLoader(split, order=ORDERS[name](split), batch_size=3, rank=rank, world_size=world_size)
        got = []
        for batch in loader:
            got.append(copied(batch))
            barrier.wait()
        return got

    with ThreadPoolExecutor(world_size) as pool:
        shares = list(pool.map(rank_of, range(world_size)))
    for rank, share in enumerate(shares):
        alone = ShardLoader(local, order=ORDERS[name](local), batch_size=3, rank=rank, world_size=world_size)
        assert share == epoch_of(alone)
    assert sorted(path for path, _ in server.requests) == [f"/train/train-0000{i}.tar" for i in range(NUM_SHARDS)]


INTERRUPTED = """
import sys
from tests.shards.storage.test_url_source import *
split = open_remote(sys.argv[1], Path(sys.argv[2]), max_bytes=1 << 20)
loader = ShardLoader(split, order=ORDERS[sys.argv[3]](split), batch_size=4, num_readers=2)
print("ready", flush=True)
for batch in loader:
    pass
"""


@pytest.mark.parametrize("name", ["in order", "shuffled"])
def test_ctrl_c_while_downloads_hang_ends_the_process(server: FaultyServer, tmp_path: Path, name: str) -> None:
    server.script([Fault("delay", seconds=60)] * 20)
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, server.url, str(tmp_path / "cache"), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    wait_until(lambda: len(server.requests) > 0)
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - before < 5
    assert "KeyboardInterrupt" in said
    server.go_on.set()
