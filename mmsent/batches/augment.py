"""What is done to a batch in training alone, on the device that it is on.

Every draw is a pure function of the seed, the epoch and the sample: it depends neither on the other samples of a batch
nor on how many processes there are or where a run was stopped.

Shape letters: R rows, C channels, T frames, H height, W width, M mel bins, S hops, P modalities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmsent.batches.batch import Batch
from mmsent.config import TrainConfig
from shards.order.permutation import stream_keys, uniform
from shards.schema import Modality

__all__ = ["augment"]

_SMALLEST_CROP = 0.8
"""Of each side of the picture."""

_NUM_MASKS = 2
"""Bands that are hidden in time, and as many in frequency."""

_WIDEST_TIME_MASK, _WIDEST_MEL_MASK = 0.1, 0.12
"""Of the real hops and of the mel bins."""


def augment(batch: Batch, config: TrainConfig, *, epoch: int, modalities: Sequence[Modality]) -> Batch:
    """Return a batch changed as the options say, or as it is where they ask for nothing.

    Pictures and log-mels must be there: `crop_and_flip` and `spec_augment` are nothing for shards that hold the outputs
    of encoders in their place.

    Args:
        batch: As of the loader, or a part of that: a part of the result is the result of the part.
        config: `crop_and_flip`, `spec_augment`, `modality_dropout` and `seed`.
        epoch: Counted from 0.
        modalities: What the model looks at: of these a sample keeps at least one of those it has.
    """
    draw = _Draws(batch.samples, seed=config.seed, epoch=epoch, device=batch.window.device)
    if config.crop_and_flip and "video" in modalities and batch.num_rows:  # `grid_sample` refuses no rows
        batch = replace(batch, frames=_crop_and_flip(batch.frames, draw(_CROP, 5)))
    if config.spec_augment and "audio" in modalities:
        draws = draw(_MASK, 4 * _NUM_MASKS)
        batch = replace(batch, logmel_hidden=_hidden(batch.logmel, batch.num_hops, draws))
    if config.modality_dropout > 0:
        draws = draw(_DROP, len(batch.rows))
        rows = _rows_left(batch, draws, modalities=modalities, probability=config.modality_dropout)
        batch = replace(batch, rows=rows)
    return batch


class _Draws:
    """Numbers from 0 to below 1 for the rows of a batch."""

    def __init__(self, samples: Tensor, *, seed: int, epoch: int, device: torch.device) -> None:
        self._samples = samples.numpy()
        self._seed = seed
        self._epoch = epoch
        self._device = device

    def __call__(self, purpose: int, count: int) -> Tensor:
        """Return `(R, count)` float32 for one purpose."""
        keys = (stream_keys(self._seed, purpose, self._epoch, number) for number in range(count))
        drawn = np.stack([uniform(self._samples, keys=key) for key in keys], axis=1)
        rounded = np.floor(drawn * 2**24) / 2**24  # down, or float32 would make 1 of the highest
        draws = torch.from_numpy(rounded.astype(np.float32))
        if self._device.type == "cuda":
            draws = draws.pin_memory()  # from elsewhere the copy would wait for the GPU
        return draws.to(self._device, non_blocking=True)


def _crop_and_flip(frames: Tensor, draws: Tensor) -> Tensor:
    """Enlarge a part of the picture to the whole, mirrored or not, the same in all frames of a clip.

    Args:
        frames: `(R, C, T, H, W)` from 0 to 255.
        draws: `(R, 5)`: width, height, place in x, place in y, mirrored.

    Returns:
        `(R, C, T, H, W)` float32 from 0 to 255.
    """
    scale = _SMALLEST_CROP + (1 - _SMALLEST_CROP) * draws[:, :2]  # (R, 2)
    # In the coordinates of `affine_grid` the picture is from -1 to 1, so a part of it may move by what it lacks.
    shift = (2 * draws[:, 2:4] - 1) * (1 - scale)
    mirror = torch.where(draws[:, 4] < 0.5, -1.0, 1.0)
    theta = torch.zeros(len(frames), 2, 3, device=frames.device)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale[:, 0] * mirror, scale[:, 1], shift
    images = frames.flatten(1, 2).float()  # (R, C * T, H, W)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    taken = F.grid_sample(images, grid, padding_mode="border", align_corners=False).view(frames.shape)
    return taken.contiguous(memory_format=torch.channels_last_3d)


def _hidden(logmel: Tensor, num_hops: Tensor, draws: Tensor) -> Tensor:
    """Return `(R, M, S)` bool, True in bands of time and of frequency.

    Args:
        logmel: `(R, M, S)`.
        num_hops: `(R,)`; a band in time lies within the real hops.
        draws: `(R, 4 * _NUM_MASKS)`: width and place of each band, first those in time.
    """
    num_mels = torch.full_like(num_hops, logmel.shape[1])
    hops, mels = draws.chunk(2, dim=1)
    in_time = _bands(num_hops, logmel.shape[2], hops, widest=_WIDEST_TIME_MASK)  # (R, S)
    in_frequency = _bands(num_mels, logmel.shape[1], mels, widest=_WIDEST_MEL_MASK)  # (R, M)
    return in_time.unsqueeze(1) | in_frequency.unsqueeze(2)


def _bands(lengths: Tensor, size: int, draws: Tensor, *, widest: float) -> Tensor:
    """Return `(R, size)` bool, True in `_NUM_MASKS` bands, each of 0 to `widest * length` places within `length`."""
    places = torch.arange(size, device=lengths.device)
    hidden = torch.zeros(len(lengths), size, dtype=torch.bool, device=lengths.device)
    for band in draws.view(len(lengths), _NUM_MASKS, 2).unbind(1):
        width_draw, start_draw = band.unbind(1)
        most = (lengths * widest).floor()
        width = (width_draw * (most + 1)).floor()  # each width from 0 to the widest equally often
        start = (start_draw * (lengths - width + 1)).floor()
        hidden |= (places >= start.unsqueeze(1)) & (places < (start + width).unsqueeze(1))
    return hidden


def _rows_left(
    batch: Batch, draws: Tensor, *, modalities: Sequence[Modality], probability: float
) -> Mapping[Modality, Tensor]:
    """Return the rows of each modality without those that are hidden; the other modalities' as they are.

    Args:
        batch: Whose rows.
        draws: `(R, modalities of the format)`: those below `probability` hide.
        modalities: What the model looks at.
        probability: With which each one is hidden.
    """
    columns = [list(batch.rows).index(name) for name in modalities]
    has = torch.stack([_mask(batch.rows[name], batch.num_rows) for name in modalities], dim=1)  # (R, P)
    drawn = draws[:, columns].masked_fill(~has, -1)
    # Where all would be hidden, the one with the highest draw stays.
    stays = (drawn >= probability) | (has & (drawn == drawn.amax(dim=1, keepdim=True)))
    left = {name: stays[:, column].nonzero().flatten() for column, name in enumerate(modalities)}
    return {name: left.get(name, rows) for name, rows in batch.rows.items()}


def _mask(rows: Tensor, num_rows: int) -> Tensor:
    """Return `(R,)` bool, True at `rows`."""
    return torch.zeros(num_rows, dtype=torch.bool, device=rows.device).index_fill(0, rows, True)


# Purposes of draws; `shards` has those below 1000.
_CROP, _MASK, _DROP = range(1000, 1003)
