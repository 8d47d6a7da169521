"""Where and in which number format the network computes."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from mmsent.config import Precision
from mmsent.errors import TrainingError
from shards.errors import describe

__all__ = ["ResolvedPrecision", "autocast", "choose_device", "resolve_precision"]

ResolvedPrecision = Literal["bf16", "fp16", "fp32"]

_NATIVE_BF16 = ("amx_bf16", "avx512_bf16")


def choose_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: Precision, device: torch.device) -> ResolvedPrecision:
    """Return what `auto` means on a device, or check that it can do what was asked.

    A CPU without bf16 instructions emulates them: r3d_18's backward pass was seen 50 times slower than in fp32.

    Raises:
        TrainingError: for fp16 on a CPU.
    """
    if precision == "fp16" and device.type == "cpu":
        raise TrainingError(describe("fp16 needs a GPU", then="use `--precision auto`, bf16 or fp32 on a CPU"))
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if any(capabilities.get(name) for name in _NATIVE_BF16) else "fp32"


def autocast(precision: ResolvedPrecision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a forward pass runs."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)
