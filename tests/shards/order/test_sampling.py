from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.order.orders import InOrder, Order, Shuffled
from shards.order.sampling import ClassBalanced, LengthBucketed, Weighted, class_sample_weights

SEED = st.integers(0, 2**64 - 1)
EPOCH = st.integers(0, 50)
CLASSES = st.lists(st.integers(-1, 4), min_size=1, max_size=60).filter(lambda classes: max(classes) >= 0).map(np.array)
LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=200).map(np.array)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    seed = draw(SEED)
    classes, lengths = draw(CLASSES), draw(LENGTHS)
    buckets = LengthBucketed(
        Shuffled(len(lengths), seed), lengths, draw(st.integers(1, 7)), seed, draw(st.integers(1, 6))
    )
    weighted = Weighted(class_sample_weights(classes, power=0.5), seed)
    choices: list[Order] = [ClassBalanced(classes, seed), weighted, buckets]
    return draw(st.sampled_from(choices))


@settings(deadline=None)
@given(order=orders(), epoch=EPOCH, data=st.data())
def test_a_part_of_an_epoch_is_what_the_whole_has_there(order: Order, epoch: int, data: st.DataObject) -> None:
    whole = order.samples(epoch, 0, order.num_samples)
    assert whole.dtype == np.int64
    assert len(whole) == order.num_samples
    start = data.draw(st.integers(0, order.num_samples), label="start")
    stop = data.draw(st.integers(start, order.num_samples), label="stop")
    assert order.samples(epoch, start, stop).tolist() == whole[start:stop].tolist()


@settings(deadline=None)
@given(classes=CLASSES, seed=SEED, epoch=EPOCH)
def test_every_class_comes_equally_often_to_within_one(classes: NDArray[np.int64], seed: int, epoch: int) -> None:
    order = ClassBalanced(classes, seed)
    drawn = classes[order.samples(epoch, 0, order.num_samples)]
    counts = [int((drawn == one).sum()) for one in np.unique(classes[classes >= 0])]
    assert max(counts) - min(counts) <= 1
    assert (drawn >= 0).all()


@settings(deadline=None)
@given(classes=CLASSES, seed=SEED, num_epochs=st.integers(1, 6))
def test_no_sample_of_a_class_falls_two_draws_behind_another(
    classes: NDArray[np.int64], seed: int, num_epochs: int
) -> None:
    order = ClassBalanced(classes, seed)
    drawn = Counter[int]()
    for epoch in range(num_epochs):
        drawn.update(order.samples(epoch, 0, order.num_samples).tolist())
    for one in np.unique(classes[classes >= 0]):
        counts = [drawn[int(sample)] for sample in np.flatnonzero(classes == one)]
        assert max(counts) - min(counts) <= 1


def test_draws_follow_the_weights() -> None:
    weights = np.array([0.0, 1.0, 0.0, 3.0, 6.0, 0.0])
    order = Weighted(weights, 0)
    drawn = np.concatenate([order.samples(epoch, 0, 6) for epoch in range(5000)])
    shares = np.bincount(drawn, minlength=6) / len(drawn)
    assert shares[[0, 2, 5]].tolist() == [0, 0, 0]
    assert np.abs(shares - weights / weights.sum()).max() < 0.015  # standard deviation 0.003


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, np.nan], [np.inf]])
def test_weights_that_say_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be finite, at least 0 and not all 0"):
        Weighted(np.array(weights), 0)


def test_no_class_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no sample has a class"):
        ClassBalanced(np.array([-1, -1]), 0)


@pytest.mark.parametrize(
    ("power", "expected"), [(0.0, [1, 1, 1, 1, 1, 0]), (1.0, [0.25] * 4 + [1, 0]), (0.5, [0.5] * 4 + [1, 0])]
)
def test_a_class_weighs_by_the_power_of_its_frequency(power: float, expected: list[float]) -> None:
    assert class_sample_weights(np.array([2, 2, 2, 2, 0, -1]), power=power).tolist() == expected


@settings(deadline=None)
@given(lengths=LENGTHS, seed=SEED, epoch=EPOCH, batch_size=st.integers(1, 7), window=st.integers(1, 6))
def test_buckets_have_the_samples_of_their_order_once(
    lengths: NDArray[np.int64], seed: int, epoch: int, batch_size: int, window: int
) -> None:
    inner = Shuffled(len(lengths), seed)
    samples = LengthBucketed(inner, lengths, batch_size, seed, window).samples(epoch, 0, len(lengths))
    size = batch_size * window
    for start in range(0, len(lengths), size):
        expected = inner.samples(epoch, start, min(start + size, len(lengths)))
        assert sorted(samples[start : start + size].tolist()) == sorted(expected.tolist())


@settings(deadline=None)
@given(lengths=LENGTHS, seed=SEED, epoch=EPOCH, batch_size=st.integers(1, 7), window=st.integers(1, 6))
def test_a_bucketed_batch_overlaps_no_other_of_its_window_in_length(
    lengths: NDArray[np.int64], seed: int, epoch: int, batch_size: int, window: int
) -> None:
    order = LengthBucketed(Shuffled(len(lengths), seed), lengths, batch_size, seed, window)
    samples = order.samples(epoch, 0, len(lengths))
    size = batch_size * window
    for start in range(0, len(lengths), size):
        taken = lengths[samples[start : start + size]]
        batches = sorted(
            (taken[i : i + batch_size].min(), taken[i : i + batch_size].max()) for i in range(0, len(taken), batch_size)
        )
        assert all(first[1] <= second[0] for first, second in pairwise(batches))


def test_bucketing_saves_padding_and_still_mixes_the_lengths_of_successive_batches() -> None:
    lengths = np.random.default_rng(0).integers(1, 97, size=4096)

    def padded(order: Order) -> int:
        taken = lengths[order.samples(0, 0, 4096)].reshape(-1, 32)
        return int(taken.max(axis=1).sum() * 32)

    plain = Shuffled(4096, 0)
    bucketed = LengthBucketed(plain, lengths, 32, 0)
    assert padded(bucketed) < 1.05 * lengths.sum() < 0.6 * padded(plain)
    means = lengths[bucketed.samples(0, 0, 2048)].reshape(-1, 32).mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.4


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: ClassBalanced(np.arange(60) % 5, seed),
        lambda seed: Weighted(np.arange(60, dtype=np.float64), seed),
        lambda seed: LengthBucketed(InOrder(60), np.arange(60) % 7, 3, seed, 20),
    ],
)
def test_seeds_and_epochs_have_orders_of_their_own(make: Callable[[int], Order]) -> None:
    pairs = [(seed, epoch) for seed in range(6) for epoch in range(6)]
    found = {tuple(make(seed).samples(epoch, 0, 60)) for seed, epoch in pairs}
    assert len(found) == len(pairs)
    assert len({make(seed).identity for seed in range(6)}) == 6


def test_all_that_decides_an_order_is_in_its_identity() -> None:
    lengths = np.arange(12)
    weights = np.ones(12, dtype=np.float64)
    different: list[Order] = [
        ClassBalanced(lengths % 2, 0), ClassBalanced(lengths % 3, 0),
        Weighted(weights, 0), Weighted(weights + 1, 0),
        LengthBucketed(InOrder(12), lengths, 2, 0), LengthBucketed(InOrder(12), lengths, 3, 0),
        LengthBucketed(InOrder(12), lengths[::-1], 2, 0), LengthBucketed(InOrder(12), lengths, 2, 0, 3),
        LengthBucketed(Shuffled(12, 0), lengths, 2, 0),
    ]  # fmt: skip
    assert len({order.identity for order in different}) == len(different)
