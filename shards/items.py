"""A sample as tensors: what the torch data sets of this project are made of.

Shape letters: C channels, T frames, H height, W width (of an encoding: its width), M mel bins, S hops, L tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.format.codec import RAW_DTYPES, pixels
from shards.schema import MODALITIES, LabelSet, Modality, Sample, SampleMeta
from shards.spec import FeatureSpec

__all__ = ["Item", "TextInput", "make_item", "sample_item"]


class TextInput(NamedTuple):
    """Tokens as encoders of text take them."""

    input_ids: Tensor
    """`(L,)` int64."""
    attention_mask: Tensor
    """`(L,)` int64, 1 where a token is real."""


class Item(NamedTuple):
    """One sample without a batch axis. `torch.utils.data.default_collate` makes of items one with a batch axis.

    The raw array of a modality that the spec says is encoded is empty, `(0,)`.
    """

    key: str
    sample: int
    """Number of the sample in its split."""
    text_input: TextInput
    video_frames: Tensor
    """`(C, T, H, W)` uint8, a view in channels-last memory, zeros when absent."""
    audio_features: Tensor
    """`(M, S)` float16 log-mel, zeros when absent."""
    num_hops: int
    """Real hops of it."""
    present: Tensor
    """`(3,)` bool for video, audio, text."""
    labels: dict[str, int]
    """Index by task."""
    features: dict[Modality, Tensor]
    """`(W,)` float32 of each encoded modality, zeros when absent."""


def sample_item(sample: Sample, *, number: int, spec: FeatureSpec, label_sets: Sequence[LabelSet]) -> Item:
    """Return a sample as tensors; a JPEG is decoded on the way. Arguments are those of `make_item`."""
    arrays = {name: sample.array(name) for name in MODALITIES}
    if "video" not in spec.encoded:
        arrays["video"] = pixels(sample.frames, spec.video)
    return make_item(sample.meta, arrays, number=number, spec=spec, label_sets=label_sets)


def make_item(
    meta: SampleMeta,
    arrays: Mapping[Modality, NDArray[Any]],
    *,
    number: int,
    spec: FeatureSpec,
    label_sets: Sequence[LabelSet],
) -> Item:
    """Put tensors on the memory of a sample's arrays; what is copied are tokens, to int64, and what is read-only.

    Args:
        meta: All of the sample that is not an array.
        arrays: What `shards.schema.Sample.array` gives, by modality, with the frames `(T, H, W, C)` decoded.
        number: Number of the sample in its split.
        spec: How the arrays were made.
        label_sets: Tasks and their label names.
    """
    raw = {
        name: _tensor(np.empty(0, dtype) if name in spec.encoded else arrays[name])
        for name, dtype in RAW_DTYPES.items()
    }
    frames, ids = raw["video"], raw["text"].long()
    return Item(
        key=meta.key,
        sample=number,
        text_input=TextInput(ids, (torch.arange(len(ids)) < meta.num_tokens).long()),
        video_frames=frames.permute(3, 0, 1, 2) if frames.ndim == 4 else frames,
        audio_features=raw["audio"],
        num_hops=meta.num_hops,
        present=torch.tensor([meta.presence[name].present for name in MODALITIES]),
        labels={labels.task: labels.index(meta.labels[labels.task]) for labels in label_sets},
        features={name: _tensor(arrays[name]) for name in spec.encoded},
    )


def _tensor(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor: torch knows no read-only ones, and a decoded JPEG is read-only."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
