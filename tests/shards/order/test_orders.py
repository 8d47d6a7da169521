from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shards.order.orders import BlockShuffled, InOrder, Order, Shuffled, num_steps, rank_share, step_slice

NUM_SAMPLES = st.integers(1, 300)
BATCH_SIZE = st.integers(1, 50)
WORLD_SIZE = st.integers(1, 9)
SEED = st.integers(0, 2**64 - 1)
EPOCH = st.integers(0, 1000)
SHARD_SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=20).map(tuple)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    """Any order that has each sample once."""
    seed = draw(SEED)
    sizes = draw(SHARD_SIZES)
    choices: list[Order] = [
        InOrder(sum(sizes)),
        Shuffled(sum(sizes), seed),
        BlockShuffled(sizes, seed, draw(st.integers(1, 5))),
    ]
    return draw(st.sampled_from(choices))


def whole(order: Order, epoch: int = 0) -> list[int]:
    samples: list[int] = order.samples(epoch, 0, order.num_samples).tolist()
    return samples


@settings(deadline=None)
@given(order=orders(), epoch=EPOCH)
def test_an_epoch_has_each_sample_exactly_once(order: Order, epoch: int) -> None:
    samples = order.samples(epoch, 0, order.num_samples)
    assert samples.dtype == np.int64
    assert sorted(samples.tolist()) == list(range(order.num_samples))


@settings(deadline=None)
@given(order=orders(), epoch=EPOCH, data=st.data())
def test_a_part_of_an_epoch_is_what_the_whole_has_there(order: Order, epoch: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, order.num_samples), label="start")
    stop = data.draw(st.integers(start, order.num_samples), label="stop")
    assert order.samples(epoch, start, stop).tolist() == whole(order, epoch)[start:stop]


def test_in_order_is_the_order_of_the_shards_in_every_epoch() -> None:
    assert whole(InOrder(5), 0) == whole(InOrder(5), 3) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("seed", "epoch", "expected"),
    [
        (0, 0, [1, 5, 8, 6, 9, 2, 0, 7, 3, 11, 10, 4]),
        (0, 1, [2, 5, 0, 6, 11, 8, 3, 10, 7, 4, 9, 1]),
        (2**64 - 1, 3, [2, 8, 7, 0, 4, 5, 3, 1, 11, 10, 9, 6]),
    ],
)
def test_the_shuffled_order_is_the_one_that_checkpoints_were_made_with(
    seed: int, epoch: int, expected: list[int]
) -> None:
    assert whole(Shuffled(12, seed), epoch) == expected


def test_the_order_of_blocks_is_the_one_that_checkpoints_were_made_with() -> None:
    assert whole(BlockShuffled((3, 2, 4, 1, 2), seed=5, shards_per_block=2), 1) == [
        10,
        7,
        8,
        5,
        6,
        11,
        4,
        3,
        1,
        0,
        2,
        9,
    ]


@pytest.mark.parametrize("make", [lambda seed: Shuffled(50, seed), lambda seed: BlockShuffled((5,) * 10, seed, 2)])
def test_seeds_and_epochs_have_orders_of_their_own(make: Callable[[int], Order]) -> None:
    pairs = [(seed, epoch) for seed in range(8) for epoch in range(8)]
    found = {tuple(whole(make(seed), epoch)) for seed, epoch in pairs}
    assert len(found) == len(pairs)


@settings(deadline=None)
@given(sizes=SHARD_SIZES, seed=SEED, epoch=EPOCH, shards_per_block=st.integers(1, 5))
def test_a_block_has_the_samples_of_its_shards_and_of_no_other(
    sizes: tuple[int, ...], seed: int, epoch: int, shards_per_block: int
) -> None:
    order = BlockShuffled(sizes, seed, shards_per_block)
    shards = order.shards(epoch).tolist()
    first = np.cumsum([0, *sizes])
    samples = whole(order, epoch)
    assert sorted(shards) == list(range(len(sizes)))
    for start in range(0, len(shards), shards_per_block):
        block = [
            sample
            for shard in shards[start : start + shards_per_block]
            for sample in range(first[shard], first[shard + 1])
        ]
        taken, samples = samples[: len(block)], samples[len(block) :]
        assert sorted(taken) == sorted(block)
    assert samples == []


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"got {seed}"):
        Shuffled(3, seed)
    with pytest.raises(ValueError, match=f"got {seed}"):
        BlockShuffled((3,), seed)


def test_a_block_of_no_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="shards_per_block must be at least 1, got 0"):
        BlockShuffled((3,), 0, 0)


def test_all_that_decides_an_order_is_in_its_identity() -> None:
    different: list[Order] = [
        InOrder(12), InOrder(13), Shuffled(12, 0), Shuffled(12, 1), Shuffled(13, 0), BlockShuffled((6, 6), 0, 1),
        BlockShuffled((6, 6), 0, 2), BlockShuffled((6, 6), 1, 1), BlockShuffled((6, 5), 0, 1),
        BlockShuffled((5, 6), 0, 1),
    ]  # fmt: skip
    assert len({order.identity for order in different}) == len(different)


@settings(deadline=None)
@given(num_samples=NUM_SAMPLES, batch_size=BATCH_SIZE, data=st.data())
def test_the_steps_cut_what_is_left_of_an_epoch_without_gap_or_overlap(
    num_samples: int, batch_size: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, num_samples), label="position")
    order = np.array(whole(Shuffled(num_samples, 0)))
    steps = num_steps(num_samples, batch_size=batch_size, position=position)
    batches = [
        order[step_slice(step, num_samples=num_samples, batch_size=batch_size, position=position)]
        for step in range(steps)
    ]
    assert np.concatenate([order[:position], *batches]).tolist() == order.tolist()
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(len(batch) > 0 for batch in batches)


@settings(deadline=None)
@example(num_samples=2, batch_size=2, world_size=9)
@given(num_samples=NUM_SAMPLES, batch_size=BATCH_SIZE, world_size=WORLD_SIZE)
def test_ranks_share_each_global_batch_in_order_for_any_world_size(
    num_samples: int, batch_size: int, world_size: int
) -> None:
    order = np.array(whole(Shuffled(num_samples, 0)))
    for step in range(num_steps(num_samples, batch_size=batch_size)):
        batch = order[step_slice(step, num_samples=num_samples, batch_size=batch_size)]
        shares = [rank_share(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert np.concatenate(shares).tolist() == batch.tolist()
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("world_size", "expected"),
    [
        (1, [[4, 7, 1, 9, 5]]),
        (2, [[4, 7, 1], [9, 5]]),
        (3, [[4, 7], [1, 9], [5]]),
        (5, [[4], [7], [1], [9], [5]]),
        (7, [[4], [7], [1], [9], [5], [], []]),
    ],
)
def test_a_batch_of_five_is_shared_as_in_the_table(world_size: int, expected: list[list[int]]) -> None:
    batch = np.array([4, 7, 1, 9, 5])
    shares = [rank_share(batch, rank=rank, world_size=world_size).tolist() for rank in range(world_size)]
    assert shares == expected
