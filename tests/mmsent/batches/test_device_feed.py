import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmsent.batches.batch import Batch, host_memory, to_device
from mmsent.batches.device_feed import DeviceFeed, StepQueue, ahead_by_one
from shards.errors import ShardCorruptError
from shards.order.orders import InOrder, Shuffled
from shards.reading.host_batch import HostBatch
from shards.reading.loader import ShardLoader
from shards.reading.planner import LoaderState
from shards.reading.split import Split
from tests.support.samples import make_sample, with_byte_changed, write_split

CPU = torch.device("cpu")
COUNT = 13


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    root = tmp_path_factory.mktemp("shards")
    absent = {1: ("video", "audio"), 2: ("audio",)}
    write_split(root, [make_sample(i, absent=absent.get(i, ())) for i in range(COUNT)])
    return Split(root / "train")


def loader(split: Split, *, batch_size: int = 5, num_readers: int = 2, ring_size: int = 3) -> ShardLoader:
    order = Shuffled(len(split), 7)
    return ShardLoader(split, order=order, batch_size=batch_size, num_readers=num_readers, ring_size=ring_size)


def content(batch: Batch) -> list[bytes]:
    """Copy what a batch holds, since its memory is used again."""
    return [tensor.cpu().contiguous().numpy().tobytes() for tensor in batch.tensors()]


def expected(split: Split, *, epochs: int, batch_size: int = 5) -> list[tuple[list[bytes], LoaderState]]:
    """What a loader without a feed gives, and where it then stands."""
    source = loader(split, batch_size=batch_size)
    return [(content(to_device(host, CPU)), source.state()) for _ in range(epochs) for host in source]


def test_batches_and_places_are_those_of_the_loader_epoch_after_epoch(split: Split) -> None:
    feed = DeviceFeed(loader(split), CPU)
    got = [(content(batch), feed.state()) for _ in range(2) for batch in feed]
    assert got == expected(split, epochs=2)
    assert len(feed) == 3
    assert (feed.state().epoch, feed.state().position) == (2, 0)


def test_a_feed_begins_where_its_loader_stands(split: Split) -> None:
    whole = expected(split, epochs=1)
    source = loader(split)
    source.seek(whole[0][1])
    feed = DeviceFeed(source, CPU)
    assert feed.state() == whole[0][1]
    assert [content(batch) for batch in feed] == [batch for batch, _ in whole[1:]]


def test_the_place_before_the_first_batch_is_the_beginning(split: Split) -> None:
    feed = DeviceFeed(loader(split), CPU)
    batches = iter(feed)
    assert feed.state().position == 0
    next(batches)
    assert feed.state().position == 5


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_a_feed_that_stops_anywhere_and_goes_on_gives_what_one_without_a_stop_gives(
    split: Split, data: st.DataObject
) -> None:
    batch_size = data.draw(st.integers(1, COUNT + 2), label="batch size")
    whole = expected(split, epochs=2, batch_size=batch_size)
    stop = data.draw(st.integers(0, len(whole)), label="batches before the stop")
    feed = DeviceFeed(loader(split, batch_size=batch_size), CPU)
    before: list[tuple[list[bytes], LoaderState]] = []
    while len(before) < stop:
        for batch in feed:
            before.append((content(batch), feed.state()))
            if len(before) == stop:
                break
    if data.draw(st.booleans(), label="in a new process"):
        state = feed.state()
        feed = DeviceFeed(loader(split, batch_size=batch_size, num_readers=1, ring_size=2), CPU)
        feed.seek(state)
    after: list[tuple[list[bytes], LoaderState]] = []
    while len(before) + len(after) < len(whole):
        after += [(content(batch), feed.state()) for batch in feed]
    assert before + after == whole


def test_the_place_in_another_order_is_refused_and_the_feed_stays_where_it_is(split: Split) -> None:
    feed = DeviceFeed(loader(split), CPU)
    other = ShardLoader(split, order=Shuffled(len(split), 8), batch_size=5)
    with pytest.raises(ValueError, match="another order"):
        feed.seek(other.state())
    assert feed.state() == loader(split).state()


