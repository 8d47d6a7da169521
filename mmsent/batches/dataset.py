"""A split as a torch data set, for whoever has a `DataLoader`, a sampler or a trainer of their own.

One sample at a time is slower than `shards.reading.loader.ShardLoader`, which this project trains with, and through
worker processes it is slower still.

Shape letters: B batch, C channels, T frames, H height, W width, L tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from mmsent.batches.batch import Batch
from shards.errors import ShardCorruptError, describe
from shards.items import Item, make_item, sample_item
from shards.reading.split import Split
from shards.schema import MODALITIES, Modality
from shards.storage.source import Source

__all__ = ["ShardDataset", "collate"]


class ShardDataset(TorchDataset[Item]):
    """A split, sample by sample.

    Worker processes open the shards for themselves: what travels to them is the path.
    """

    def __init__(self, split: Split, *, check: bool = False) -> None:
        """Take a view of a split.

        Args:
            split: Where the samples are.
            check: Hold every sample against its CRC-32, which takes longer than copying it.
        """
        self.split = split
        self._check = check

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Item:
        """Read one sample; a negative index counts from the end.

        Raises:
            IndexError: if there is no such sample.
            ShardCorruptError: if a shard has changed, or with `check` a sample is damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a split of {len(self)}")
        index %= len(self)
        spec, label_sets = self.split.spec, self.split.label_sets
        if self._check:
            return sample_item(self.split.sample(index), number=index, spec=spec, label_sets=label_sets)
        meta, arrays = self.split.meta(index), self._arrays(index)
        return make_item(meta, arrays, number=index, spec=spec, label_sets=label_sets)

    def __reduce__(self) -> tuple[Callable[..., "ShardDataset"], tuple[Source, bool, str]]:
        return _opened_again, (self.split.source, self._check, self.split.content_sha256)

    def _arrays(self, index: int) -> dict[Modality, NDArray[Any]]:
        """Copy the arrays of one sample; a JPEG is decoded on the way."""
        arrays: dict[Modality, NDArray[Any]] = {}
        for name, member in self.split.arrays.items():
            arrays[name] = np.empty((1, *member.shape), member.dtype)
        self.split.copy_arrays(self.split.places(np.array([index])), arrays)
        return {name: array[0] for name, array in arrays.items()}


def collate(items: Sequence[Item]) -> Batch:
    """Make of items what `to_device` makes of a `HostBatch`; for `DataLoader(..., collate_fn=collate)`.

    Args:
        items: Of `ShardDataset` or `preprocess.on_the_fly.dataset.MeldDataset`, at least one.
    """
    first = items[0]
    mask = _stacked([item.text_input.attention_mask for item in items]).bool()  # (B, L)
    tokens = _stacked([item.text_input.input_ids for item in items])
    if tokens.ndim == 2:
        length = max(1, int(mask.sum(dim=1).max()))
        tokens, mask = tokens[:, :length], mask[:, :length]
    present = torch.stack([item.present for item in items])  # (B, 3)
    frames = [item.video_frames for item in items]
    # (B, C, T, H, W) in channels-last memory, as the model wants it
    video = _stacked([one.permute(1, 2, 3, 0) if one.ndim == 4 else one for one in frames])
    return Batch(
        frames=video.permute(0, 4, 1, 2, 3) if video.ndim == 5 else video,
        logmel=_stacked([item.audio_features for item in items]),
        num_hops=torch.tensor([item.num_hops for item in items]),
        tokens=tokens,
        token_mask=mask,
        features={name: torch.stack([item.features[name] for item in items]) for name in first.features},
        rows={name: present[:, bit].nonzero().flatten() for bit, name in enumerate(MODALITIES)},
        window=torch.arange(len(items)).unsqueeze(1),  # each by itself: its dialogue is not among the items
        samples=torch.tensor([item.sample for item in items]),
        labels={task: torch.tensor([item.labels[task] for item in items]) for task in first.labels},
    )


def _stacked(arrays: list[Tensor]) -> Tensor:
    """Put arrays side by side; those of an encoded modality, which are empty, stay one empty array."""
    return torch.stack(arrays) if arrays[0].shape != (0,) else arrays[0]


def _opened_again(source: Source, check: bool, content_sha256: str) -> ShardDataset:
    """Open the shards in another process.

    Raises:
        ShardCorruptError: if they are no longer those of the process that sent the data set.
    """
    split = Split(source)
    if split.content_sha256 != content_sha256:
        what = "the shards were replaced since the data set was made"
        raise ShardCorruptError(describe(what, file=source.location, then="open the split again in all processes"))
    return ShardDataset(split, check=check)
