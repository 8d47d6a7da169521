"""Which sample comes when, as pure functions of the epoch and the place in it.

The order of an epoch depends on nothing but its own fields and the number of the epoch, and a rank takes its share of
every global batch, so neither ranks nor readers nor restarts change it. None of the orders here holds anything per
sample, and a place in the middle of an epoch costs what the first does; `shards.order.sampling` has orders that look at
labels or lengths.

Shape letters: N places asked for, P shards.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shards.order.permutation import permute, stream_keys

__all__ = ["BlockShuffled", "InOrder", "Order", "Shuffled", "digest", "num_steps", "rank_share", "step_slice"]


class Order(Protocol):
    """Which samples an epoch consists of, place by place."""

    @property
    def num_samples(self) -> int:
        """Places of an epoch, the same in each."""

    @property
    def identity(self) -> str:
        """All that decides the order, in words; a place in one order is no place in another."""

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples `(stop - start,)` int64 at the places `start` to `stop - 1` of an epoch."""


@dataclass(frozen=True, slots=True)
class InOrder:
    """The samples as they lie in the shards, every epoch the same."""

    num_samples: int

    @property
    def identity(self) -> str:
        """All that decides the order, in words."""
        return f"in order, of {self.num_samples}"

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples at the places `start` to `stop - 1` of an epoch, `(stop - start,)` int64."""
        return np.arange(start, stop, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Shuffled:
    """A new random order of all samples every epoch, each exactly once: no buffer, no approximation."""

    num_samples: int
    seed: int

    def __post_init__(self) -> None:
        _check_seed(self.seed)

    @property
    def identity(self) -> str:
        """All that decides the order, in words."""
        return f"shuffled, of {self.num_samples}, seed {self.seed}"

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples at the places `start` to `stop - 1` of an epoch, `(stop - start,)` int64."""
        keys = stream_keys(self.seed, _SHUFFLED, epoch)
        return permute(np.arange(start, stop, dtype=np.int64), size=self.num_samples, keys=keys)


@dataclass(frozen=True, slots=True)
class BlockShuffled:
    """Shards in random order, taken so many at a time; within such a block, all samples in random order.

    For shards on a disk that is slower at single samples than at whole files, or behind a network: at any time an epoch
    needs one block of shards and soon the next, so a cache may be smaller than the split. Each sample comes once.
    """

    shard_sizes: tuple[int, ...]
    """Samples of each shard, `(P,)`."""
    seed: int
    shards_per_block: int = 8

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if self.shards_per_block < 1:
            raise ValueError(f"shards_per_block must be at least 1, got {self.shards_per_block}")

    @property
    def num_samples(self) -> int:
        """Places of an epoch."""
        return sum(self.shard_sizes)

    @property
    def identity(self) -> str:
        """All that decides the order, in words."""
        sizes = f"{self.num_samples} in shards {digest(np.array(self.shard_sizes))}"
        return f"blocks of {self.shards_per_block} shards shuffled, of {sizes}, seed {self.seed}"

    def shards(self, epoch: int) -> NDArray[np.int64]:
        """Return the numbers of all shards in the order of an epoch, `(P,)` int64: those of its first block first."""
        places = np.arange(len(self.shard_sizes), dtype=np.int64)
        return permute(places, size=len(places), keys=stream_keys(self.seed, _SHARDS, epoch))

    def first_shard(self, epoch: int, position: int) -> int:
        """Return the place in `shards(epoch)` of the first shard of the block that a position is in."""
        ends = np.cumsum(np.array(self.shard_sizes)[self.shards(epoch)])
        return int(np.searchsorted(ends, position, side="right")) // self.shards_per_block * self.shards_per_block

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples at the places `start` to `stop - 1` of an epoch, `(stop - start,)` int64."""
        sizes = np.array(self.shard_sizes, dtype=np.int64)
        first_samples = np.cumsum(sizes) - sizes
        shards = self.shards(epoch)
        ends = np.cumsum(sizes[shards])  # place in the epoch after each shard, in its order
        begins_in = int(np.searchsorted(ends, start, side="right")) // self.shards_per_block
        parts = [np.empty(0, dtype=np.int64)]
        for block in range(begins_in, -(-len(shards) // self.shards_per_block)):
            first = block * self.shards_per_block
            last = min(first + self.shards_per_block, len(shards)) - 1
            begin, end = int(ends[first] - sizes[shards[first]]), int(ends[last])
            if begin >= stop:
                break
            places = np.arange(max(start, begin), min(stop, end), dtype=np.int64) - begin
            within = permute(places, size=end - begin, keys=stream_keys(self.seed, _WITHIN_BLOCK, epoch, block))
            which = np.searchsorted(ends[first : last + 1] - begin, within, side="right")
            shard = shards[first + which]
            shard_begins = ends[first + which] - sizes[shard] - begin
            parts.append(first_samples[shard] + within - shard_begins)
        return np.concatenate(parts)


def num_steps(num_samples: int, *, batch_size: int, position: int = 0) -> int:
    """Return how many global batches are left after `position` samples; the last one may be ragged."""
    return -(-(num_samples - position) // batch_size)


def step_slice(step: int, *, num_samples: int, batch_size: int, position: int = 0) -> slice:
    """Return the part of the epoch's order that is the global batch `step`, counted from `position`."""
    start = position + step * batch_size
    return slice(start, min(start + batch_size, num_samples))


def rank_share(batch: NDArray[np.int64], *, rank: int, world_size: int) -> NDArray[np.int64]:
    """Return the part of a global batch that one rank reads.

    Contiguous, sizes differ by one at most, and together the ranks have each sample once:
    `[4, 7, 1, 9, 5]` on 2 ranks -> `[4, 7, 1]` and `[9, 5]`. On more ranks than samples some shares are empty.
    """
    size, extra = divmod(len(batch), world_size)
    start = rank * size + min(rank, extra)
    return batch[start : start + size + (rank < extra)]


def digest(values: NDArray[np.int64] | NDArray[np.float64]) -> str:
    """Return 12 characters that stand for an array in an `Order.identity`."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:12]


_SHUFFLED, _SHARDS, _WITHIN_BLOCK = range(3)
"""Purposes of random numbers, so that no two orders of a seed use the same ones; `shards.order.sampling` counts on."""


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be from 0 to 2^64 - 1, got {seed}")
