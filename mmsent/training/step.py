"""One step of training: forward and backward in parts, over all ranks, then the update of the weights.

Shape letters: B batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mmsent.batches.batch import Batch
from mmsent.compute.distributed import ALONE, World, peer_trouble
from mmsent.compute.precision import ResolvedPrecision, autocast
from mmsent.config import TrainConfig
from mmsent.model.multimodal import MultimodalModel
from mmsent.training.losses import MultitaskLoss
from mmsent.training.optimizer import parameter_groups
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
        self._num_steps_in_all = steps_per_epoch * config.max_epochs
        self._loss = loss
        self._precision = precision
        self._device = device
        self._world = world
        if config.compile:
            model.compile_encoders(num_rows=-(-config.batch_size // (world.size * config.accumulation_steps)))
        self._wrapped = world.wrapped(model)
        self._trained = [item for item in model.parameters() if item.requires_grad]
        self._optimizer = torch.optim.Adam(parameter_groups(model, config), fused=True)
        self._schedule = ReduceLROnPlateau(
            self._optimizer,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            eps=0,  # torch's 1e-8 would keep rates that small, as layer decay makes them, from falling
        )
        self._scaler = torch.GradScaler(device.type, enabled=precision == "fp16")
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
        """Of what starts from random weights, at the last step."""
        rate: float = self._optimizer.param_groups[0]["lr"]
        return rate * self._rate_share()

    def compute(self, batch: Batch, *, global_size: int) -> Tensor:
        """Compute the gradients of a step and return its loss, this rank's share of it, on the device.

        Nothing is changed that `tensors` and `state` give.

        Args:
            batch: This rank's share, which may be empty.
            global_size: Samples of all ranks together.
        """
        _seed_device(_step_seed(self._config.seed, self.num_steps, self._world.rank), self._device)
        if self._loss.is_weighted:
            weight = self._world.sum_(self._loss.weight(batch.labels))
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
                self._scaler.scale(loss * self._world.size).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def update(self) -> Tensor:
        """Change the weights by the gradients, and return the gradients' norm before it was clipped, on the device.

        From here on `tensors` and `state` give what this step has made.
        """
        self._scaler.unscale_(self._optimizer)
        norm = clip_grad_norm_(self._trained, self._config.max_grad_norm)
        self.num_steps += 1
        with self._rates_of_step():
            self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.num_steps)
        self._keep_buffers()
        return norm

    @property
    def skips_infinite_steps(self) -> bool:
        """Whether an infinite gradient is skipped, with a lower loss scale for the next one, as fp16 needs it."""
        return self._scaler.is_enabled()

    @property
    def loss_scale(self) -> float:
        """What gradients are multiplied by until `update`, so that fp16 does not lose small ones; 1 elsewhere."""
        return self._scaler.get_scale()

    def end_epoch(self, dev_loss: float) -> None:
        """Lower the learning rates if the schedule looks at the validation loss and that has stopped falling."""
        if self._config.schedule == "plateau":
            self._schedule.step(dev_loss)

    def unite_buffers(self) -> None:
        """Take rank 0's running statistics on all ranks, before they are evaluated: they are those that are saved."""
        buffers = list(self._buffers.values())
        if self.average is not None:
            averaged = self.average.model.trained_state()
            buffers += [averaged[name] for name in self._buffers]
        self._world.copy_of_first_(buffers)
        self._keep_buffers()

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that a step changes, by name, as the last `update` left them; not copies."""
        found = {f"model.{name}": value for name, value in {**self.model.trained_state(), **self._kept}.items()}
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.model.trained_state().items()}
        for number, values in self._optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{number}.{key}": value for key, value in values.items()}
        return found

    def state(self) -> dict[str, Any]:
        """Return all else that a step changes, as plain values."""
        return {
            "num_steps": self.num_steps,
            "param_groups": self._optimizer.state_dict()["param_groups"],
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `tensors` and `state` gave."""
        trained = [item for group in self._optimizer.param_groups for item in group["params"]]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part == "optimizer":
                number, _, key = rest.partition(".")
                slots.setdefault(int(number), {})[key] = _laid_out_as(trained[int(number)], tensor)
        self.model.load_trained_state(_under("model", tensors))
        if self.average is not None:
            self.average.model.load_trained_state(_under("average", tensors))
        self.num_steps = state["num_steps"]
        self._optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
        self._keep_buffers()

    def _keep_buffers(self) -> None:
        """Copy the running statistics of batch normalisation: the next forward pass changes them, before its update."""
        self._kept = {name: value.clone() for name, value in self._buffers.items()}

    def _gradients_kept(self, *, last: bool) -> AbstractContextManager[object]:
        """Return the context of a part: ranks exchange gradients after the last one."""
        if last or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        return self._wrapped.no_sync()

    @contextmanager
    def _rates_of_step(self) -> Iterator[None]:
        """Set the learning rates of the step that is being made; what the plateau has made of them is kept apart."""
        share = self._rate_share()
        rates = [group["lr"] for group in self._optimizer.param_groups]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        yield
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _rate_share(self) -> float:
        """Return what part of the learning rates counts at a step: it rises in the warm-up, and may fall after it."""
        warmup = self._config.warmup_steps
        if self.num_steps < warmup:
            return self.num_steps / warmup
        if self._config.schedule == "plateau":
            return 1.0
        left = self._num_steps_in_all - self.num_steps + 1  # with this step
        return max(0.0, left / max(1, self._num_steps_in_all - warmup + 1))


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


def _laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor of the optimizer in the memory format of its parameter, which fused kernels insist on.

    A file holds it in the plain one; steps are a single number and have no parameter's shape.
    """
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under `part.`, without the prefix."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
