"""The tensors of one step, on any device.

Shape letters: B samples to be judged, R rows (these and earlier utterances of their dialogues), K turns, C channels,
T frames, H height, W width (of a frame, or of an encoder's output), M mel bins, S hops, L tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.reading.host_batch import Allocate, HostBatch
from shards.schema import MODALITIES, Modality

__all__ = ["Batch", "host_memory", "normalise_frames", "to_device"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What the model is given. The first B rows are the samples to be judged; other rows are there for `window`.

    Attributes:
        frames: `(R, C, T, H, W)` uint8 in channels-last memory; float32 from 0 to 255 after `mmsent.batches.augment`.
        logmel: `(R, M, S)` float16; anything after `num_hops`.
        num_hops: `(R,)` int64.
        tokens: `(R, L)` int64, L the longest of this batch.
        token_mask: `(R, L)` bool, True where a token is real.
        features: `(R, W)` float32 of each modality that the shards hold encoded.
        rows: Per modality `(n,)` int64, ascending: the rows of the batch that have it.
        window: `(B, K)` int64: the rows of the last K utterances of a dialogue, oldest first, the sample itself last;
            -1 where the dialogue began later.
        labels: `(B,)` int64 by task.
        samples: `(R,)` int64, the number of each row's sample in its split; on the CPU, wherever the rest is.
        logmel_hidden: `(R, M, S)` bool, True where a value is to count as the mean; None: nothing is hidden.

    The array of a modality that is encoded, or that the model does not look at, may be of shape `(0,)`.
    """

    frames: Tensor
    logmel: Tensor
    num_hops: Tensor
    tokens: Tensor
    token_mask: Tensor
    features: Mapping[Modality, Tensor]
    rows: Mapping[Modality, Tensor]
    window: Tensor
    labels: Mapping[str, Tensor]
    samples: Tensor
    logmel_hidden: Tensor | None = None

    def __len__(self) -> int:
        return len(self.window)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.num_hops)

    def tensors(self) -> Iterator[Tensor]:
        """Yield all that is on the device."""
        yield from (self.frames, self.logmel, self.num_hops, self.tokens, self.token_mask, self.window)
        for by_name in (self.features, self.rows, self.labels):
            yield from by_name.values()
        if self.logmel_hidden is not None:
            yield self.logmel_hidden

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
            features=move(self.features),
            rows=move(self.rows),
            window=self.window.to(device),
            labels=move(self.labels),
            samples=self.samples,
            logmel_hidden=None if self.logmel_hidden is None else self.logmel_hidden.to(device),
        )

    def part(self, start: int, stop: int) -> "Batch":
        """Return the samples `start` to `stop - 1` as a batch of their own, with the rows that their windows need.

        It is what a loader would have given for these samples alone, down to the length of the texts.
        """
        if start <= 0 and stop >= len(self):
            return self
        window = self.window[start:stop].cpu()
        targets = torch.arange(start, start + len(window))
        others = torch.unique(window[(window >= 0) & ((window < start) | (window >= stop))])
        chosen = torch.cat([targets, others])  # (r,)
        # Row of this batch -> row of the part, with a last place to which -1 points.
        places = torch.full((self.num_rows + 1,), -1)
        places[chosen] = torch.arange(len(chosen))
        index = chosen.to(self.window.device)

        def take(tensor: Tensor) -> Tensor:
            if _is_empty(tensor):
                return tensor
            # Indexed, not `index_select`, which would not keep channels-last memory.
            return tensor[index] if len(others) else tensor[start : start + len(targets)]

        token_mask = take(self.token_mask)
        tokens = take(self.tokens)
        if not _is_empty(tokens):
            length = max(1, int(token_mask.sum(dim=1).max())) if len(chosen) else 1
            tokens, token_mask = tokens[:, :length], token_mask[:, :length]
        has = {name: torch.isin(index, rows) for name, rows in self.rows.items()}
        return Batch(
            frames=take(self.frames),
            logmel=take(self.logmel),
            num_hops=take(self.num_hops),
            tokens=tokens,
            token_mask=token_mask,
            features={name: take(tensor) for name, tensor in self.features.items()},
            rows={name: mask.nonzero().flatten() for name, mask in has.items()},
            window=places[window].to(self.window.device),
            labels={task: labels[start:stop] for task, labels in self.labels.items()},
            samples=self.samples.index_select(0, chosen),
            logmel_hidden=None if self.logmel_hidden is None else take(self.logmel_hidden),
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

    if host.tokens.ndim == 1:
        tokens, token_mask = host.tokens.astype(np.int64), np.zeros(0, np.bool_)
    else:
        length = max(1, int(host.num_tokens.max(initial=0)))  # never the padded length: it costs 9 times the tokens
        if device.type == "cuda":  # kernels of attention take eight at a time, and have fewer lengths to be chosen for
            length = min(-(-length // 8) * 8, host.tokens.shape[1])
        tokens, token_mask = host.tokens[:, :length].astype(np.int64), np.arange(length) < host.num_tokens[:, None]
    frames = move(host.frames)
    return Batch(
        frames=frames if _is_empty(frames) else frames.permute(0, 4, 1, 2, 3),  # (R, T, H, W, C), no copy
        logmel=move(host.logmel),
        num_hops=move(host.num_hops),
        tokens=move(tokens),
        token_mask=move(token_mask),
        features={name: move(array) for name, array in host.features.items()},
        rows={name: move(np.flatnonzero(host.present[:, i])) for i, name in enumerate(MODALITIES)},
        window=move(host.window),
        labels={task: move(labels) for task, labels in host.labels.items()},
        samples=torch.from_numpy(host.samples.copy()),
    )


def normalise_frames(frames: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
    """Scale RGB to what the weights of a video model expect.

    Args:
        frames: `(n, C, T, H, W)` from 0 to 255, uint8 or float32.
        mean: `(C,)` of RGB from 0 to 1, in what the weights were trained on.
        std: `(C,)` likewise.

    Returns:
        `(n, C, T, H, W)` float32, in the memory format of `frames`.
    """
    scaled = frames * (1 / (255 * std)).view(-1, 1, 1, 1)  # one pass: the conversion is part of it
    return scaled.sub_((mean / std).view(-1, 1, 1, 1))


def host_memory(device: torch.device) -> Allocate:
    """Return what allocates a loader's batches: for a GPU page-locked memory, from which it copies without the CPU."""
    return _pinned if device.type == "cuda" else np.empty


def _pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    count = int(np.prod(shape)) * dtype.itemsize
    return torch.empty(count, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape)


def _is_empty(tensor: Tensor) -> bool:
    """Return whether it stands in place of an array that is not to be read; one without rows has its other axes."""
    return tensor.shape == (0,)
