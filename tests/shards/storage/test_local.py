"""What happens to a loop when a shard is not left alone, and how shards are brought near ahead of it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ShardCorruptError, ShardError
from shards.order.orders import BlockShuffled, InOrder, Order
from shards.reading.loader import ShardLoader
from shards.reading.split import Split, copy_bytes
from shards.spec import Storage
from shards.storage.local import LocalShards
from shards.storage.source import Ahead
from tests.support.commands import environment, in_shared_memory, left_in_shared_memory
from tests.support.samples import make_sample, make_spec, with_byte_changed, write_split

NUM_SAMPLES = 12
SPEC = make_spec(num_frames=2, size=8, num_mels=3, num_hops=5)
BROKEN = "train-00002.tar"


def write(root: Path, *, storage: Storage = "raw") -> Path:
    spec = make_spec(num_frames=2, size=8, num_mels=3, num_hops=5, storage=storage)
    write_split(root, [make_sample(i, spec=spec) for i in range(NUM_SAMPLES)], spec=spec, samples_per_shard=3)
    return root / "train"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write(tmp_path)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert threads_at_work() == []


def threads_at_work() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shard-")]


def later(path: Path) -> None:
    """Put the time of a file's last change a second on: tests are quicker than the clock of some file systems."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def replace_it(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes()[::-1])
    later(other)
    other.rename(path)


