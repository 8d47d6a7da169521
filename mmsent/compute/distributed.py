"""The processes of one run, as torchrun starts them. The one door to `torch.distributed`.

Shape letters: B batch, K classes.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmsent.errors import PeerError, TrainingError
from shards.errors import describe

__all__ = ["ALONE", "Agreement", "World", "joined", "peer_trouble", "sum_with_gradient", "world_from_environment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The place of a process among those of its run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this machine: the number of its GPU."""
    launched: bool = False
    """By torchrun or the like, which passes on signals that the terminal may have sent to this process already."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes and draws."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all ranks, in place, and return it."""
        if self.size > 1:
            with peer_trouble():
                dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.size > 1:
            with peer_trouble():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def broadcast_text(self, text: str) -> str:
        """Return the text that rank 0 gives; what the others give is not looked at."""
        if self.size == 1:
            return text
        with peer_trouble():
            content = torch.tensor(list(text.encode()), dtype=torch.uint8)
            size = torch.tensor([len(content)])
            dist.broadcast(size, src=0)
            if not self.is_first:
                content = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(content, src=0)
        return bytes(content.tolist()).decode()

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return a module that averages the gradients of `model` over the ranks in its backward pass.

        Buffers are left alone: the audio branch takes its batch statistics over all ranks, and what a video network has
        counted of its own clips is made one before it is evaluated.
        """
        if self.size == 1:
            return model
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


ALONE = World()


class Agreement:
    """A number that all ranks say at every step, of which each hears the largest at the next one.

    Numbers travel while the step computes, by way of the CPU: nobody waits for them.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._said = torch.zeros(1, dtype=torch.int64)
        self._under_way: dist.Work | None = None

    def say(self, number: int) -> int:
        """Say a number for this step; return the largest that any rank said at the step before, or alone the number.

        Raises:
            PeerError: if another rank is gone.
        """
        if self._world.size == 1:
            return number
        with peer_trouble():
            agreed = 0
            if self._under_way is not None:
                self._under_way.wait()
                agreed = int(self._said)
            self._said = torch.tensor([number])
            self._under_way = dist.all_reduce(self._said, op=dist.ReduceOp.MAX, async_op=True, group=_groups.agreements)
        return agreed

    def settle(self, number: int) -> int:
        """Say a number for the last time, and wait until all have; return the largest, whenever it was said.

        Raises:
            PeerError: if another rank is gone.
        """
        before = self.say(number)
        if self._under_way is None:  # alone
            return before
        with peer_trouble():
            self._under_way.wait()
        self._under_way = None
        return max(before, int(self._said))


def world_from_environment() -> World:
    """Return what torchrun says of this process (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`); without it, it is alone.

    Raises:
        TrainingError: if it says only a part, or SLURM started several processes that know nothing of each other.
    """
    size = int(os.environ.get("WORLD_SIZE") or "1")
    num_tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")  # of this `srun`, not of the allocation
    if size == 1 and "WORLD_SIZE" not in os.environ and num_tasks.isdigit() and int(num_tasks) > 1:
        what = f"srun started {num_tasks} processes, each of which would train the whole model by itself"
        raise TrainingError(describe(what, then="start one torchrun per machine by srun, as docs/scaling.md has it"))
    if size == 1:
        return World(launched="WORLD_SIZE" in os.environ)
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        what = f"WORLD_SIZE is {size}, but there is no {', '.join(missing)} in the environment"
        then = "start the run by `torchrun --nproc-per-node N --no-python mmsent train …` (docs/scaling.md)"
        raise TrainingError(describe(what, then=then))
    return World(rank=int(os.environ["RANK"]), size=size, local_rank=int(os.environ["LOCAL_RANK"]), launched=True)


@contextmanager
def joined(world: World) -> Iterator[None]:
    """Meet the other ranks, and part from them at the end."""
    if world.size == 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(_gpu_of(world))
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=_PATIENCE)
        _groups.agreements = dist.new_group(backend="gloo")
        _groups.sums = dist.new_group(backend=backend)
    except RuntimeError as exc:
        what = f"the processes of the run cannot meet: {str(exc).strip().splitlines()[0]}"
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        then = f"see that all of them are started, and that {where} is free and can be reached"
        raise TrainingError(describe(what, then=then)) from exc
    try:
        yield
    finally:
        _groups.agreements = _groups.sums = None
        dist.destroy_process_group()


def _gpu_of(world: World) -> int:
    """Return the number of a process's GPU: its own, or the only one that the launcher lets it see.

    Raises:
        TrainingError: if the machine has fewer GPUs than processes.
    """
    count = torch.cuda.device_count()
    if count == 1:
        return 0
    if world.local_rank >= count:
        what = f"process {world.local_rank + 1} of this machine has no GPU: it sees {count}"
        raise TrainingError(describe(what, then="start as many processes per machine as it has GPUs"))
    return world.local_rank


@dataclass(slots=True)
class _Groups:
    """Lines of their own for what may be exchanged at any time beside the gradients."""

    agreements: dist.ProcessGroup | None = None
    sums: dist.ProcessGroup | None = None


_groups = _Groups()
"""There is one set of processes at a time, as in `torch.distributed` itself."""


def sum_with_gradient(tensor: Tensor) -> Tensor:
    """Return a tensor added up over all ranks, through which gradients flow back to each of them."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return tensor
    summed: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return summed


class _Sum(torch.autograd.Function):
    """The gradient of a sum over ranks is the sum of their gradients."""

    @staticmethod
    def forward(_: object, tensor: Tensor) -> Tensor:
        summed = tensor.clone()
        with peer_trouble():
            dist.all_reduce(summed, group=_groups.sums)
        return summed

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=_groups.sums)
        return gradient


_PATIENCE = timedelta(minutes=30)
"""For a rank that is busy with something else, a slow disk say, before the others give up."""


@contextmanager
def peer_trouble() -> Iterator[None]:
    """Say in our words that another rank is gone; what else goes wrong is raised as it is.

    Raises:
        PeerError: if it is.
    """
    try:
        yield
    except RuntimeError as exc:
        if not isinstance(exc, dist.DistBackendError | dist.DistNetworkError) and "gloo" not in str(exc).lower():
            raise
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        what = f"another process of the run ended or cannot be reached: {reason}"
        then = "look for the first error among the messages of all ranks, then start again with `--resume`"
        raise PeerError(describe(what, then=then)) from exc
