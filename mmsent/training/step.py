"""One step of training: forward and backward in parts, over all ranks, then the update of the weights.

Shape letters: B batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mmsent.batches.batch import Batch
from mmsent.compute.distributed import ALONE, World, peer_trouble
from mmsent.compute.precision import ResolvedPrecision, autocast
from mmsent.config import TrainConfig
from mmsent.model.multimodal import MultimodalModel
from mmsent.runs.checkpoint import part_of
from mmsent.training.losses import MultitaskLoss
from mmsent.training.optimizer import Optimizer
from mmsent.training.weight_average import AveragedModel
from shards.order.permutation import stream_keys

__all__ = ["Stepper"]


class Stepper:
    """A model with its optimizer: everything that a step changes.

    A step is a pure function of the weights, the batch, and the number of the step: random numbers for dropout are
    begun anew at each, from the seed, the number and the rank. So a run that goes on has no generators to restore.

    Attributes:
        model: In training.
        average: Of its weights, if the config asks for it.
        num_steps: Steps made.
        optimizer: Adam and its learning rates.
    """

    def __init__(
        self,
        model: MultimodalModel,
        config: TrainConfig,
        *,
        loss: MultitaskLoss,
        precision: ResolvedPrecision,
        device: torch.device,
        steps_per_epoch: int,
        world: World = ALONE,
    ) -> None:
        self.model = model
        self.average = AveragedModel(model, decay=config.ema_decay) if config.ema_decay else None
        self.num_steps = 0
        self._config = config
        self._loss = loss
        self._precision = precision
        self._device = device
        self._world = world
        if config.compile:
            model.compile_encoders(num_rows=-(-config.batch_size // (world.size * config.accumulation_steps)))
        self._wrapped = world.wrapped(model)
        self.optimizer = Optimizer(
            model,
            config,
            precision=precision,
            device=device,
            num_steps_in_all=steps_per_epoch * config.max_epochs,
        )
        names = {name for name, _ in model.named_buffers()}
        self._buffers = {name: value for name, value in model.trained_state().items() if name in names}
        self._keep_buffers()

    @property
    def evaluated_model(self) -> MultimodalModel:
        """The model to validate and keep: the average, if there is one."""
        return self.model if self.average is None else self.average.model

    def evaluated_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of `evaluated_model` that training changes, by name."""
        return {f"model.{name}": value for name, value in self.evaluated_model.trained_state().items()}

    @property
    def learning_rate(self) -> float:
        """Rate at the last step of what starts from random weights."""
        return self.optimizer.learning_rate(self.num_steps)

    def forward_backward(self, batch: Batch, *, global_size: int) -> Tensor:
        """Compute the gradients of a step and return its loss, this rank's share of it, on the device.

        Nothing is changed that `tensors` and `state` give.

        Args:
            batch: This rank's share, which may be empty.
            global_size: Samples of all ranks together.
        """
        _seed_device(_step_seed(self._config.seed, self.num_steps, self._world.rank), self._device)
        if self._loss.is_weighted:
            weight = self._world.all_reduce(self._loss.weight(batch.labels))
        else:
            num_tasks = len(batch.labels)
            weight = torch.full((num_tasks,), float(global_size), device=self._device)
        total = torch.zeros((), device=self._device)
        parts = list(_parts(batch, self._config.accumulation_steps))
        for number, part in enumerate(parts):
            with self._gradients_kept(last=number == len(parts) - 1), peer_trouble():
                with autocast(self._precision, self._device):
                    logits = self._wrapped(part)
                loss = self._loss(logits, part.labels, weight=weight)
                # DDP divides the sum of the ranks' gradients by their number; the loss is divided already.
                self.optimizer.scaled(loss * self._world.size).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def optimizer_step(self) -> Tensor:
        """Change the weights by the gradients, and return the gradients' norm before it was clipped, on the device.

        From here on `tensors` and `state` give what this step has made.
        """
        self.num_steps += 1
        norm = self.optimizer.step(self.num_steps)
        if self.average is not None:
            self.average.update(self.num_steps)
        self._keep_buffers()
        return norm

    def broadcast_buffers(self) -> None:
        """Take rank 0's running statistics on all ranks, before they are evaluated: they are those that are saved."""
        buffers = list(self._buffers.values())
        if self.average is not None:
            averaged = self.average.model.trained_state()
            buffers += [averaged[name] for name in self._buffers]
        self._world.broadcast(buffers)
        self._keep_buffers()

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that a step changes, by name, as the last `optimizer_step` left them; not copies."""
        found = {f"model.{name}": value for name, value in {**self.model.trained_state(), **self._kept}.items()}
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.model.trained_state().items()}
        return found | {f"optimizer.{name}": value for name, value in self.optimizer.tensors().items()}

    def state(self) -> dict[str, Any]:
        """Return all else that a step changes, as plain values."""
        return {"num_steps": self.num_steps, **self.optimizer.state()}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `tensors` and `state` gave."""
        self.model.load_trained_state(part_of(tensors, "model"))
        if self.average is not None:
            self.average.model.load_trained_state(part_of(tensors, "average"))
        self.num_steps = state["num_steps"]
        self.optimizer.load(part_of(tensors, "optimizer"), state)
        self._keep_buffers()

    def _keep_buffers(self) -> None:
        """Copy the running statistics of batch normalisation: the next forward pass changes them, before its update."""
        self._kept = {name: value.clone() for name, value in self._buffers.items()}

    def _gradients_kept(self, *, last: bool) -> AbstractContextManager[object]:
        """Return the context of a part: ranks exchange gradients after the last one."""
        if last or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        return self._wrapped.no_sync()


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of a step's random numbers, of 63 bits."""
    return int(stream_keys(seed, _STEP, step, rank)[0]) >> 1


def _seed_device(seed: int, device: torch.device) -> None:
    """Begin the random numbers of one device anew.

    `torch.manual_seed` does it for all kinds of device; without a GPU it notes each call, with a stack trace, in a list
    that grows for ever (`torch.cuda._lazy_call`).
    """
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    torch.default_generator.manual_seed(seed)


_STEP = 200
"""Purpose of random numbers, apart from those of `shards` and of augmentation."""


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """Cut a batch into so many parts, the first of them larger by one; every rank has as many, some may be empty."""
    if count == 1:
        yield batch
        return
    size, larger = divmod(len(batch), count)
    start = 0
    for number in range(count):
        stop = start + size + (number < larger)
        yield batch.part(start, stop)
        start = stop
