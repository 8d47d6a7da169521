"""A few slots of memory that threads fill ahead of a consumer, in the order of steps."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Ring"]

P = TypeVar("P")


class Ring(Generic[P]):
    """Hands the parts of one step after another to reader threads, and filled slots to the consumer in that order.

    A step is opened when a slot is free, and its parts are all handed out before the next one is opened: so all readers
    work on the batch that is needed first, two slots are enough for any number of them, and it cannot deadlock.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        num_steps: int,
        num_parts: int,
        plan: Callable[[int], P],
        fill: Callable[[P, int, int], None],
    ) -> None:
        """Prepare a ring; `run` starts it.

        Args:
            num_slots: Slots, by number from 0.
            num_steps: Steps to fill, by number from 0.
            num_parts: Into how many parts a step is shared out.
            plan: Says what a step needs. Called once per step, in order, by one reader at a time.
            fill: Fills one part of a planned step in a slot. Called by several readers at once.
        """
        self._num_steps = num_steps
        self._num_parts = num_parts
        self._plan = plan
        self._fill = fill
        self._free = list(range(num_slots))
        self._unfilled_parts: dict[int, int] = {}
        self._filled: dict[int, tuple[P, int]] = {}
        self._next_step = 0
        self._open_parts: list[tuple[int, P, int, int]] = []
        self._failure: BaseException | None = None
        self._stopped = False
        self._opening = threading.Lock()
        lock = threading.Lock()
        self._slot_is_free = threading.Condition(lock)
        self._step_is_filled = threading.Condition(lock)
        self._threads: list[threading.Thread] = []

    def run(self, num_readers: int) -> None:
        """Start the readers; leaving the `with` block around it stops and joins them."""
        num_useful = min(num_readers, self._num_steps * self._num_parts)
        for i in range(num_useful):
            thread = threading.Thread(target=self._read, name=f"shard-reader-{i}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def __enter__(self) -> "Ring[P]":
        return self

    def __exit__(self, *_: object) -> None:
        """End the readers and wait for them."""
        with self._slot_is_free:
            self._stopped = True
            self._wake_all()
        for thread in self._threads:
            thread.join()

    def take(self, step: int) -> tuple[P, int]:
        """Wait for a step, and return its plan and its slot.

        A reader's exception is raised here, at once, even if this step is filled.
        """
        with self._step_is_filled:
            self._step_is_filled.wait_for(lambda: self._stopped or step in self._filled or self._failure is not None)
            if self._stopped:
                raise RuntimeError("another iteration over the same loader began: this one cannot go on")
            if self._failure is not None:
                raise self._failure
            return self._filled.pop(step)

    def give_back(self, slot: int) -> None:
        """Let the readers fill a slot again."""
        with self._slot_is_free:
            self._free.append(slot)  # the last one given back is the first to be used again: it is still in the cache
            self._slot_is_free.notify()

    def _read(self) -> None:
        try:
            while (part := self._next_part()) is not None:
                step, plan, slot, number = part
                self._fill(plan, slot, number)
                with self._step_is_filled:
                    self._unfilled_parts[step] -= 1
                    if not self._unfilled_parts[step]:
                        del self._unfilled_parts[step]
                        self._filled[step] = plan, slot
                        self._step_is_filled.notify()
        except BaseException as exc:  # whatever it is belongs to the consumer, not to this thread
            with self._step_is_filled:
                self._failure = self._failure or exc
                self._wake_all()

    def _next_part(self) -> tuple[int, P, int, int] | None:
        """Return the next step, its plan, its slot and a part of it to fill; None when there is nothing left to do."""
        with self._opening:
            if not self._open_parts:
                with self._slot_is_free:
                    self._slot_is_free.wait_for(lambda: self._free or self._is_over())
                    if self._is_over():
                        return None
                    slot = self._free.pop()
                    step = self._next_step
                    self._next_step += 1
                    self._unfilled_parts[step] = self._num_parts
                plan = self._plan(step)  # not under the lock of the consumer: it may read, and take long
                self._open_parts = [(step, plan, slot, number) for number in reversed(range(self._num_parts))]
            return self._open_parts.pop()

    def _is_over(self) -> bool:
        return self._stopped or self._failure is not None or self._next_step == self._num_steps

    def _wake_all(self) -> None:
        self._slot_is_free.notify_all()
        self._step_is_filled.notify_all()
