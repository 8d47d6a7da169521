"""The tensors of one step, on any device, and what is done to them there.

Shape letters: B batch, C channels, T frames, H height, W width, M mel bins, S hops, L tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.loader import HostBatch
from shards.schema import MODALITIES, Modality

__all__ = ["Batch", "allocate_pinned", "normalise_frames", "to_device"]

_KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
_KINETICS_STD = (0.22803, 0.22145, 0.216989)
"""Of RGB in [0, 1]. Source: torchvision's `R3D_18_Weights.KINETICS400_V1.transforms`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What the model is given.

    Attributes:
        frames: `(B, C, T, H, W)` uint8 in channels-last memory.
        logmel: `(B, M, S)` float16; anything after `num_hops`.
        num_hops: `(B,)` int64.
        tokens: `(B, L)` int64, L the longest of this batch.
        token_mask: `(B, L)` bool, True where a token is real.
        rows: Per modality `(n,)` int64: the rows of the batch that have it.
        labels: `(B,)` int64 by task.
    """

    frames: Tensor
    logmel: Tensor
    num_hops: Tensor
    tokens: Tensor
    token_mask: Tensor
    rows: Mapping[Modality, Tensor]
    labels: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.num_hops)

    def tensors(self) -> Iterator[Tensor]:
        """Yield all that is on the device."""
        yield from (self.frames, self.logmel, self.num_hops, self.tokens, self.token_mask)
        yield from self.rows.values()
        yield from self.labels.values()

    def to(self, device: torch.device) -> "Batch":
        """Return it on a device: what PyTorch Lightning and Accelerate call on a batch from a `DataLoader`."""

        def move(by_name: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
            return {name: tensor.to(device) for name, tensor in by_name.items()}

        return Batch(
            frames=self.frames.to(device),
            logmel=self.logmel.to(device),
            num_hops=self.num_hops.to(device),
            tokens=self.tokens.to(device),
            token_mask=self.token_mask.to(device),
            rows=move(self.rows),
            labels=move(self.labels),
        )


def to_device(host: HostBatch, device: torch.device, *, non_blocking: bool = False) -> Batch:
    """Move a batch of the loader to a device. On a CPU the large arrays are shared, not copied.

    Args:
        host: Its memory is filled again as soon as the next batch is asked for.
        device: Where to.
        non_blocking: Return before it is there; the caller then sees to it that `host` lives so long.
    """

    def move(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=non_blocking)

    length = max(1, int(host.num_tokens.max(initial=0)))  # never the padded length: it costs 9 times the tokens
    return Batch(
        frames=move(host.frames).permute(0, 4, 1, 2, 3),  # (B, T, H, W, C) -> (B, C, T, H, W), no copy
        logmel=move(host.logmel),
        num_hops=move(host.num_hops),
        tokens=move(host.tokens[:, :length].astype(np.int64)),
        token_mask=move(np.arange(length) < host.num_tokens[:, None]),
        rows={name: move(np.flatnonzero(host.present[:, i])) for i, name in enumerate(MODALITIES)},
        labels={task: move(labels) for task, labels in host.labels.items()},
    )


def normalise_frames(frames: Tensor) -> Tensor:
    """Scale uint8 RGB to what Kinetics weights expect.

    Args:
        frames: `(B, C, T, H, W)` uint8.

    Returns:
        `(B, C, T, H, W)` float32, in the memory format of `frames`.
    """
    mean = torch.tensor(_KINETICS_MEAN, device=frames.device).view(3, 1, 1, 1)
    std = torch.tensor(_KINETICS_STD, device=frames.device).view(3, 1, 1, 1)
    return (frames.float() / 255 - mean) / std


def allocate_pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Allocate page-locked host memory, from which a GPU copies without the CPU. For `ShardLoader(allocate=...)`."""
    count = int(np.prod(shape)) * dtype.itemsize
    return torch.empty(count, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape)
