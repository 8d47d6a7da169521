"""Orders that look at labels or lengths: balanced, weighted, bucketed. Pure, like those of `shards.order.orders`.

Shape letters: N samples of the split, D draws asked for, K classes.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shards.order.orders import Order, digest
from shards.order.permutation import permute, stream_keys, uniform

__all__ = ["ClassBalanced", "LengthBucketed", "Weighted", "class_sample_weights"]


@dataclass(frozen=True, slots=True, eq=False)
class ClassBalanced:
    """Each class equally often, to within one, however few samples it has; an epoch has as many draws as samples.

    Draws come in rounds of one per class, in random order. Each class goes through its samples in random order, and
    again when they are used up, on into the next epoch: no sample of a class is ever two draws behind another.
    """

    classes: NDArray[np.int64]
    """`(N,)`, the class of each sample; a negative one is never drawn."""
    seed: int
    _members: tuple[NDArray[np.int64], ...] = field(init=False)

    def __post_init__(self) -> None:
        members = tuple(np.flatnonzero(self.classes == one) for one in np.unique(self.classes[self.classes >= 0]))
        if not members:
            raise ValueError("no sample has a class to balance")
        object.__setattr__(self, "_members", members)

    @property
    def num_samples(self) -> int:
        """Draws of an epoch."""
        return sum(map(len, self._members))

    @property
    def identity(self) -> str:
        """All that decides the order, in words."""
        return f"class-balanced, {len(self._members)} classes {digest(self.classes)}, seed {self.seed}"

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples drawn at the places `start` to `stop - 1` of an epoch, `(stop - start,)` int64."""
        num_classes = len(self._members)
        num_whole, num_extra = divmod(self.num_samples, num_classes)  # rounds, and draws of one that is cut short
        past_extra = epoch * num_extra
        rounds = np.arange(start // num_classes, -(-stop // num_classes), dtype=np.int64)
        places = rounds[:, None] * num_classes + np.arange(num_classes)
        keys = stream_keys(self.seed, _ROUNDS, epoch)
        thrown = uniform(places.reshape(-1), keys=keys).reshape(places.shape)
        # Rounds that are cut short draw the classes in turn, so how often each was drawn before needs no counting.
        thrown[rounds == num_whole] += (np.arange(num_classes) - past_extra) % num_classes >= num_extra
        classes = np.argsort(thrown, axis=1, kind="stable")
        drawn = np.empty(classes.shape, dtype=np.int64)
        for one, members in enumerate(self._members):
            before = epoch * num_whole + (past_extra - one + num_classes - 1) // num_classes
            drawn[classes == one] = self._draw(one, members, before + rounds)
        begin = start - int(rounds[0]) * num_classes if len(rounds) else 0
        found: NDArray[np.int64] = drawn.reshape(-1)[begin : begin + stop - start]
        return found

    def _draw(self, one: int, members: NDArray[np.int64], draws: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sample of each draw of a class `(D,)`, counted over all epochs."""
        passes, places = np.divmod(draws, len(members))
        drawn: NDArray[np.int64] = np.empty(len(draws), dtype=np.int64)
        for number in np.unique(passes):
            chosen = passes == number
            keys = stream_keys(self.seed, _MEMBERS, one, int(number))
            drawn[chosen] = members[permute(places[chosen], size=len(members), keys=keys)]
        return drawn


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """Independent draws with replacement, each sample as likely as its weight; as many draws an epoch as samples."""

    weights: NDArray[np.float64]
    """`(N,)`, at least 0, not all 0."""
    seed: int
    _cumulative: NDArray[np.float64] = field(init=False)
    _last: int = field(init=False)
    """The last sample that may be drawn."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all() and self.weights.sum() > 0):
            raise ValueError("weights must be finite, at least 0 and not all 0")
        object.__setattr__(self, "_cumulative", np.cumsum(self.weights, dtype=np.float64))
        object.__setattr__(self, "_last", int(np.flatnonzero(self.weights)[-1]))

    @property
    def num_samples(self) -> int:
        """Draws of an epoch."""
        return len(self.weights)

    @property
    def identity(self) -> str:
        """All that decides the order, in words."""
        return f"weighted {digest(self.weights)}, seed {self.seed}"

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples drawn at the places `start` to `stop - 1` of an epoch, `(stop - start,)` int64."""
        places = np.arange(start, stop, dtype=np.int64)
        thrown = uniform(places, keys=stream_keys(self.seed, _WEIGHTED, epoch)) * self._cumulative[-1]
        # A weight of 0 has an interval without a number, which `right` passes over; rounding may give the very end.
        drawn: NDArray[np.int64] = np.searchsorted(self._cumulative, thrown, side="right").astype(np.int64)
        return np.minimum(drawn, self._last)


def class_sample_weights(classes: NDArray[np.int64], *, power: float) -> NDArray[np.float64]:
    """Return the weight of each sample `(N,)`: the frequency of its class to the power `-power`.

    Args:
        classes: `(N,)`, the class of each sample; a negative one has weight 0.
        power: 1 draws every class equally often, 0 every sample; 0.5, the square root, is between them.
    """
    known = classes >= 0
    counts = np.bincount(classes[known], minlength=1)
    weights = np.zeros(len(classes), dtype=np.float64)
    weights[known] = counts[classes[known]].astype(np.float64) ** -power
    return weights


@dataclass(frozen=True, slots=True, eq=False)
class LengthBucketed:
    """Another order, with samples of like length brought together in a batch; the same samples in every epoch.

    So many batches of that order are taken at a time, sorted by length and cut into batches, which come in random
    order. A batch padded to its longest then holds little padding.
    """

    order: Order
    lengths: NDArray[np.int64]
    """`(N,)`, of each sample."""
    batch_size: int
    """Size of the global batches that will be cut from this order."""
    seed: int
    batches_per_window: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batches_per_window < 1:
            got = f"{self.batch_size}, {self.batches_per_window}"
            raise ValueError(f"need batch_size and batches_per_window of at least 1, got {got}")

    @property
    def num_samples(self) -> int:
        """Places of an epoch."""
        return self.order.num_samples

    @property
    def identity(self) -> str:
        """All that decides the order, in words."""
        cut = f"batches of {self.batch_size} in windows of {self.batches_per_window}"
        return f"length-bucketed {digest(self.lengths)}, {cut}, seed {self.seed}, of: {self.order.identity}"

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples at the places `start` to `stop - 1` of an epoch, `(stop - start,)` int64."""
        window = self.batch_size * self.batches_per_window
        first = start // window
        parts = [self._window(epoch, number, window) for number in range(first, -(-stop // window))]
        begin = start - first * window
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])[begin : begin + stop - start]

    def _window(self, epoch: int, number: int, window: int) -> NDArray[np.int64]:
        start = number * window
        taken = self.order.samples(epoch, start, min(start + window, self.num_samples))
        taken = taken[np.argsort(self.lengths[taken], kind="stable")]
        num_whole = len(taken) // self.batch_size
        batches = taken[: num_whole * self.batch_size].reshape(num_whole, self.batch_size)
        if num_whole:
            keys = stream_keys(self.seed, _WINDOWS, epoch, number)
            batches = batches[permute(np.arange(num_whole), size=num_whole, keys=keys)]
        # The ragged batch, of the longest, stays the last, or it would shift all others across batches.
        return np.concatenate([batches.reshape(-1), taken[num_whole * self.batch_size :]])


_ROUNDS, _MEMBERS, _WEIGHTED, _WINDOWS = range(100, 104)
"""Purposes of random numbers, apart from those of `shards.order.orders`."""
