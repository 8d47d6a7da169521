from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shards.order import epoch_order, num_steps, rank_share, step_slice

NUM_SAMPLES = st.integers(1, 300)
BATCH_SIZE = st.integers(1, 50)
WORLD_SIZE = st.integers(1, 9)
SEED = st.integers(0, 2**64 - 1)
EPOCH = st.integers(0, 1000)


def philox_keys(num_keys: int, *, seed: int, epoch: int) -> list[int]:
    """Write out Philox4x64-10 in plain integers, counting from 1: what NumPy's generator is to give.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11, and the constants of Random123.
    """
    mask = 2**64 - 1
    keys: list[int] = []
    for count in range(1, -(-num_keys // 4) + 1):
        a, b, c, d = count, 0, 0, 0
        k0, k1 = seed, epoch
        for _ in range(10):
            left, right = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
            a, b, c, d = (right >> 64) ^ b ^ k0, right & mask, (left >> 64) ^ d ^ k1, left & mask
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
        keys += [a, b, c, d]
    return keys[:num_keys]


@settings(deadline=None)
@given(num_samples=NUM_SAMPLES, seed=SEED, epoch=EPOCH, shuffle=st.booleans())
def test_an_epoch_has_each_sample_exactly_once(num_samples: int, seed: int, epoch: int, shuffle: bool) -> None:
    order = epoch_order(num_samples, seed=seed, epoch=epoch, shuffle=shuffle)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(num_samples))


def test_without_shuffle_the_order_is_the_one_of_the_shards() -> None:
    assert epoch_order(5, seed=3, epoch=2, shuffle=False).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("seed", "epoch", "expected"),
    [
        (0, 0, [0, 2, 11, 9, 1, 8, 5, 4, 3, 10, 6, 7]),
        (0, 1, [5, 3, 7, 8, 11, 2, 4, 1, 10, 0, 6, 9]),
        (7, 0, [8, 4, 1, 6, 3, 2, 11, 7, 5, 9, 10, 0]),
        (2**64 - 1, 3, [3, 2, 8, 0, 1, 10, 6, 11, 9, 5, 4, 7]),
    ],
)
def test_the_order_is_the_one_that_checkpoints_were_made_with(seed: int, epoch: int, expected: list[int]) -> None:
    assert epoch_order(12, seed=seed, epoch=epoch, shuffle=True).tolist() == expected


@settings(deadline=None, max_examples=30)
@given(num_samples=st.integers(1, 40), seed=SEED, epoch=EPOCH)
def test_the_order_is_that_of_philox_keys_computed_by_hand(num_samples: int, seed: int, epoch: int) -> None:
    keys = philox_keys(num_samples, seed=seed, epoch=epoch)
    expected = sorted(range(num_samples), key=keys.__getitem__)
    assert epoch_order(num_samples, seed=seed, epoch=epoch, shuffle=True).tolist() == expected


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    pairs = [(seed, epoch) for seed in range(8) for epoch in range(8)]
    orders = {tuple(epoch_order(50, seed=seed, epoch=epoch, shuffle=True)) for seed, epoch in pairs}
    assert len(orders) == len(pairs)


def test_every_sample_comes_at_every_place_about_equally_often() -> None:
    places = Counter(
        (place, int(sample))
        for epoch in range(2500)
        for place, sample in enumerate(epoch_order(5, seed=1, epoch=epoch, shuffle=True))
    )
    assert len(places) == 25
    assert all(400 < count < 600 for count in places.values())  # 500 expected, its standard deviation is 20


@settings(deadline=None)
@given(num_samples=NUM_SAMPLES, batch_size=BATCH_SIZE, data=st.data())
def test_the_steps_cut_what_is_left_of_an_epoch_without_gap_or_overlap(
    num_samples: int, batch_size: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, num_samples), label="position")
    order = epoch_order(num_samples, seed=0, epoch=0, shuffle=True)
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
    order = epoch_order(num_samples, seed=0, epoch=0, shuffle=True)
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
