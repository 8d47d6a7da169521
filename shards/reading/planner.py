"""Steps of an epoch -> which samples each needs, and where they are.

Shape letters: B batch, R rows, K utterances.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.order.dialogues import rows_of_turns
from shards.order.orders import Order, num_steps, rank_share, step_slice
from shards.reading.split import Places, Split, present
from shards.schema import MODALITIES, Modality

__all__ = ["LoaderState", "Plan", "Planner"]

_WINDOW = 8192
"""Places of an epoch whose order is computed at once: many at a time cost less each than batch by batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderState:
    """Where a loader stands: enough to go on with the same batches, whatever the number of ranks or readers."""

    order: str
    """`Order.identity`: a place in one order is no place in another."""
    epoch: int
    position: int
    """Samples of the epoch's global order that were handed out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What one batch of one rank needs."""

    places: Places
    """Where its R rows lie."""
    facts: dict[str, Any]
    """Lengths, presence and labels, as in `HostBatch`."""
    window: NDArray[np.int64]
    global_size: int


class Planner:
    """Turns steps, counted from a state, into plans. For one thread at a time."""

    def __init__(
        self,
        split: Split,
        order: Order,
        start: LoaderState,
        *,
        batch_size: int,
        rank: int,
        world_size: int,
        modalities: Collection[Modality],
        dialogue_turns: int,
    ) -> None:
        self._num_samples = order.num_samples  # asked once: some orders add it up, shard by shard
        self.num_steps = num_steps(self._num_samples, batch_size=batch_size, position=start.position)
        self._split = split
        self._order = order
        self._start = start
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._wanted = np.array([name in modalities for name in MODALITIES])
        self._dialogue_turns = dialogue_turns
        self._window_start = 0
        self._window = np.empty(0, dtype=np.int64)

    def plan(self, step: int) -> Plan:
        """Look up the samples of a step in the order, and in the split where they are."""
        position = self._start.position
        where = step_slice(step, num_samples=self._num_samples, batch_size=self._batch_size, position=position)
        batch = self._ordered(where.start, where.stop)
        asked = rank_share(batch, rank=self._rank, world_size=self._world_size)
        dialogues = self._split.rows["dialogue"]
        samples, window = rows_of_turns(asked, dialogues=dialogues, num_turns=self._dialogue_turns)
        places = self._split.places(samples)
        rows = places.rows
        facts: dict[str, Any] = {name: rows[name].astype(np.int64) for name in ("num_frames", "num_hops", "num_tokens")}
        facts["present"] = present(rows) & self._wanted
        labels = rows["labels"][: len(asked)].astype(np.int64)
        facts["labels"] = {item.task: labels[:, task].copy() for task, item in enumerate(self._split.label_sets)}
        return Plan(places=places, facts=facts, window=window, global_size=len(batch))

    def _ordered(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples at some places of the epoch, of which many are computed at a time."""
        begin = start - self._window_start
        if begin < 0 or stop > self._window_start + len(self._window):
            end = min(max(stop, start + _WINDOW), self._num_samples)
            self._window = self._order.samples(self._start.epoch, start, end)
            self._window_start, begin = start, 0
        return self._window[begin : begin + stop - start]
