"""The first steps of training on the device against float32 on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.setting import Setting, free_memory
from mmsent.batch import to_device
from mmsent.config import TrainConfig
from mmsent.precision import ResolvedPrecision
from mmsent.stepper import Stepper
from mmsent.trainer import new_model, new_stepper
from shards.loader import ShardLoader
from shards.order import Shuffled
from shards.reader import Split

__all__ = ["first_steps"]

_NUM_STEPS = 3
_BATCH_SIZE = 8

_TOLERANCES: dict[ResolvedPrecision, tuple[float, float]] = {
    "fp32": (2e-3, 3e-2),
    "fp16": (5e-3, 5e-2),
    "bf16": (2e-2, 2e-1),
}
"""Of the loss of each step, relative, and of the first step's gradients, the norm of the difference over the norm. A
GPU's fp32 is TF32, of 10 bits as fp16 is; bf16 has 7, and 40 layers of it lie between loss and first weight."""


@dataclass(frozen=True, slots=True)
class _Steps:
    losses: list[float]
    gradients: Tensor
    """Of the first step, all in one row, float64 on the CPU."""


def first_steps(setting: Setting) -> None:
    """Compare losses and gradients for each precision, all encoders trained, without dropout."""
    device = setting.device
    precisions: Sequence[ResolvedPrecision] = ("fp32", "bf16", "fp16") if device.type == "cuda" else ("bf16",)
    if not setting.has_time(40, "first steps against fp32 on the CPU"):
        return
    split = Split(setting.shards(num_train=setting.sizes.num_small, absent_share=0.1) / "train")
    expected = _steps(setting, split, torch.device("cpu"), "fp32")
    for precision in precisions:
        with free_memory(device):
            found = _steps(setting, split, device, precision)
        pairs = zip(found.losses, expected.losses, strict=True)
        loss_error = max(abs(ours - theirs) / theirs for ours, theirs in pairs)
        gradient_error = float((found.gradients - expected.gradients).norm() / expected.gradients.norm())
        most_loss, most_gradient = _TOLERANCES[precision]
        setting.report.add(
            "first steps",
            f"{_NUM_STEPS} steps of {_BATCH_SIZE} in {'TF32' if precision == 'fp32' else precision}",
            loss_error=loss_error,
            loss_tolerance=most_loss,
            gradient_error=gradient_error,
            gradient_tolerance=most_gradient,
            holds=loss_error <= most_loss and gradient_error <= most_gradient,
        )


def _steps(setting: Setting, split: Split, device: torch.device, precision: ResolvedPrecision) -> _Steps:
    config = TrainConfig(batch_size=_BATCH_SIZE, precision=precision, max_grad_norm=1e6)
    model = new_model(split, setting.model_config("video", "text", dropout=False), config).place(device, precision)
    stepper = new_stepper(model, split, config, device, precision, steps_per_epoch=_NUM_STEPS)
    model.train()
    loader = ShardLoader(split, order=Shuffled(len(split), 0), batch_size=_BATCH_SIZE)
    losses = []
    gradients = torch.zeros(0)
    for number, host in zip(range(_NUM_STEPS), loader, strict=False):
        losses.append(float(stepper.compute(to_device(host, device), global_size=len(host))))
        if number == 0:
            gradients = _gradients(stepper)
        stepper.update()
    return _Steps(losses, gradients)


def _gradients(stepper: Stepper) -> Tensor:
    """Return all gradients in one row, without the scale that fp16 multiplies them by."""
    scale = stepper.loss_scale
    found = [item.grad for item in stepper.model.parameters() if item.grad is not None]
    return torch.cat([gradient.detach().double().cpu().flatten() for gradient in found]) / scale
