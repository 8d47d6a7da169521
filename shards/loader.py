"""Reader threads copy payload bytes from mapped shards into preallocated batches, ahead of the trainer.

No worker processes, no parsing, no collate and no allocation per batch: nothing but the copy (docs/decisions/0002).

Shape letters: B batch, T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.codec import ARRAY_MEMBERS, array_shapes
from shards.order import epoch_order, num_steps, rank_share, step_slice
from shards.reader import Split

__all__ = ["Allocate", "HostBatch", "LoaderState", "ShardLoader"]

Allocate = Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]]
"""Makes the memory of a batch, for example page-locked for a GPU. Called once per array and ring slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderState:
    """Where a loader stands: enough to go on with the same batches, whatever the number of ranks or readers."""

    seed: int
    epoch: int
    position: int
    """Samples of the epoch's global order that were handed out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostBatch:
    """One rank's share of one global batch, in memory that is used again.

    The arrays are valid until the next batch is asked for: copy what must live longer.

    Attributes:
        frames: `(B, T, H, W, 3)` uint8.
        logmel: `(B, M, S)` float16.
        tokens: `(B, L)` int32.
        num_frames: `(B,)` int64, real frames; likewise `num_hops` and `num_tokens`.
        present: `(B, 3)` bool, in the order of `shards.schema.MODALITIES`.
        labels: `(B,)` int64 by task.
        samples: `(B,)` int64, place of each sample in the split.
        global_size: Samples of the global batch, over all ranks. B may be 0 on a ragged tail; this is not.
    """

    frames: NDArray[np.uint8]
    logmel: NDArray[np.float16]
    tokens: NDArray[np.int32]
    num_frames: NDArray[np.int64]
    num_hops: NDArray[np.int64]
    num_tokens: NDArray[np.int64]
    present: NDArray[np.bool_]
    labels: Mapping[str, NDArray[np.int64]]
    samples: NDArray[np.int64]
    global_size: int

    def __len__(self) -> int:
        return len(self.samples)


class ShardLoader:
    """Iterate over the batches of one epoch after another, resumable at any batch.

    Iterating gives what is left of the current epoch, then moves to the next one. Every sample comes exactly once per
    epoch; the last batch may be smaller. `len()` is the number of batches of a whole epoch, the same on every rank.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_readers: int = 1,
        ring_size: int = 4,
        allocate: Allocate = np.empty,
    ) -> None:
        """Prepare a loader; memory is taken and threads start with the first iteration.

        Args:
            split: Where the samples are.
            batch_size: Samples of a global batch, over all ranks.
            shuffle: A new global order every epoch; False keeps the order of the shards.
            seed: Of the order.
            rank: This process, from 0.
            world_size: Processes that share every global batch.
            num_readers: Threads that copy.
            ring_size: Batches in memory, the one in use included; at least 2, so that one is filled meanwhile.
            allocate: Makes the arrays.

        Raises:
            ValueError: if a count is out of range.
        """
        if batch_size < 1 or num_readers < 1 or ring_size < 2 or not 0 <= rank < world_size or seed < 0:
            raise ValueError(
                f"need batch_size >= 1, num_readers >= 1, ring_size >= 2, 0 <= rank < world_size, seed >= 0; got "
                f"{batch_size=}, {num_readers=}, {ring_size=}, {rank=}, {world_size=}, {seed=}"
            )
        self.split = split
        self.batch_size = batch_size
        self._shuffle = shuffle
        self._rank = rank
        self._world_size = world_size
        self._num_readers = num_readers
        self._ring_size = ring_size
        self._allocate = allocate
        self._slots: list[dict[str, NDArray[Any]]] = []
        self._ring: _Ring | None = None
        self._state = LoaderState(seed=seed, epoch=0, position=0)
        self._present = split.present()

    def __len__(self) -> int:
        return num_steps(len(self.split), batch_size=self.batch_size)

    def state(self) -> LoaderState:
        """Return the place after the last batch that was handed out."""
        return self._state

    def seek(self, state: LoaderState) -> None:
        """Go on from `state`; costs no reading.

        Raises:
            ValueError: if the state is not one of this split's.
        """
        if not (0 <= state.position <= len(self.split) and state.epoch >= 0 and state.seed >= 0):
            raise ValueError(f"{state} is no place in a split of {len(self.split)} samples")
        self._state = state

    def __iter__(self) -> Iterator[HostBatch]:
        if self._ring is not None:
            self._ring.stop()  # an iterator that was left open shares the slots with this one
        start = self._state
        if not self._slots:
            self._slots = [self._new_slot() for _ in range(self._ring_size)]
        order = epoch_order(len(self.split), seed=start.seed, epoch=start.epoch, shuffle=self._shuffle)
        steps = num_steps(len(order), batch_size=self.batch_size, position=start.position)

        def share_of(step: int) -> tuple[NDArray[np.int64], int]:
            where = step_slice(step, num_samples=len(order), batch_size=self.batch_size, position=start.position)
            batch = order[where]
            return rank_share(batch, rank=self._rank, world_size=self._world_size), len(batch)

        ring = _Ring(num_slots=self._ring_size, num_steps=steps, fill=lambda s, slot: self._fill(share_of(s)[0], slot))
        self._ring = ring
        try:
            with ring.run(self._num_readers):
                for step in range(steps):
                    slot = ring.take(step)
                    samples, global_size = share_of(step)
                    position = self._state.position + global_size
                    self._state = LoaderState(seed=start.seed, epoch=start.epoch, position=position)
                    yield self._batch(samples, slot, global_size)
                    ring.give_back(slot)
        finally:
            if self._ring is ring:
                self._ring = None  # it refers to this loader: the memory would wait for the garbage collector
        self._state = LoaderState(seed=start.seed, epoch=start.epoch + 1, position=0)

    def _new_slot(self) -> dict[str, NDArray[Any]]:
        largest = -(-self.batch_size // self._world_size)  # the largest share of a full global batch
        return {
            name: self._allocate((largest, *shape), ARRAY_MEMBERS[name])
            for name, shape in array_shapes(self.split.spec).items()
        }

    def _fill(self, samples: NDArray[np.int64], slot: int) -> None:
        """Copy the payloads of `samples` into a slot. NumPy releases the GIL while it copies, Pillow in decoding."""
        for name, array in self._slots[slot].items():
            for i, sample in enumerate(samples):
                self.split.copy_array(name, int(sample), array[i])

    def _batch(self, samples: NDArray[np.int64], slot: int, global_size: int) -> HostBatch:
        rows = self.split.rows[samples]
        arrays = {name: array[: len(samples)] for name, array in self._slots[slot].items()}
        return HostBatch(
            **arrays,
            num_frames=rows["num_frames"].astype(np.int64),
            num_hops=rows["num_hops"].astype(np.int64),
            num_tokens=rows["num_tokens"].astype(np.int64),
            present=self._present[samples],
            labels={
                labels.task: rows["labels"][:, task].astype(np.int64)
                for task, labels in enumerate(self.split.label_sets)
            },
            samples=samples,
            global_size=global_size,
        )


class _Ring:
    """Hands free slots and step numbers to reader threads, and filled slots to the consumer in the order of steps.

    A reader takes a slot and the next step in one move, so the earliest unfilled step always has a slot: it cannot
    deadlock whatever the number of readers.
    """

    def __init__(self, *, num_slots: int, num_steps: int, fill: Callable[[int, int], None]) -> None:
        self._free = list(range(num_slots))
        self._filled: dict[int, int] = {}
        self._next_step = 0
        self._num_steps = num_steps
        self._fill = fill
        self._failure: BaseException | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def run(self, num_readers: int) -> "_Ring":
        """Start the readers; leaving the `with` block stops and joins them."""
        self._threads = [
            threading.Thread(target=self._read, name=f"shard-reader-{i}", daemon=True)
            for i in range(min(num_readers, self._num_steps))
        ]
        return self

    def __enter__(self) -> "_Ring":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the readers and wait for them."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def take(self, step: int) -> int:
        """Wait for a step's slot. A reader's exception is raised here, at once, even if batches before it are ready."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or step in self._filled or self._failure is not None)
            if self._stopped:
                raise RuntimeError("another iteration over the same loader began: this one cannot go on")
            if self._failure is not None:
                raise self._failure
            return self._filled.pop(step)

    def give_back(self, slot: int) -> None:
        """Let the readers fill a slot again."""
        with self._changed:
            self._free.append(slot)
            self._changed.notify_all()

    def _read(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._free or self._stopped or self._next_step == self._num_steps)
                if self._stopped or self._next_step == self._num_steps:
                    return
                slot = self._free.pop()
                step = self._next_step
                self._next_step += 1
            try:
                self._fill(step, slot)
            except BaseException as exc:  # whatever it is belongs to the consumer, not to this thread
                with self._changed:
                    self._failure = exc
                    self._changed.notify_all()
                return
            with self._changed:
                self._filled[step] = slot
                self._changed.notify_all()
