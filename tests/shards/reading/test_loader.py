import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.errors import ShardCorruptError, ShardError
from shards.order.orders import BlockShuffled, InOrder, Order, Shuffled
from shards.order.sampling import ClassBalanced
from shards.reading.host_batch import HostBatch
from shards.reading.loader import ShardLoader
from shards.reading.planner import LoaderState
from shards.reading.split import Places, Split
from shards.schema import MELD_LABELS, MODALITIES, RAW_ARRAYS, Modality, Sample
from tests.support.samples import make_sample, make_spec, write_split

NUM_SAMPLES = 11
SPEC = make_spec(num_frames=2, size=4, num_mels=3, num_hops=5)
Copied = tuple[tuple[int, ...], int, bytes, bytes, bytes]
PATIENCE_SECONDS = 20.0


def make_samples() -> list[Sample]:
    absent = {1: ("video",), 3: ("video", "audio"), 4: ("audio",)}
    return [make_sample(i, spec=SPEC, absent=absent.get(i, ())) for i in range(NUM_SAMPLES)]


@pytest.fixture(autouse=True)
def _no_test_hangs() -> Iterator[None]:
    """Make a loader that waits for ever a failure. A signal ends the waiting: its handler raises in the main thread."""

    def give_up(*_: object) -> None:
        raise TimeoutError("the loader hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 60, 1)  # then every second, for Hypothesis tries again what failed
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("loader")
    write_split(root, make_samples(), spec=SPEC, samples_per_shard=4)
    return root / "train"


@pytest.fixture(scope="module")
def split(directory: Path) -> Split:
    return Split(directory)


def copied(batch: HostBatch) -> Copied:
    """Copy what a batch holds, since its memory is used again."""
    return (
        tuple(batch.samples.tolist()),
        batch.global_size,
        batch.frames.tobytes(),
        batch.logmel.tobytes(),
        batch.tokens.tobytes(),
    )


def make_loader(split: Split, *, shuffle: bool, seed: int = 0, **options: Any) -> ShardLoader:
    order = Shuffled(len(split), seed) if shuffle else InOrder(len(split))
    return ShardLoader(split, order=order, **options)


def state_of(split: Split, *, shuffle: bool = True, seed: int = 0, epoch: int = 0, position: int = 0) -> LoaderState:
    return LoaderState(
        order=make_loader(split, shuffle=shuffle, seed=seed, batch_size=1).order.identity,
        epoch=epoch,
        position=position,
    )


def samples_of(batches: Sequence[Copied]) -> list[int]:
    return [sample for batch in batches for sample in batch[0]]


def assert_batch_holds(batch: HostBatch, samples: Sequence[Sample]) -> None:
    expected = [samples[number] for number in batch.samples]
    metas = [sample.meta for sample in expected]
    for name in ("frames", "logmel", "tokens"):
        array = getattr(batch, name)
        assert array.dtype == getattr(samples[0], name).dtype
        assert array.shape == (len(expected), *getattr(samples[0], name).shape)
        assert array.tobytes() == b"".join(getattr(sample, name).tobytes() for sample in expected)
    for name in ("num_frames", "num_hops", "num_tokens"):
        assert getattr(batch, name).dtype == np.int64
        assert getattr(batch, name).tolist() == [getattr(meta, name) for meta in metas]
    assert batch.present.dtype == np.bool_
    assert batch.present.tolist() == [[meta.presence[name].present for name in MODALITIES] for meta in metas]
    assert set(batch.labels) == {labels.task for labels in MELD_LABELS}
    for labels in MELD_LABELS:
        assert batch.labels[labels.task].dtype == np.int64
        assert batch.labels[labels.task].tolist() == [labels.index(meta.labels[labels.task]) for meta in metas]
    assert len(batch) == len(expected)


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("shard-reader")]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


class CountingSplit(Split):
    """Counts the samples that were copied; for one reader, since `+=` is not atomic."""

    num_copied = 0

    def copy_arrays(self, places: Places, arrays: Mapping[Modality, NDArray[Any]]) -> None:
        super().copy_arrays(places, arrays)
        self.num_copied += len(places)

    def wait_for_samples(self, num_copied: int) -> None:
        wait_until(lambda: self.num_copied >= num_copied)