def test_a_damaged_sample_is_an_error_and_the_place_stays_before_it(tmp_path: Path) -> None:
    write_split(tmp_path, [make_sample(i) for i in range(6)], samples_per_shard=6)
    path = tmp_path / "train" / "train-00000.tar"
    frames = make_sample(4).frames.tobytes()
    raw = path.read_bytes()
    path.write_bytes(with_byte_changed(raw, raw.index(frames) + 7))
    damaged = ShardLoader(Split(tmp_path / "train"), order=InOrder(6), batch_size=2, ring_size=2, check=True)
    feed = DeviceFeed(damaged, CPU)
    with pytest.raises(ShardCorruptError, match=r"train-00000\.tar"):
        for _ in feed:
            pass
    assert feed.state().epoch == 0
    assert feed.state().position <= 4


def test_a_feed_that_is_left_ends_its_readers(split: Split) -> None:
    feed = DeviceFeed(loader(split), CPU)
    for _ in feed:
        break
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("shard-reader")] == []


class FakeEvent:
    """A mark in the work of a GPU whose clock a test sets."""

    now = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self._at = -1.0

    def record(self) -> None:
        self._at = FakeEvent.now

    def synchronize(self) -> None:
        assert self._at >= 0, "nobody recorded it"

    def elapsed_time(self, end: "FakeEvent") -> float:
        return (end._at - self._at) * 1000


def test_waiting_for_data_is_what_a_gpu_has_to_wait_and_not_what_the_cpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.Event", FakeEvent)
    queue = StepQueue()
    found = []
    # Seconds on the GPU before each step, and for which the CPU waited for its batch.
    for gap, waited in ((9.0, 0.5), (0.0, 0.4), (0.3, 0.4), (0.2, 0.1), (0.0, 0.0)):
        FakeEvent.now += gap
        queue.begin(waited)
        FakeEvent.now += 1
        found.append(queue.end())
    found.append(queue.finish())
    assert found == pytest.approx([0, 0, 0.5, 0, 0.3, 0.1])


