import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shards.order.permutation import permute, stream_keys, uniform

SEED = st.integers(0, 2**64 - 1)
WORD = st.integers(0, 2**64 - 1)


def philox_block(count: list[int], key: tuple[int, int]) -> list[int]:
    """Write out Philox4x64-10 in plain integers: what NumPy's generator is to give.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11, and the constants of Random123.
    """
    mask = 2**64 - 1
    a, b, c, d = count
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (right >> 64) ^ b ^ k0, right & mask, (left >> 64) ^ d ^ k1, left & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return [a, b, c, d]


@settings(deadline=None, max_examples=60)
@example(size=4096, seed=0, stream=[])
@example(size=4097, seed=0, stream=[])
@given(size=st.one_of(st.integers(1, 100), st.integers(4000, 20_000)), seed=SEED, stream=st.lists(WORD, max_size=4))
def test_a_permutation_has_everything_once(size: int, seed: int, stream: list[int]) -> None:
    found = permute(np.arange(size), size=size, keys=stream_keys(seed, *stream))
    assert found.dtype == np.int64
    assert np.array_equal(np.sort(found), np.arange(size))


@settings(deadline=None, max_examples=60)
@given(size=st.sampled_from([1, 7, 4096, 4097, 10_000_000, 2**40 + 1, 2**62 - 1]), seed=SEED, data=st.data())
def test_a_place_has_the_same_thing_whatever_else_is_asked_for(size: int, seed: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)), dtype=np.int64)
    keys = stream_keys(seed, 1)
    together = permute(places, size=size, keys=keys)
    assert together.tolist() == [permute(places[i : i + 1], size=size, keys=keys)[0] for i in range(len(places))]
    assert ((together >= 0) & (together < size)).all()


def test_nothing_asked_for_gives_nothing() -> None:
    assert permute(np.empty(0, dtype=np.int64), size=5000, keys=stream_keys(0)).tolist() == []


@pytest.mark.parametrize("size", [2, 3, 5])
def test_all_permutations_of_a_few_things_come_about_equally_often(size: int) -> None:
    num_drawn = 200 * math.factorial(size)
    counts = Counter(tuple(permute(np.arange(size), size=size, keys=stream_keys(1, e))) for e in range(num_drawn))
    assert len(counts) == math.factorial(size)
    assert all(130 < count < 270 for count in counts.values())  # 200 expected, its standard deviation is 14


def test_a_thing_comes_to_every_place_of_many_about_equally_often() -> None:
    size, num_drawn = 5000, 3000
    places = np.arange(0, size, 50)
    found = np.stack([permute(places, size=size, keys=stream_keys(1, e)) for e in range(num_drawn)])
    counts = np.bincount(found.reshape(-1) // 500, minlength=10)  # (10,) tenths of the things
    assert np.abs(counts - found.size / 10).max() < 5 * math.sqrt(found.size * 0.1 * 0.9)
    # Neighbours do not stay neighbours: about 2 of 5,000 pairs a permutation, as by chance.
    pairs = permute(np.arange(size), size=size, keys=stream_keys(3))
    assert (np.abs(np.diff(pairs)) == 1).sum() < 12


@settings(deadline=None, max_examples=30)
@given(seed=SEED, stream=st.lists(WORD, min_size=1, max_size=4))
def test_keys_are_those_of_philox_computed_by_hand(seed: int, stream: list[int]) -> None:
    count = [*stream, 0, 0, 0][:4]
    number = sum(digit << 64 * place for place, digit in enumerate(count)) + 1  # counted on by one before it is used
    mixed = philox_block([number >> 64 * place & 2**64 - 1 for place in range(4)], (seed, 0x6D6D73656E74))
    key = (mixed[0], mixed[1])
    assert stream_keys(seed, *stream).tolist() == [*philox_block([1, 0, 0, 0], key), *philox_block([2, 0, 0, 0], key)]


def test_the_permutation_is_the_one_that_checkpoints_were_made_with() -> None:
    keys = stream_keys(7, 1, 2)
    assert permute(np.arange(6), size=6, keys=keys).tolist() == [4, 5, 0, 3, 1, 2]
    assert permute(np.arange(5), size=10_000_000, keys=keys).tolist() == [9046657, 3482616, 3799746, 8630991, 9912434]


def test_uniform_numbers_fill_the_interval() -> None:
    numbers = uniform(np.arange(100_000), keys=stream_keys(0, 0))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(np.histogram(numbers, bins=10, range=(0, 1))[0] - 10_000).max() < 500
    assert uniform(np.array([17]), keys=stream_keys(0, 0))[0] == numbers[17]
