"""Adam over the layers of a model: which parameters learn, at which rate, and how the rates move over a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mmsent.compute.precision import ResolvedPrecision
from mmsent.config import TrainConfig
from mmsent.model.layers import layers_from_top
from mmsent.model.multimodal import MultimodalModel

__all__ = ["Optimizer", "layer_groups", "parameter_groups"]


class Optimizer:
    """Adam with the learning rates of a run by layer and step, and with the loss scale that fp16 needs.

    Steps are counted by the caller: what they change of the optimizer is in `tensors` and `state`.
    """

    def __init__(
        self,
        model: MultimodalModel,
        config: TrainConfig,
        *,
        precision: ResolvedPrecision,
        device: torch.device,
        num_steps_in_all: int,
    ) -> None:
        """Take in the parameters that training changes.

        Args:
            model: On the device.
            config: Rates, schedule and the largest norm of gradients.
            precision: Number format of the forward pass; only fp16 scales the loss.
            device: Where the model computes.
            num_steps_in_all: Steps of the whole run, at whose end a linear schedule arrives at 0.

        Raises:
            EncoderError: if `layer_decay` is asked for and the layers of an encoder are not known.
        """
        self._config = config
        self._num_steps_in_all = num_steps_in_all
        self._trained = [item for item in model.parameters() if item.requires_grad]
        self._adam = torch.optim.Adam(parameter_groups(model, config), fused=True)
        self._plateau = ReduceLROnPlateau(
            self._adam,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            eps=0,  # torch's 1e-8 would keep rates that small, as layer decay makes them, from falling
        )
        self._scaler = torch.GradScaler(device.type, enabled=precision == "fp16")

    @property
    def skips_infinite_steps(self) -> bool:
        """Whether an infinite gradient is skipped, with a lower loss scale for the next one, as fp16 needs it."""
        return self._scaler.is_enabled()

    @property
    def loss_scale(self) -> float:
        """What gradients are multiplied by until `step`, so that fp16 does not lose small ones; 1 elsewhere."""
        return self._scaler.get_scale()

    def scaled(self, loss: Tensor) -> Tensor:
        """Return a loss whose gradients `step` takes: multiplied by `loss_scale`."""
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def step(self, number: int) -> Tensor:
        """Change the parameters by their gradients, which are gone then.

        Args:
            number: Of the step, from 1: it says where warm-up and schedule are.

        Returns:
            The norm of all gradients before it was cut to the config's largest one, on the device.
        """
        self._scaler.unscale_(self._adam)
        norm = clip_grad_norm_(self._trained, self._config.max_grad_norm)
        with self._rates_of_step(number):
            self._scaler.step(self._adam)
        self._scaler.update()
        self._adam.zero_grad(set_to_none=True)
        return norm

    def learning_rate(self, number: int) -> float:
        """Return the rate at a step of what starts from random weights."""
        rate: float = self._adam.param_groups[0]["lr"]
        return rate * self._rate_share(number)

    def end_epoch(self, dev_loss: float) -> None:
        """Lower the learning rates if the schedule looks at the validation loss and that has stopped falling."""
        if self._config.schedule == "plateau":
            self._plateau.step(dev_loss)

    def tensors(self) -> dict[str, Tensor]:
        """Return Adam's moments by parameter, `<number>.<name>`; not copies."""
        slots = self._adam.state_dict()["state"]
        return {f"{number}.{key}": value for number, values in slots.items() for key, value in values.items()}

    def state(self) -> dict[str, Any]:
        """Return all else that steps and epochs change, as plain values."""
        return {
            "param_groups": self._adam.state_dict()["param_groups"],
            "schedule": self._plateau.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `tensors` and `state` gave."""
        trained = [item for group in self._adam.param_groups for item in group["params"]]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, key = name.partition(".")
            slots.setdefault(int(number), {})[key] = _laid_out_as(trained[int(number)], tensor)
        self._adam.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
        self._plateau.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])

    @contextmanager
    def _rates_of_step(self, number: int) -> Iterator[None]:
        """Set the learning rates of the step that is being made; what the plateau has made of them is kept apart."""
        share = self._rate_share(number)
        rates = [group["lr"] for group in self._adam.param_groups]
        for group, rate in zip(self._adam.param_groups, rates, strict=True):
            group["lr"] = rate * share
        yield
        for group, rate in zip(self._adam.param_groups, rates, strict=True):
            group["lr"] = rate

    def _rate_share(self, number: int) -> float:
        """Return what part of the learning rates counts at a step: it rises in the warm-up, and may fall after it."""
        warmup = self._config.warmup_steps
        if number < warmup:
            return number / warmup
        if self._config.schedule == "plateau":
            return 1.0
        left = self._num_steps_in_all - number + 1  # with this step
        return max(0.0, left / max(1, self._num_steps_in_all - warmup + 1))


def parameter_groups(model: MultimodalModel, config: TrainConfig) -> list[dict[str, Any]]:
    """Return what an optimizer trains, as groups with `name`, `params` and `lr`; the first starts from scratch.

    Raises:
        EncoderError: if `layer_decay` is asked for and the layers of an encoder are not known.
    """
    rates = {"text": config.text_learning_rate, "video": config.video_learning_rate}
    groups = [
        group
        for name in model.finetuned_modalities
        for group in layer_groups(model.backbone(name), name=name, learning_rate=rates[name], decay=config.layer_decay)
    ]
    finetuned = {id(parameter) for group in groups for parameter in group["params"]}
    rest = [item for item in model.parameters() if item.requires_grad and id(item) not in finetuned]
    return [{"name": "scratch", "params": rest, "lr": config.learning_rate}, *groups]


def layer_groups(backbone: nn.Module, *, name: str, learning_rate: float, decay: float) -> list[dict[str, Any]]:
    """Return the parameters of an encoder as groups of an optimizer, the layers at the top first.

    The top layer, and what comes after it, learn at `learning_rate`; each layer below at `decay` times the rate of the
    one above it; embeddings, and all else that several layers share, at `decay` times the rate of the lowest layer.

    Args:
        backbone: Encoder as it was built.
        name: What the groups are called: `text` gives `text.top`, `text.layer.3`, … `text.stem`.
        learning_rate: Rate of the top layer.
        decay: Above 0; with 1 there is a single group, `name`.

    Raises:
        EncoderError: if it is not known what the layers of the encoder are.
    """
    if decay == 1:
        return [{"name": name, "params": list(backbone.parameters()), "lr": learning_rate}]
    return [
        {"name": f"{name}.{layer.name}", "params": list(layer.parameters), "lr": learning_rate * decay**layer.depth}
        for layer in layers_from_top(backbone, name=name)
    ]


def _laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor of the optimizer in the memory format of its parameter, which fused kernels insist on.

    A file holds it in the plain one; steps are a single number and have no parameter's shape.
    """
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