def test_on_a_cpu_waiting_is_what_the_loader_takes(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ShardLoader.__iter__

    def slow(self: ShardLoader) -> Iterator[HostBatch]:
        for batch in plain(self):
            time.sleep(0.05)
            yield batch

    monkeypatch.setattr(ShardLoader, "__iter__", slow)
    feed = DeviceFeed(loader(split), CPU)
    for _ in feed:
        time.sleep(0.3)  # a step, which is none of it
    assert 0.15 <= feed.wait_seconds < 0.6


class FakeUpload:
    """A copy of a batch that is made only when it is waited for, as late as a GPU might."""

    def __init__(self, host: HostBatch, state: LoaderState, device: torch.device, stream: object) -> None:
        self._host = host
        self._state = state
        self._batch: Batch | None = None

    def wait_until_read(self) -> None:
        batch = to_device(self._host, CPU)
        self._batch = replace(
            batch,
            **{name: getattr(batch, name).clone() for name in ("frames", "logmel", "num_hops", "tokens", "token_mask")},
        )

    def arrived(self) -> tuple[Batch, LoaderState]:
        assert self._batch is not None, "handed out before its source was read"
        return self._batch, self._state


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_feed_whose_loader_is_one_ahead_stops_and_goes_on_as_if_it_were_not(
    split: Split, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr("mmsent.batches.device_feed._Upload", FakeUpload)  # stands for the GPU that is not here
    monkeypatch.setattr("torch.cuda.Stream", lambda device: None)
    monkeypatch.setattr("torch.cuda.Event", FakeEvent)
    batch_size = data.draw(st.integers(1, COUNT + 2), label="batch size")
    whole = expected(split, epochs=2, batch_size=batch_size)
    stop = data.draw(st.integers(0, len(whole) - 1), label="batches before the stop")
    source = loader(split, batch_size=batch_size, ring_size=2)
    feed = DeviceFeed(source, torch.device("cuda"))
    got: list[tuple[list[bytes], LoaderState]] = []
    while len(got) < stop:
        for batch in feed:
            got.append((content(batch), feed.state()))
            if len(got) == stop:
                break
    if stop and len(got) % len(feed):  # in the middle of an epoch
        assert source.state() != feed.state()
    while len(got) < len(whole):
        got += [(content(batch), feed.state()) for batch in feed]
    assert got == whole


class FakeTransfers:
    """Transfers that write down what happens to them, in order."""

    def __init__(self, count: int, *, source_fails_at: int = -1, start_fails_at: int = -1) -> None:
        self.events: list[str] = []
        self._count = count
        self._source_fails_at = source_fails_at
        self._start_fails_at = start_fails_at

    def sources(self) -> Iterator[int]:
        for number in range(self._count):
            self.events.append(f"ask {number}")
            if number == self._source_fails_at:
                raise OSError("the disk is gone")
            yield number
        self.events.append("end")

    def start(self, source: int) -> "FakeTransfer":
        self.events.append(f"begin {source}")
        if source == self._start_fails_at:
            raise MemoryError
        return FakeTransfer(source, self.events)


class FakeTransfer:
    def __init__(self, source: int, events: list[str]) -> None:
        self._source = source
        self._events = events

    def wait_until_read(self) -> None:
        self._events.append(f"wait {self._source}")

    def arrived(self) -> int:
        self._events.append(f"arrive {self._source}")
        return self._source


def test_the_next_transfer_begins_before_the_last_is_handed_out_and_a_source_waits_for_the_one_before() -> None:
    fake = FakeTransfers(3)
    for item in ahead_by_one(fake.sources(), fake.start):
        fake.events.append(f"step {item}")
    assert fake.events == [
        *("ask 0", "begin 0", "wait 0"),
        *("ask 1", "begin 1", "arrive 0", "step 0", "wait 1"),
        *("ask 2", "begin 2", "arrive 1", "step 1", "wait 2"),
        *("end", "arrive 2", "step 2"),
    ]


@given(st.integers(0, 20))
def test_all_arrive_once_and_in_order_and_memory_is_asked_for_again_only_when_it_was_read(count: int) -> None:
    fake = FakeTransfers(count)
    assert list(ahead_by_one(fake.sources(), fake.start)) == list(range(count))
    at = {event: place for place, event in enumerate(fake.events)}
    for number in range(1, count):
        assert at[f"wait {number - 1}"] < at[f"ask {number}"] < at[f"begin {number}"] < at[f"arrive {number - 1}"]


def test_a_source_that_fails_ends_it_with_its_error_after_what_was_handed_out() -> None:
    fake = FakeTransfers(5, source_fails_at=3)
    items = ahead_by_one(fake.sources(), fake.start)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)  # 2 was under way: the state of the feed says so, and it comes again


def test_a_transfer_that_cannot_begin_ends_it_with_its_error() -> None:
    fake = FakeTransfers(5, start_fails_at=1)
    with pytest.raises(MemoryError):
        list(ahead_by_one(fake.sources(), fake.start))
    assert "arrive 0" not in fake.events


def test_one_that_is_left_closes_its_sources() -> None:
    fake = FakeTransfers(5)
    items = ahead_by_one(fake.sources(), fake.start)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert "ask 2" not in fake.events


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_are_those_of_the_loader_even_if_the_step_is_late(split: Split) -> None:
    device = torch.device("cuda")
    source = ShardLoader(
        split,
        order=Shuffled(len(split), 7),
        batch_size=5,
        num_readers=2,
        ring_size=2,
        allocate=host_memory(torch.device("cuda")),
    )
    feed = DeviceFeed(source, device)
    work = torch.zeros(4096, 4096, device=device)
    copies, states = [], []
    for _ in range(20):
        for batch in feed:
            work = work @ work  # the step: batches are dropped long before the device has read them
            copies.append([tensor.clone() for tensor in batch.tensors()])
            states.append(feed.state())
    torch.cuda.synchronize()
    got = [[tensor.cpu().contiguous().numpy().tobytes() for tensor in tensors] for tensors in copies]
    assert list(zip(got, states, strict=True)) == expected(split, epochs=20)
