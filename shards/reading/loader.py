"""Reader threads copy payload bytes from mapped shards into preallocated batches, ahead of the trainer.

No worker processes, no parsing, no collate and no allocation per batch: nothing but the copy (docs/decisions/0002).

Shape letters: B batch, R rows, K utterances, T frames, H height, W width (of features: how many), M mel bins, S hops,
L tokens.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.order.dialogues import check_dialogues
from shards.order.orders import BlockShuffled, InOrder, Order, num_steps
from shards.reading.host_batch import Allocate, HostBatch, batch_arrays
from shards.reading.planner import LoaderState, Plan, Planner
from shards.reading.ring import Ring
from shards.reading.split import Split
from shards.schema import MODALITIES, Modality
from shards.storage.source import Ahead

__all__ = ["ShardLoader"]


class ShardLoader:
    """Iterate over the batches of one epoch after another, resumable at any batch.

    Iterating gives what is left of the current epoch, then moves to the next one. An epoch is what the order says; the
    last batch may be smaller. `len()` is the number of batches of a whole epoch, the same on every rank.

    It holds `ring_size` batches in memory, and maps shards without reading them: what a tool shows beyond that as
    shared or file memory is the system's page cache, which gives way when memory is short.
    """

    def __init__(
        self,
        split: Split,
        *,
        order: Order,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_readers: int = 1,
        ring_size: int = 3,
        check: bool = False,
        modalities: Collection[Modality] = MODALITIES,
        dialogue_turns: int = 1,
        allocate: Allocate = np.empty,
    ) -> None:
        """Prepare a loader; memory is taken and threads start with the first iteration.

        Args:
            split: Where the samples are.
            order: Which samples come when: of `shards.order.orders` or `shards.order.sampling`.
            batch_size: Samples of a global batch, over all ranks.
            rank: This process, from 0.
            world_size: Processes that share every global batch.
            num_readers: Threads that copy, all into the batch that is needed first.
            ring_size: Batches in memory, the one in use included; at least 2, so that one is filled meanwhile.
            check: Compare every sample with its CRC-32: a quarter of the speed (`benchmarks/copying.py`).
            modalities: Those whose arrays are wanted; no memory is taken for others, and nothing copied.
            dialogue_turns: K, how many utterances of a dialogue a sample comes with, itself included. A rank brings
                those of its own share.
            allocate: Makes the arrays.

        Raises:
            ValueError: if a count is out of range, or there is no such modality.
            ShardError: if `dialogue_turns` is above 1 and the split does not say which samples are a dialogue.
        """
        if batch_size < 1 or num_readers < 1 or ring_size < 2 or not 0 <= rank < world_size:
            raise ValueError(
                f"need batch_size >= 1, num_readers >= 1, ring_size >= 2, 0 <= rank < world_size; got "
                f"{batch_size=}, {num_readers=}, {ring_size=}, {rank=}, {world_size=}"
            )
        if dialogue_turns < 1 or not modalities or not set(modalities) <= set(MODALITIES):
            raise ValueError(
                f"need dialogue_turns >= 1 and modalities of {', '.join(MODALITIES)}; got "
                f"{dialogue_turns=}, {modalities=}"
            )
        if dialogue_turns > 1:
            check_dialogues(split.rows["dialogue"], where=split.source.location)
        self.split = split
        self.order = order
        self.batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._num_readers = num_readers
        self._num_parts = 1 if num_readers == 1 else 2 * num_readers  # finer than readers, so that none waits long
        self._ring_size = ring_size
        self._check = check
        self._arrays = {name: member for name, member in split.arrays.items() if name in modalities}
        self._dialogue_turns = dialogue_turns
        self._allocate = allocate
        self._slots: list[dict[Modality, NDArray[Any]]] = []
        self._under_way = ExitStack()
        self._state = LoaderState(order=order.identity, epoch=0, position=0)

    def __len__(self) -> int:
        return num_steps(self.order.num_samples, batch_size=self.batch_size)

    def state(self) -> LoaderState:
        """Return the place after the last batch that was handed out."""
        return self._state

    def seek(self, state: LoaderState) -> None:
        """Go on from `state` with the next iteration; costs no reading. One that is under way cannot go on.

        Raises:
            ValueError: if the state is not one of this order.
        """
        if state.order != self.order.identity:
            raise ValueError(f"{state} is a place in another order than this one: {self.order.identity}")
        if not (0 <= state.position <= self.order.num_samples and state.epoch >= 0):
            raise ValueError(f"{state} is no place in an epoch of {self.order.num_samples} samples")
        self._under_way.close()
        self._under_way = ExitStack()
        self._state = state

    def __iter__(self) -> Iterator[HostBatch]:
        self._under_way.close()  # an iterator that was left open shares the slots with this one
        start = self._state
        if not self._slots:
            self._slots = [self._new_slot() for _ in range(self._ring_size)]
        planner = Planner(
            self.split,
            self.order,
            start,
            batch_size=self.batch_size,
            rank=self._rank,
            world_size=self._world_size,
            modalities=self._arrays.keys(),
            dialogue_turns=self._dialogue_turns,
        )
        ring = Ring(
            num_slots=self._ring_size,
            num_steps=planner.num_steps,
            num_parts=self._num_parts,
            plan=planner.plan,
            fill=self._fill,
        )
        with ExitStack() as under_way:
            self._under_way = under_way
            end_waits = under_way.enter_context(self.split.files.follow(self._ahead(start)))
            under_way.enter_context(ring)
            under_way.callback(end_waits)
            ring.run(self._num_readers)
            for step in range(planner.num_steps):
                plan, slot = ring.take(step)
                position = self._state.position + plan.global_size
                self._state = LoaderState(order=start.order, epoch=start.epoch, position=position)
                yield self._batch(plan, slot)
                if self._under_way is not under_way:  # even after the last batch: the state is the other one's by now
                    raise RuntimeError("another iteration over the same loader began, or a seek: this one cannot go on")
                ring.give_back(slot)
        self._state = LoaderState(order=start.order, epoch=start.epoch + 1, position=0)

    def _ahead(self, start: LoaderState) -> Ahead | None:
        """Return which shards the rest of an epoch needs, if they come in an order."""
        before = self._dialogue_turns - 1  # so many samples before one that is asked for are needed with it
        num_samples = self._ring_size * self.batch_size + before
        if isinstance(self.order, InOrder):
            first = int(np.searchsorted(self.split.shard_ends, max(0, start.position - before), side="right"))
            shards = np.arange(first, len(self.split.shard_ends))
            return Ahead(shards.tolist(), num_at_once=_most_touched(self._shard_sizes[shards], num_samples))
        if isinstance(self.order, BlockShuffled):
            size = self.order.shards_per_block
            shards = self.order.shards(start.epoch)[self.order.first_shard(start.epoch, start.position) :]
            starts = np.arange(0, len(shards), size)
            num_blocks = _most_touched(np.add.reduceat(self._shard_sizes[shards], starts), num_samples)
            if not before:
                return Ahead(shards.tolist(), num_at_once=num_blocks * size)
            # The dialogue of a shard's first sample may have begun in the shard before it: that is brought with it.
            wanted: list[int] = []
            for begin in starts:
                block = shards[begin : begin + size]
                wanted += [*np.maximum(block - 1, 0).tolist(), *block.tolist()]
            return Ahead(list(dict.fromkeys(wanted)), num_at_once=2 * num_blocks * size)
        return None

    @property
    def _shard_sizes(self) -> NDArray[np.int64]:
        return np.array([shard.num_samples for shard in self.split.index.shards])

    def _new_slot(self) -> dict[Modality, NDArray[Any]]:
        largest = -(-self.batch_size // self._world_size)  # the largest share of a full global batch
        num_rows = min(largest * self._dialogue_turns, largest + len(self.split))
        return {name: self._allocate((num_rows, *member.shape), member.dtype) for name, member in self._arrays.items()}

    def _fill(self, plan: "Plan", slot: int, part: int) -> None:
        """Copy a part of a batch into a slot."""
        size = -(-len(plan.places) // self._num_parts)
        places = plan.places.part(part * size, (part + 1) * size)
        arrays = {name: array[part * size :][: len(places)] for name, array in self._slots[slot].items()}
        self.split.copy_arrays(places, arrays)
        if self._check:
            self.split.check_arrays(places, arrays)

    def _batch(self, plan: "Plan", slot: int) -> HostBatch:
        arrays = {name: array[: len(plan.places)] for name, array in self._slots[slot].items()}
        return HostBatch(
            **batch_arrays(arrays, self._arrays),
            **plan.facts,
            samples=plan.places.samples,
            window=plan.window,
            global_size=plan.global_size,
        )


def _most_touched(sizes: NDArray[np.int64], num_samples: int) -> int:
    """Return in how many blocks of `sizes` `(blocks,)`, one after the other, `num_samples` in a row lie at most.

    `[4, 4, 4]` and 6 samples -> 3: the last one of the first block, all of the second, and one of the third.
    """
    ends = np.cumsum(sizes)
    last = np.searchsorted(ends, ends + num_samples - 2, side="right")  # of those that begin with the last one of each
    return int(np.max(np.minimum(last, len(sizes) - 1) - np.arange(len(sizes)) + 1, initial=0))
