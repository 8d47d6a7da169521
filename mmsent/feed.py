"""Batches on the device, one ahead of the step that is computed."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch

from mmsent.batch import Batch, to_device
from shards.loader import HostBatch, LoaderState, ShardLoader

__all__ = ["DeviceFeed", "Transfer", "ahead_by_one"]

_STEPS_AHEAD = 2
"""Steps that a GPU has been given and has not finished: enough that it never waits for the CPU."""

T = TypeVar("T")
U = TypeVar("U")
U_co = TypeVar("U_co", covariant=True)


class DeviceFeed:
    """The batches of a loader on a device, with the place in the epoch that goes with them.

    On a GPU the copy of a batch runs on a stream of its own while the step before it computes, provided that the loader
    was given `mmsent.batch.allocate_pinned`. On a CPU the large arrays are shared with the loader, not copied. In
    either case a batch is valid until the next one is asked for.
    """

    def __init__(self, loader: ShardLoader, device: torch.device) -> None:
        self._loader = loader
        self._device = device
        self._state = loader.state()

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
        if self._device.type == "cuda":
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            batches = ahead_by_one(self._places(), lambda item: _Upload(*item, self._device, stream))
        else:
            batches = ((to_device(host, self._device), state) for host, state in self._places())
        queue = _StepQueue(self._device)
        for batch, state in batches:
            self._state = state
            yield batch
            if self._device.type == "cuda":
                queue.add()
        self._state = self._loader.state()  # the next epoch

    def _places(self) -> Iterator[tuple[HostBatch, LoaderState]]:
        for host in self._loader:
            yield host, self._loader.state()


class _StepQueue:
    """The steps that a GPU was given: without a bound the CPU runs ahead of it, and each step holds its batch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ends: deque[torch.cuda.Event] = deque()

    def add(self) -> None:
        """Note the end of what the GPU was given so far; return when no more than `_STEPS_AHEAD` steps are left."""
        self._ends.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
        self._ends[-1].record(torch.cuda.current_stream(self._device))
        if len(self._ends) > _STEPS_AHEAD:
            self._ends.popleft().synchronize()


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
