"""A random permutation of any number of things, computed place by place: no list is held, sorted or drawn.

Shape letters: N places asked for.
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["permute", "stream_keys", "uniform"]

_NUM_ROUNDS = 8
"""Four on each digit."""

_FEW = 4096
"""Up to so many things are sorted by random keys instead: of 5 to 7 things some permutations of the network come more
often than others, whatever the number of rounds (a chi-square test was 30 to 75 deviations off)."""


def permute(places: NDArray[np.int64], *, size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return what stands at `places` of a random permutation of `0 … size - 1`.

    Of many things, a Feistel network over numbers written as two digits, one of base `a` and one of base `b`, where
    `a * b` is barely more than `size`: each round adds to one digit a hash of the other, so that it can be undone and
    is a permutation of the `a * b` numbers. A result that is not below `size` is permuted again until it is, which
    visits every number below `size` once. Time and memory depend on N alone.

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, the generalised Feistel network and
    the cycle-walking cipher.

    Args:
        places: `(N,)`, each from 0 to `size - 1`.
        size: Length of the permutation, at least 1 and below 2^62.
        keys: Those of `stream_keys`; other keys give another permutation.

    Returns:
        `(N,)` int64.
    """
    if size <= _FEW:
        things = np.arange(size, dtype=np.uint64)
        return np.argsort(_mix(_mix(things + keys[0]) + keys[1]), kind="stable")[places]
    low_base = math.isqrt(size - 1) + 1  # a * a >= size
    high_base = -(-size // low_base)
    found = np.asarray(places, dtype=np.uint64).copy()
    outside = np.ones(len(found), dtype=np.bool_)
    while outside.any():
        found[outside] = _network(found[outside], low_base=low_base, high_base=high_base, keys=keys)
        outside = found >= size
    return found.astype(np.int64)


def stream_keys(seed: int, *stream: int) -> NDArray[np.uint64]:
    """Return `(8,)` keys for one purpose: the same for the same numbers on every machine, unrelated for any others.

    Args:
        seed: A number from 0 to 2^64 - 1.
        stream: At most 4 numbers, each from 0 to 2^64 - 1: the epoch, a block, and so on.
    """
    # The raw output of Philox is the same in every version of NumPy (NEP 19). A stream is a counter of one key, and one
    # block of numbers is drawn from it: no two streams give the same block.
    purpose = np.zeros(4, dtype=np.uint64)
    purpose[: len(stream)] = np.array(stream, dtype=np.uint64)
    mixed = np.random.Philox(key=np.array([seed, 0x6D6D73656E74], dtype=np.uint64), counter=purpose).random_raw(2)
    return np.random.Philox(key=mixed).random_raw(_NUM_ROUNDS)


def uniform(places: NDArray[np.int64], *, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return `(N,)` float64 numbers from 0 to below 1, each a hash of its place and the keys."""
    numbers = _mix(_mix(np.asarray(places, dtype=np.uint64) + keys[0]) + keys[1])
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _network(
    numbers: NDArray[np.uint64], *, low_base: int, high_base: int, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    high, low = np.divmod(numbers, np.uint64(low_base))
    for number, key in enumerate(keys):
        if number % 2 == 0:
            low = (low + _mix(high + key) % np.uint64(low_base)) % np.uint64(low_base)
        else:
            high = (high + _mix(low + key) % np.uint64(high_base)) % np.uint64(high_base)
    joined: NDArray[np.uint64] = high * np.uint64(low_base) + low
    return joined


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64 bits to 64, the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = numbers ^ (numbers >> np.uint64(31))
    return mixed
