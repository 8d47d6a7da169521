"""Batches on the device, one ahead of the step that is computed."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from mmsent.batches.batch import Batch, to_device
from shards.reading.host_batch import HostBatch
from shards.reading.loader import ShardLoader
from shards.reading.planner import LoaderState

__all__ = ["DeviceFeed", "StepQueue", "Transfer", "ahead_by_one"]

_STEPS_AHEAD = 2
"""Steps that a GPU has been given and has not finished: enough that it never waits for the CPU."""

T = TypeVar("T")
U = TypeVar("U")
U_co = TypeVar("U_co", covariant=True)


class DeviceFeed:
    """The batches of a loader on a device, with the place in the epoch that goes with them.

    On a GPU the copy of a batch runs on a stream of its own while the step before it computes, provided that the loader
    was given `host_memory`. On a CPU the large arrays are shared with the loader, not copied. In either case a
    batch is valid until the next one is asked for.

    Attributes:
        wait_seconds: For how long the device had nothing to do because a batch was not there yet, since the beginning;
            on a GPU as of the last step that it has finished.
    """

    def __init__(self, loader: ShardLoader, device: torch.device) -> None:
        self._loader = loader
        self._device = device
        self._state = loader.state()
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        return len(self._loader)

    def state(self) -> LoaderState:
        """Return the place after the last batch that was handed out, not after one that is only under way."""
        return self._state

    def seek(self, state: LoaderState) -> None:
        """Go on from `state`, as `ShardLoader.seek`."""
        self._loader.seek(state)
        self._state = state

    def __iter__(self) -> Iterator[Batch]:
        self._loader.seek(self._state)  # it may be a batch ahead of what was handed out
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            batches = ahead_by_one(self._places(), lambda item: _Upload(*item, self._device, stream))
        else:
            batches = ((to_device(host, self._device), state) for host, state in self._places())
        queue = StepQueue()
        while True:
            asked = time.perf_counter()
            arrived = next(batches, None)
            waited = time.perf_counter() - asked
            if arrived is None:
                break
            batch, self._state = arrived
            if not on_gpu:
                self.wait_seconds += waited
                yield batch
                continue
            queue.begin(waited)
            yield batch
            self.wait_seconds += queue.end()
        self.wait_seconds += queue.finish()
        self._state = self._loader.state()  # the next epoch

    def _places(self) -> Iterator[tuple[HostBatch, LoaderState]]:
        for host in self._loader:
            yield host, self._loader.state()


@dataclass(slots=True)
class _Step:
    """A step that a GPU was given, as marks in its stream of work."""

    begin: torch.cuda.Event
    end: torch.cuda.Event
    waited: float
    """Seconds for which the CPU waited for the batch before it."""


class StepQueue:
    """The steps that a GPU was given: without a bound the CPU runs ahead of it, and each step holds its batch.

    The CPU waits for a batch while the GPU still computes, so its own time says little of whether data came too late.
    What counts is the gap between two steps on the GPU, as far as the CPU waited for data meanwhile.
    """

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()
        self._last_end: torch.cuda.Event | None = None

    def begin(self, waited: float) -> None:
        """Note that a step is given now, after the CPU waited so many seconds for its batch."""
        self._steps.append(_Step(begin=_mark(), end=_new_mark(), waited=waited))

    def end(self) -> float:
        """Note that all of the step was given; return when no more than `_STEPS_AHEAD` steps are left.

        Returns:
            Seconds for which the GPU had to wait for the data of a step that is over by now.
        """
        self._steps[-1].end.record()
        return self._leave(_STEPS_AHEAD)

    def finish(self) -> float:
        """Wait for all that was given; return as `end`."""
        return self._leave(0)

    def _leave(self, count: int) -> float:
        idle = 0.0
        while len(self._steps) > count:
            step = self._steps.popleft()
            step.end.synchronize()
            gap = step.waited if self._last_end is None else self._last_end.elapsed_time(step.begin) / 1000
            idle += min(gap, step.waited)
            self._last_end = step.end
        return idle


def _mark() -> torch.cuda.Event:
    mark = _new_mark()
    mark.record()
    return mark


def _new_mark() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class Transfer(Protocol[U_co]):
    """Something under way to a device."""

    def wait_until_read(self) -> None:
        """Return when its source may be used again."""

    def arrived(self) -> U_co:
        """Return it, ready for the work that is given to the device from now on."""


def ahead_by_one(sources: Iterator[T], start: Callable[[T], Transfer[U]]) -> Iterator[U]:
    """Yield what arrives, with the next transfer begun before the last one is handed out.

    A source is asked for only when the one before it has been read, since it may be the same memory.
    """
    under_way: Transfer[U] | None = None
    for source in sources:
        begun = start(source)
        if under_way is not None:
            yield under_way.arrived()
        under_way = begun
        under_way.wait_until_read()
    if under_way is not None:
        yield under_way.arrived()


class _Upload:
    """A batch under way to a GPU on a stream of its own."""

    def __init__(self, host: HostBatch, state: LoaderState, device: torch.device, stream: torch.cuda.Stream) -> None:
        self._state = state
        self._device = device
        with torch.cuda.stream(stream):
            self._batch = to_device(host, device, non_blocking=True)
            self._read = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._read.record(stream)

    def wait_until_read(self) -> None:
        """Return when the copy is done."""
        self._read.synchronize()

    def arrived(self) -> tuple[Batch, LoaderState]:
        """Return the batch; what is computed from now on comes after the copy."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(self._read)
        for tensor in self._batch.tensors():  # or the allocator gives its memory away while the step still reads it
            tensor.record_stream(current)
        return self._batch, self._state
