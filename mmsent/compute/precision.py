"""Where and in which number format the network computes."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from mmsent.config import Precision
from mmsent.errors import TrainingError
from shards.errors import describe

__all__ = [
    "ResolvedPrecision",
    "autocast",
    "choose_device",
    "conv3d_autocast",
    "resolve_precision",
    "set_algorithms",
    "set_tf32",
]

ResolvedPrecision = Literal["bf16", "fp16", "fp32"]


def choose_device() -> torch.device:
    """Return the GPU of this process if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def set_tf32(device: torch.device) -> None:
    """Let float32 products of matrices and convolutions use TF32 on a GPU: 10 bits of mantissa, up to 8 times as fast.

    PyTorch's own default is TF32 for convolutions and not for matrices, by two switches; here it is one choice.
    https://pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True


def set_algorithms(device: torch.device, *, deterministic: bool) -> None:
    """Choose a device's algorithms: such as do not plan for each length of text, and if asked those of the same bits.

    Args:
        device: On a CPU nothing is changed but what `deterministic` asks for.
        deterministic: Refuse operations that cannot give the same bits twice.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is used first
        torch.use_deterministic_algorithms(True)
    if device.type == "cuda":
        # cuDNN's attention, which torch prefers on Hopper, plans anew for each length of text: with texts cut to the
        # longest of a batch a step took up to three times as long as with one length (docs/gpu.md). cuDNN's trying of
        # convolutions (`cudnn.benchmark`) stays off as well: it won nothing and took seconds for each number of clips.
        torch.backends.cuda.enable_cudnn_sdp(enabled=False)


def resolve_precision(precision: Precision, device: torch.device) -> ResolvedPrecision:
    """Return what `auto` means on a device, or check that it can do what was asked.

    On a CPU `auto` is fp32: without bf16 instructions r3d_18's backward pass was seen 50 times slower in bf16, and with
    them wrong, see Note [Conv3d in bf16 on a CPU].

    Raises:
        TrainingError: for fp16 on a CPU, and bf16 on a GPU without it.
    """
    if precision == "fp16" and device.type == "cpu":
        raise TrainingError(describe("fp16 needs a GPU", then="use `--precision auto`, bf16 or fp32 on a CPU"))
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not has_bf16:
        what = "this GPU does not compute in bf16, it would be emulated"
        raise TrainingError(describe(what, then="use `--precision auto`, which takes fp16 here"))
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if has_bf16 else "fp16"
    return "fp32"


def autocast(precision: ResolvedPrecision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a forward pass runs."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)


def conv3d_autocast(backbone: nn.Module, device: torch.device) -> AbstractContextManager[object]:
    """Return the context for a 3-D convolutional network inside `autocast`: fp32 where it is trained on a CPU.

    Note [Conv3d in bf16 on a CPU]: oneDNN's gradient of a 3x3x3 weight over an input of two frames reads memory that
    nobody wrote. Seen with torch 2.12.1 on a CPU with AVX512_BF16, for every number of channels that was tried: the
    gradient differs from run to run, its error is as large as itself, and now and then it is NaN. r3d_18 comes down to
    two frames from 8 and from 16. The forward pass is right, so a frozen network keeps its autocast.
    """
    trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in backbone.parameters())
    if device.type == "cpu" and trained:
        return torch.autocast("cpu", enabled=False)
    return nullcontext()
