"""The first steps of training on the device against float32 on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.gpu.setting import Setting, free_memory
from mmsent.batches.batch import to_device
from mmsent.compute.precision import ResolvedPrecision
from mmsent.config import TrainConfig
from mmsent.training.assemble import new_model, new_stepper
from mmsent.training.step import Stepper
from shards.order.orders import Shuffled
from shards.reading.loader import ShardLoader
from shards.reading.split import Split

__all__ = ["first_steps"]

_NUM_STEPS = 3
_BATCH_SIZE = 8

Format = Literal["fp32", "TF32", "fp16", "bf16"]

_TOLERANCES: dict[Format, tuple[float, float]] = {
    "fp32": (1e-4, 5e-3),
    "TF32": (2e-3, 1e-1),
    "fp16": (2e-3, 1e-1),
    "bf16": (1e-2, 3e-1),
}
"""Of the loss of each step, relative, and of the first step's gradients, the norm of the difference over the norm.

float32 says whether the device computes the same; the others add rounding alone, of 10 bits in TF32 and fp16 and of 7
in bf16, which batch normalisation over few clips makes larger on the way back through 40 layers."""


@dataclass(frozen=True, slots=True)
class _Steps:
    losses: list[float]
    gradients: Tensor
    """Of the first step, all in one row, float64 on the CPU."""


def first_steps(setting: Setting) -> None:
    """Compare losses and gradients for each precision, all encoders trained, without dropout."""
    device = setting.device
    formats: Sequence[Format] = ("fp32", "TF32", "bf16", "fp16") if device.type == "cuda" else ("bf16",)
    if not setting.has_time(20, "first steps against fp32 on the CPU"):
        return
    split = Split(setting.small_shards() / "train")
    expected = _steps(setting, split, torch.device("cpu"), "fp32")
    for number_format in formats:
        with free_memory(device):
            found = _steps(setting, split, device, number_format)
        pairs = zip(found.losses, expected.losses, strict=True)
        loss_error = max(abs(ours - theirs) / theirs for ours, theirs in pairs)
        gradient_error = float((found.gradients - expected.gradients).norm() / expected.gradients.norm())
        most_loss, most_gradient = _TOLERANCES[number_format]
        setting.report.add(
            "first steps",
            f"{_NUM_STEPS} steps of {_BATCH_SIZE} in {number_format}",
            loss_error=loss_error,
            loss_tolerance=most_loss,
            gradient_error=gradient_error,
            gradient_tolerance=most_gradient,
            holds=loss_error <= most_loss and gradient_error <= most_gradient,
        )


def _steps(setting: Setting, split: Split, device: torch.device, number_format: Format) -> _Steps:
    precision: ResolvedPrecision = "fp32" if number_format == "TF32" else number_format
    config = TrainConfig(batch_size=_BATCH_SIZE, precision=precision, max_grad_norm=1e6)
    model = new_model(split, setting.model_config("video", "text", dropout=False), config).place(device, precision)
    if number_format == "fp32":
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
    stepper = new_stepper(model, split, config, device, precision, steps_per_epoch=_NUM_STEPS)
    model.train()
    loader = ShardLoader(split, order=Shuffled(len(split), 0), batch_size=_BATCH_SIZE)
    losses = []
    gradients = torch.zeros(0)
    for number, host in zip(range(_NUM_STEPS), loader, strict=False):
        losses.append(float(stepper.forward_backward(to_device(host, device), global_size=len(host))))
        if number == 0:
            gradients = _gradients(stepper)
        stepper.optimizer_step()
    return _Steps(losses, gradients)


def _gradients(stepper: Stepper) -> Tensor:
    """Return all gradients in one row, without the scale that fp16 multiplies them by."""
    scale = stepper.optimizer.loss_scale
    found = [item.grad for item in stepper.model.parameters() if item.grad is not None]
    return torch.cat([gradient.detach().double().cpu().flatten() for gradient in found]) / scale
