"""Which sample comes when, as pure functions.

The order of an epoch depends on `(seed, epoch)` alone, and a rank takes its share of every global batch,
so neither ranks nor readers nor restarts change it.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["epoch_order", "num_steps", "rank_share", "step_slice"]


def epoch_order(num_samples: int, *, seed: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """Return the samples of one epoch, each exactly once.

    A random 64-bit key per sample, sorted: an exact global shuffle. The keys are the raw output of the Philox
    generator, which NumPy keeps the same across versions (NEP 19); `Generator.permutation` may change.

    Args:
        num_samples: Samples in the split.
        seed: Of the run; at least 0.
        epoch: From 0.
        shuffle: False gives the order of the shards.

    Returns:
        `(num_samples,)` int64.
    """
    if not shuffle:
        return np.arange(num_samples, dtype=np.int64)
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(num_samples)
    return np.argsort(keys, kind="stable")


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