def cut_it(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def write_into_it(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x" * 1000)
    later(path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "replaced": replace_it,
    "cut": cut_it,
    "written into": write_into_it,
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("was_used", [True, False])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_shard_that_is_changed_under_a_loop_is_its_error_with_the_file(
    directory: Path, change: Callable[[Path], None], was_used: bool
) -> None:
    split = Split(directory)
    loader = ShardLoader(split, order=InOrder(NUM_SAMPLES), batch_size=1, num_readers=2, ring_size=2)
    batches = iter(loader)
    if was_used:
        assert [batch.samples.tolist() for batch in islice(loader, NUM_SAMPLES)] == [[i] for i in range(NUM_SAMPLES)]
        loader.seek(ShardLoader(split, order=InOrder(NUM_SAMPLES), batch_size=1).state())
    assert next(batches).samples.tolist() == [0]
    change(directory / BROKEN)
    before = time.monotonic()
    with pytest.raises(ShardCorruptError, match=rf"(?s){directory / BROKEN}.*next: "):
        for _ in batches:
            pass
    assert loader.state().position <= 6
    assert time.monotonic() - before < 5


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
@pytest.mark.parametrize("member", ["video", "audio", "text", "json"])
def test_a_flipped_byte_is_found_by_a_loop_that_checks(tmp_path: Path, storage: Storage, member: str) -> None:
    directory = write(tmp_path, storage=storage)
    split = Split(directory)
    damaged = 7
    path = Path(split.shard_of(damaged))
    offset = int(split.rows[f"{member}_offset"][damaged])
    path.write_bytes(with_byte_changed(path.read_bytes(), offset + 20, mask=1))
    split = Split(directory)
    loader = ShardLoader(split, order=InOrder(NUM_SAMPLES), batch_size=1, ring_size=2, num_readers=2, check=True)
    with pytest.raises(ShardCorruptError, match=rf"(?s)sample 7.*{BROKEN}.*mmsent verify"):
        list(loader)
    with pytest.raises(ShardCorruptError, match=rf"(?s)sample 7.*{BROKEN}"):
        split.sample(damaged)
    assert split.sample(damaged - 1).meta == make_sample(damaged - 1, spec=split.spec).meta


def test_an_empty_split_is_refused_before_there_is_a_loader(tmp_path: Path) -> None:
    write_split(tmp_path, [], spec=SPEC)
    with pytest.raises(ShardError, match=r"(?s)no samples.*train"):
        Split(tmp_path / "train")


def test_on_more_ranks_than_samples_each_sample_comes_once_and_every_rank_has_the_same_steps(directory: Path) -> None:
    world_size = NUM_SAMPLES + 5
    seen, steps = [], set()
    for rank in range(world_size):
        loader = ShardLoader(
            Split(directory), order=InOrder(NUM_SAMPLES), batch_size=100, rank=rank, world_size=world_size
        )
        batches = [(batch.samples.tolist(), batch.global_size) for batch in loader]
        seen += [sample for samples, _ in batches for sample in samples]
        steps.add((len(batches), batches[0][1]))
    assert sorted(seen) == list(range(NUM_SAMPLES))
    assert steps == {(1, NUM_SAMPLES)}


LOOP = """
import sys
from pathlib import Path
from shards.reading.loader import ShardLoader
from shards.order.orders import BlockShuffled
from shards.reading.split import Split
split = Split(Path(sys.argv[1]))
loader = ShardLoader(split, order=BlockShuffled((3,) * 4, 0, 2), batch_size=2, num_readers=3, ring_size=3)
while True:
    for batch in loader:
        print(len(batch), flush=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_ended_in_a_loop_is_gone_at_once_and_leaves_nothing(directory: Path, sent: int) -> None:
    before = in_shared_memory()
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    began = time.monotonic()
    process.send_signal(sent)
    _, trouble = process.communicate(timeout=20)
    assert time.monotonic() - began < 2
    assert process.returncode == -sent
    assert ("KeyboardInterrupt" in trouble) == (sent == signal.SIGINT)
    assert left_in_shared_memory(before) == set()


ORDERS: dict[str, Callable[[], Order]] = {
    "in order": lambda: InOrder(NUM_SAMPLES),
    "blocks of 2": lambda: BlockShuffled((3,) * 4, 5, 2),
    "blocks of all": lambda: BlockShuffled((3,) * 4, 5, 9),
}


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="nothing can be asked of this system")
@pytest.mark.parametrize("make_order", ORDERS.values(), ids=ORDERS.keys())
def test_batches_are_the_same_where_nothing_can_be_asked_of_the_system(
    directory: Path, make_order: Callable[[], Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    def epoch() -> list[tuple[list[int], bytes]]:
        loader = ShardLoader(Split(directory), order=make_order(), batch_size=2, num_readers=2)
        return [(batch.samples.tolist(), batch.frames.tobytes()) for batch in loader]

    asked = epoch()
    monkeypatch.delattr(os, "posix_fadvise")
    assert epoch() == asked


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="nothing can be asked of this system")
def test_shards_are_asked_for_in_the_order_of_their_use_as_far_as_they_are_used_at_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    came = threading.Condition()

    def advise(descriptor: int, *_: int) -> None:
        with came:
            asked.append(int(Path(f"/proc/self/fd/{descriptor}").readlink().stem.rpartition("-")[2]))
            came.notify()

    monkeypatch.setattr(os, "posix_fadvise", advise)
    shards = LocalShards(directory, Split(directory).index.shards)
    with shards.follow(Ahead((2, 0, 3, 1), num_at_once=2)):
        with came:
            assert came.wait_for(lambda: len(asked) == 2, timeout=10)
            assert not came.wait_for(lambda: len(asked) > 2, timeout=0.05)
        shards.check_unchanged(0)
        with came:
            assert came.wait_for(lambda: len(asked) == 3, timeout=10)
        shards.check_unchanged(1)
        with came:
            assert came.wait_for(lambda: len(asked) == 4, timeout=10)
    assert asked == [2, 0, 3, 1]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="nothing can be asked of this system")
def test_a_loop_that_is_left_ends_the_thread_that_asks(directory: Path) -> None:
    loader = ShardLoader(Split(directory), order=InOrder(NUM_SAMPLES), batch_size=1, ring_size=2)
    for _ in loader:
        assert "shard-readahead" in threads_at_work()
        break
    assert threads_at_work() == []


def test_a_shard_that_is_gone_does_not_end_the_thread_that_asks_but_is_the_error_of_the_loop(directory: Path) -> None:
    split = Split(directory)
    (directory / "train-00001.tar").unlink()
    with pytest.raises(ShardCorruptError, match=r"train-00001\.tar"):
        list(ShardLoader(split, order=InOrder(NUM_SAMPLES), batch_size=1))


@given(
    num_bytes=st.integers(0, 3), many=st.sampled_from([0, 64 * 1024 - 8, 64 * 1024, 200_000]), shift=st.integers(0, 9)
)
def test_bytes_are_copied_whatever_their_number_and_place(num_bytes: int, many: int, shift: int) -> None:
    source = np.random.default_rng(many).integers(0, 256, shift + many + num_bytes, dtype=np.uint8)
    target = np.full(shift + many + num_bytes + 1, 7, dtype=np.uint8)
    copy_bytes(source[shift:], target[shift:-1])
    assert target[shift:-1].tobytes() == source[shift:].tobytes()
    assert set(target[:shift].tolist()) | {int(target[-1])} == {7}