class BrokenSplit(Split):
    """Raises `exception` in place of copying sample `broken`, as soon as `may_break` is set."""

    def __init__(self, directory: Path, *, broken: int, exception: BaseException | None = None) -> None:
        super().__init__(directory)
        self.broken: int | None = broken
        self.exception = exception or OSError("the disk is gone")
        self.may_break = threading.Event()
        self.may_break.set()

    def copy_arrays(self, places: Places, arrays: Mapping[Modality, NDArray[Any]]) -> None:
        if self.broken in places.samples:
            self.may_break.wait(PATIENCE_SECONDS)
            raise self.exception
        super().copy_arrays(places, arrays)


class StuckSplit(Split):
    """Lets the first reader that copies sample 1 wait until `release` is set, or for a while."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.is_stuck = threading.Event()
        self.release = threading.Event()

    def copy_arrays(self, places: Places, arrays: Mapping[Modality, NDArray[Any]]) -> None:
        if 1 in places.samples and not self.is_stuck.is_set():
            self.is_stuck.set()
            self.release.wait(timeout=0.5)
        super().copy_arrays(places, arrays)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 30])
@pytest.mark.parametrize(("num_readers", "ring_size"), [(1, 2), (3, 4), (5, 2)])
def test_batches_hold_all_fields_of_their_samples(
    split: Split, shuffle: bool, batch_size: int, num_readers: int, ring_size: int
) -> None:
    loader = make_loader(
        split, batch_size=batch_size, shuffle=shuffle, seed=5, num_readers=num_readers, ring_size=ring_size
    )
    seen = []
    for batch in loader:
        assert_batch_holds(batch, make_samples())
        seen += batch.samples.tolist()
    assert seen == loader.order.samples(0, 0, NUM_SAMPLES).tolist()


def test_every_sample_comes_once_per_epoch_and_epochs_differ(split: Split) -> None:
    loader = make_loader(split, batch_size=3, shuffle=True)
    epochs = [samples_of([copied(batch) for batch in loader]) for _ in range(3)]
    assert all(sorted(epoch) == list(range(NUM_SAMPLES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_ragged_last_batch_of_an_evaluation_has_what_is_left_once(split: Split) -> None:
    batches = [copied(batch) for batch in make_loader(split, batch_size=4, shuffle=False)]
    assert [batch[0] for batch in batches] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10)]
    assert [batch[1] for batch in batches] == [4, 4, 3]


@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_its_length_is_the_number_of_batches_on_every_rank(split: Split, world_size: int) -> None:
    for rank in range(world_size):
        loader = make_loader(split, batch_size=4, shuffle=False, rank=rank, world_size=world_size)
        assert len(loader) == len(list(loader)) == 3


def test_a_rank_without_a_sample_of_the_last_batch_still_gets_it_empty(split: Split) -> None:
    loader = make_loader(split, batch_size=10, shuffle=False, rank=4, world_size=5)
    sizes = [(batch.frames.shape, len(batch), batch.global_size) for batch in loader]
    assert sizes == [((2, *SPEC.video.shape), 2, 10), ((0, *SPEC.video.shape), 0, 1)]


@settings(deadline=None, max_examples=60)
@example(world_size=7, batch_size=2, readers=(1, 5), rings=(2, 2), epoch=0, stop=1, shuffle=True)
@given(
    world_size=st.integers(1, 7),
    batch_size=st.integers(1, 6),
    readers=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    rings=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    epoch=st.integers(0, 3),
    stop=st.integers(0, NUM_SAMPLES),
    shuffle=st.booleans(),
)
def test_a_loader_stopped_anywhere_goes_on_with_exactly_the_batches_that_are_left(
    split: Split,
    world_size: int,
    batch_size: int,
    readers: tuple[int, int],
    rings: tuple[int, int],
    epoch: int,
    stop: int,
    shuffle: bool,
) -> None:
    rank = (stop + epoch) % world_size

    def loader_at(state: LoaderState, *, session: int) -> ShardLoader:
        loader = make_loader(
            split,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=9,
            rank=rank,
            world_size=world_size,
            num_readers=readers[session],
            ring_size=rings[session],
        )
        loader.seek(state)
        return loader

    start = state_of(split, shuffle=shuffle, seed=9, epoch=epoch)
    stop = min(stop, len(loader_at(start, session=0)))  # one step more is the next epoch
    whole = [copied(batch) for batch in loader_at(start, session=0)]
    stopped = loader_at(start, session=0)
    begun = [copied(batch) for batch in islice(stopped, stop)]
    resumed = loader_at(stopped.state(), session=1)
    assert begun + [copied(batch) for batch in resumed] == whole
    # Stopped after the last batch, the first session did not see the end of its epoch; the second one did.
    assert resumed.state() == replace(start, epoch=epoch + 1)


@settings(deadline=None, max_examples=30)
@given(
    worlds=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    batch_size=st.integers(1, 6),
    stop=st.integers(0, NUM_SAMPLES),
    shuffle=st.booleans(),
)
def test_a_run_goes_on_with_the_same_global_batches_on_another_number_of_ranks(
    split: Split, worlds: tuple[int, int], batch_size: int, stop: int, shuffle: bool
) -> None:
    def run(world_size: int, state: LoaderState, num_steps: int | None) -> tuple[list[list[int]], LoaderState]:
        """Return the global batches that the ranks have together, and where all of them stand."""
        shares, states = [], set()
        for rank in range(world_size):
            loader = make_loader(
                split, batch_size=batch_size, shuffle=shuffle, seed=2, rank=rank, world_size=world_size
            )
            loader.seek(state)
            shares.append([copied(batch) for batch in islice(loader, num_steps)])
            states.add(loader.state())
        [common] = states
        return [samples_of(step) for step in zip(*shares, strict=True)], common

    start = state_of(split, shuffle=shuffle, seed=2, epoch=1)
    stop = min(stop, -(-NUM_SAMPLES // batch_size))  # one step more is the next epoch
    alone, _ = run(1, start, None)
    begun, state = run(worlds[0], start, stop)
    rest, _ = run(worlds[1], state, None)
    assert begun + rest == alone


def test_the_state_is_the_place_after_the_batch_in_use(split: Split) -> None:
    loader = make_loader(split, batch_size=4, shuffle=True, seed=3, rank=1, world_size=2)
    positions = [loader.state().position]
    positions += [loader.state().position for _ in loader]
    assert positions == [0, 4, 8, 11]
    assert loader.state() == state_of(split, seed=3, epoch=1)


def test_a_loader_at_the_end_of_an_epoch_has_no_batch_left_and_moves_on(split: Split) -> None:
    loader = make_loader(split, batch_size=4, shuffle=True)
    loader.seek(state_of(split, epoch=2, position=NUM_SAMPLES))
    assert list(loader) == []
    assert loader.state() == state_of(split, epoch=3)
    assert len(list(loader)) == 3


def test_a_seek_takes_the_epoch_of_its_state(split: Split) -> None:
    loader = make_loader(split, batch_size=11, shuffle=True)
    loader.seek(state_of(split, epoch=5))
    [batch] = [copied(batch) for batch in loader]
    assert list(batch[0]) == loader.order.samples(5, 0, NUM_SAMPLES).tolist()


@pytest.mark.parametrize("wrong", [{"position": NUM_SAMPLES + 1}, {"position": -1}, {"epoch": -1}], ids=str)
def test_a_place_outside_the_epoch_is_refused_and_changes_nothing(split: Split, wrong: dict[str, Any]) -> None:
    loader = make_loader(split, batch_size=4, shuffle=True)
    with pytest.raises(ValueError, match="no place in an epoch of 11 samples"):
        loader.seek(state_of(split, **wrong))
    assert loader.state() == state_of(split)


def test_a_place_in_another_order_is_refused_and_changes_nothing(split: Split) -> None:
    loader = make_loader(split, batch_size=4, shuffle=True)
    for state in (state_of(split, seed=1), state_of(split, shuffle=False)):
        with pytest.raises(ValueError, match="another order than this one: shuffled, of 11, seed 0"):
            loader.seek(state)
    assert loader.state() == state_of(split)


def test_an_order_that_repeats_samples_is_followed(split: Split) -> None:
    order = ClassBalanced(split.rows["labels"][:, 0].astype(np.int64), seed=1)
    loader = ShardLoader(split, order=order, batch_size=4, num_readers=2)
    for epoch in range(2):
        batches = [copied(batch) for batch in loader]
        assert samples_of(batches) == order.samples(epoch, 0, NUM_SAMPLES).tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"num_readers": 0},
        {"ring_size": 1},
        {"rank": -1},
        {"rank": 2, "world_size": 2},
        {"world_size": 0},
    ],
    ids=str,
)
def test_a_count_out_of_range_is_refused_with_its_value(split: Split, wrong: dict[str, int]) -> None:
    arguments: dict[str, Any] = {"batch_size": 4, "shuffle": True, **wrong}
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"{name}={value}\b"):
        make_loader(split, **arguments)


def test_the_memory_of_the_ring_is_used_again(split: Split) -> None:
    loader = make_loader(split, batch_size=1, shuffle=True, ring_size=3, num_readers=2)
    addresses = [batch.frames.ctypes.data for _ in range(3) for batch in loader]
    assert len(addresses) == 3 * NUM_SAMPLES
    assert len(set(addresses)) <= 3


def test_memory_is_made_once_per_array_and_slot_as_large_as_the_largest_share(split: Split) -> None:
    made: list[tuple[tuple[int, ...], str]] = []

    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        made.append((shape, dtype.str))
        return np.empty(shape, dtype)

    loader = make_loader(split, batch_size=5, shuffle=True, world_size=2, ring_size=3, allocate=allocate)
    assert made == []
    for _ in range(3):
        assert len(list(loader)) == 3
    assert made == 3 * [((3, *SPEC.video.shape), "|u1"), ((3, *SPEC.audio.shape), "<f2"), ((3, 12), "<i4")]


def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(directory: Path) -> None:
    split = CountingSplit(directory)
    batches = iter(make_loader(split, batch_size=2, shuffle=True, ring_size=3))
    for step in range(3):
        batch = next(batches)
        num_ahead = min(2 * (step + 3), NUM_SAMPLES)  # samples in all three slots, the one in use included
        split.wait_for_samples(num_ahead)
        time.sleep(0.005)  # a reader that goes further than it may would do it now
        assert split.num_copied == num_ahead
        assert_batch_holds(batch, make_samples())


@pytest.mark.parametrize("num_readers", [1, 5])
def test_breaking_out_leaves_no_thread_and_the_loader_goes_on_after_the_batch_in_use(
    split: Split, num_readers: int
) -> None:
    loader = make_loader(split, batch_size=2, shuffle=False, num_readers=num_readers)
    for batch in loader:
        if 2 in batch.samples:
            break
    assert reader_threads() == []
    assert samples_of([copied(batch) for batch in loader]) == list(range(4, NUM_SAMPLES))


def test_an_exception_in_the_loop_leaves_no_thread_and_the_loader_goes_on(split: Split) -> None:
    loader = make_loader(split, batch_size=2, shuffle=False, num_readers=2)

    def consume() -> None:
        for batch in loader:
            if 2 in batch.samples:
                raise RuntimeError("the step failed")

    with pytest.raises(RuntimeError, match="the step failed"):
        consume()
    assert reader_threads() == []
    assert samples_of([copied(batch) for batch in loader]) == list(range(4, NUM_SAMPLES))


def test_a_finished_epoch_leaves_no_thread(split: Split) -> None:
    assert len(list(make_loader(split, batch_size=1, shuffle=False, num_readers=5))) == NUM_SAMPLES
    assert reader_threads() == []


@pytest.mark.parametrize(
    "exception", [OSError("the disk is gone"), ShardCorruptError("cut"), MemoryError(), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize("num_readers", [1, 4])
def test_an_exception_of_a_reader_reaches_the_loop_as_it_is(
    directory: Path, exception: BaseException, num_readers: int
) -> None:
    split = BrokenSplit(directory, broken=6, exception=exception)
    with pytest.raises(type(exception)) as caught:
        list(make_loader(split, batch_size=2, shuffle=False, num_readers=num_readers))
    assert caught.value is exception
    assert reader_threads() == []


def test_an_exception_of_a_reader_comes_before_batches_that_are_ready(directory: Path) -> None:
    split = BrokenSplit(directory, broken=3)
    split.may_break.clear()
    batches = iter(make_loader(split, batch_size=1, shuffle=False, ring_size=5))
    assert next(batches).samples.tolist() == [0]
    split.may_break.set()
    wait_until(lambda: not reader_threads())  # the only reader filled 1 and 2, and died of 3
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_a_loader_goes_on_once_the_trouble_of_its_reader_is_over(directory: Path) -> None:
    split = BrokenSplit(directory, broken=6)
    loader = make_loader(split, batch_size=2, shuffle=False)
    seen: list[int] = []

    def consume() -> None:
        for batch in loader:
            assert_batch_holds(batch, make_samples())
            seen.extend(batch.samples.tolist())

    with pytest.raises(OSError, match="the disk is gone"):
        consume()
    split.broken = None
    consume()
    assert seen == list(range(NUM_SAMPLES))


def test_a_shard_cut_after_the_split_was_opened_is_the_error_of_the_loop(tmp_path: Path) -> None:
    index = write_split(tmp_path, make_samples(), spec=SPEC, samples_per_shard=4)
    split = Split(tmp_path / "train")
    shard = tmp_path / "train" / index.shards[1].name
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(ShardCorruptError, match=shard.name):
        list(make_loader(split, batch_size=2, shuffle=False, num_readers=2))


@pytest.mark.parametrize("num_taken", [1, 3])
@pytest.mark.parametrize("anew", ["seek", "iteration"])
def test_a_loop_that_was_overtaken_ends_by_an_error_and_leaves_the_new_place_alone(
    split: Split, num_taken: int, anew: str
) -> None:
    loader = make_loader(split, batch_size=4, shuffle=False)
    overtaken = iter(loader)
    for _ in range(num_taken):  # of 3
        next(overtaken)
    loader.seek(LoaderState(order=loader.order.identity, epoch=5, position=4))
    if anew == "iteration":
        next(newer := iter(loader))
    state = loader.state()
    with pytest.raises(RuntimeError, match="this one cannot go on"):
        next(overtaken)
    assert loader.state() == state
    if anew == "iteration":
        assert len(list(newer)) == 1


def test_a_second_iteration_is_not_disturbed_by_one_that_was_left_open(directory: Path) -> None:
    split = StuckSplit(directory)
    loader = make_loader(split, batch_size=1, shuffle=False, ring_size=2)
    left_open = iter(loader)
    next(left_open)
    assert split.is_stuck.wait(PATIENCE_SECONDS)  # its reader is about to fill the other slot with sample 1
    again = iter(loader)
    for expected in (1, 2):
        batch = next(again)
        assert batch.samples.tolist() == [expected]
        assert_batch_holds(batch, make_samples())
    split.release.set()
    time.sleep(0.05)  # the first reader, if it was not stopped, fills the slot of the batch in use now
    assert_batch_holds(batch, make_samples())


ENCODED = make_spec(num_frames=2, size=4, num_mels=3, num_hops=5, widths={"video": 4, "text": 3})


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Split:
    root = tmp_path_factory.mktemp("encoded")
    samples = [make_sample(i, spec=ENCODED, absent=("video",) if i == 1 else ()) for i in range(NUM_SAMPLES)]
    write_split(root, samples, spec=ENCODED, samples_per_shard=4)
    return Split(root / "train")


@pytest.mark.parametrize("check", [False, True])
def test_a_batch_of_an_encoded_split_has_features_and_empty_arrays_in_place_of_raw_ones(
    encoded: Split, check: bool
) -> None:
    for batch in make_loader(encoded, batch_size=4, shuffle=True, num_readers=2, check=check):
        expected = [make_sample(i, spec=ENCODED, absent=("video",) if i == 1 else ()) for i in batch.samples]
        assert list(batch.features) == ["video", "text"]
        for name, features in batch.features.items():
            assert features.dtype == np.float32
            assert features.tobytes() == b"".join(sample.features[name].tobytes() for sample in expected)
        assert batch.logmel.tobytes() == b"".join(sample.logmel.tobytes() for sample in expected)
        assert (batch.frames.shape, batch.frames.dtype.str) == ((0,), "|u1")
        assert (batch.tokens.shape, batch.tokens.dtype.str) == ((0,), "<i4")
        assert batch.num_tokens.tolist() == [sample.meta.num_tokens for sample in expected]
        assert batch.present[:, 0].tolist() == [i != 1 for i in batch.samples]


@pytest.mark.parametrize("modalities", [("video",), ("text", "audio"), ("audio",)], ids=" ".join)
@pytest.mark.parametrize("is_encoded", [False, True])
def test_only_the_modalities_that_are_asked_for_take_memory_and_are_present(
    split: Split, encoded: Split, modalities: tuple[Modality, ...], is_encoded: bool
) -> None:
    made = []

    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        made.append(shape)
        return np.empty(shape, dtype)

    source = encoded if is_encoded else split
    options: dict[str, Any] = {"batch_size": 4, "shuffle": True, "check": True}
    whole = [copied_all(batch) for batch in make_loader(source, **options)]
    for batch, expected in zip(
        make_loader(source, modalities=modalities, allocate=allocate, **options), whole, strict=True
    ):
        for place, name in enumerate(MODALITIES):
            wanted = name in modalities
            assert batch.present[:, place].tolist() == (expected["present"][:, place] & wanted).tolist()
            if name in source.spec.encoded:
                assert (name in batch.features) == wanted
                assert not wanted or batch.features[name].tobytes() == expected[name].tobytes()
            array = getattr(batch, RAW_ARRAYS[name])
            raw = wanted and name not in source.spec.encoded
            assert array.tobytes() == (expected[RAW_ARRAYS[name]].tobytes() if raw else b"")
    assert len(made) == 3 * len(modalities)


def copied_all(batch: HostBatch) -> dict[str, NDArray[Any]]:
    """Copy all that differs from row to row, the samples of the windows included."""
    fields = ("frames", "logmel", "tokens", "num_frames", "num_hops", "num_tokens", "present", "samples", "window")
    arrays: dict[str, NDArray[Any]] = {name: getattr(batch, name).copy() for name in fields}
    arrays |= {name: features.copy() for name, features in batch.features.items()}
    arrays |= {task: labels.copy() for task, labels in batch.labels.items()}
    arrays["turns"] = np.where(batch.window < 0, -1, batch.samples[batch.window])
    return arrays


def naive_turns(samples: Sequence[Sample], number: int, num_turns: int) -> list[int]:
    same = [i for i in range(number + 1) if samples[i].meta.dialogue_id == samples[number].meta.dialogue_id]
    return [-1] * (num_turns - len(same)) + same[-num_turns:]


@settings(deadline=None, max_examples=60)
@given(
    num_turns=st.integers(1, 7),
    batch_size=st.integers(1, 12),
    world_size=st.integers(1, 4),
    num_readers=st.integers(1, 3),
    kind=st.sampled_from(["in order", "shuffled", "blocks", "balanced"]),
)
def test_windows_hold_the_dialogue_whatever_the_order_batch_size_ranks_and_readers(
    split: Split, num_turns: int, batch_size: int, world_size: int, num_readers: int, kind: str
) -> None:
    orders: dict[str, Order] = {
        "in order": InOrder(len(split)),
        "shuffled": Shuffled(len(split), 4),
        "blocks": BlockShuffled(tuple(shard.num_samples for shard in split.index.shards), 4, 1),
        "balanced": ClassBalanced(split.rows["labels"][:, 0].astype(np.int64), seed=1),
    }
    samples, order, seen = make_samples(), orders[kind], []
    loaders = [
        ShardLoader(
            split,
            order=order,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            num_readers=num_readers,
            dialogue_turns=num_turns,
        )
        for rank in range(world_size)
    ]
    for shares in zip(*loaders, strict=True):
        assert sum(len(share) for share in shares) == shares[0].global_size
        for batch in shares:
            asked = batch.samples[: len(batch)].tolist()
            turns = [naive_turns(samples, number, num_turns) for number in asked]
            assert copied_all(batch)["turns"].tolist() == turns
            earlier = {number for row in turns for number in row} - {-1, *asked}
            assert batch.samples[len(batch) :].tolist() == sorted(earlier)
            assert len(batch.labels["emotion"]) == len(batch.window) == len(asked)
            seen += asked
            for name in MODALITIES:
                array = getattr(batch, RAW_ARRAYS[name])
                assert array.tobytes() == b"".join(samples[i].array(name).tobytes() for i in batch.samples)
                assert len(array) == len(batch.present) == len(batch.num_hops) == len(batch.samples)
    assert seen == order.samples(0, 0, NUM_SAMPLES).tolist()


def test_without_dialogues_a_window_is_the_sample_itself_and_rows_are_the_samples_asked_for(split: Split) -> None:
    for batch in make_loader(split, batch_size=4, shuffle=True):
        assert batch.window.tolist() == [[row] for row in range(len(batch))]
        assert len(batch.samples) == len(batch)


def test_dialogues_of_a_split_that_does_not_tell_them_are_refused(tmp_path: Path) -> None:
    samples = make_samples()
    unknown = [
        replace(sample, meta=replace(sample.meta, dialogue_id=""))  # no id, no dialogue
        for sample in samples
    ]
    write_split(tmp_path, unknown, spec=SPEC)
    split = Split(tmp_path / "train")
    assert split.rows["dialogue"].tolist() == [0] * NUM_SAMPLES
    with pytest.raises(ShardError, match=rf"(?s)do not say which dialogue.*{tmp_path / 'train'}"):
        make_loader(split, batch_size=4, shuffle=True, dialogue_turns=2)
    assert len(list(make_loader(split, batch_size=4, shuffle=True))) == 3


@pytest.mark.parametrize("wrong", [{"dialogue_turns": 0}, {"modalities": ()}, {"modalities": ("smell",)}], ids=str)
def test_no_turns_no_modality_or_an_unknown_one_are_refused(split: Split, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_loader(split, batch_size=4, shuffle=True, **wrong)
