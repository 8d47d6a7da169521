"""Batches made without shards, row by row a function of the sample's number alone."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmsent.batches.batch import Batch
from shards.schema import MODALITIES, Modality
from shards.spec import FeatureSpec
from tests.support.samples import make_sample, make_spec


def make_batch(
    samples: Sequence[int],
    *,
    window: Sequence[Sequence[int]] | None = None,
    absent: Mapping[int, tuple[Modality, ...]] | None = None,
    spec: FeatureSpec | None = None,
    features: Mapping[Modality, int] | None = None,
) -> Batch:
    """Make the batch of some samples.

    Args:
        samples: Their numbers, one for each row.
        window: Rows of each sample that is judged; by default every row is one, without a dialogue.
        absent: By sample, what it does not have.
        spec: How the samples are made.
        features: Width of each modality that is encoded.
    """
    made = [make_sample(number, spec=spec) for number in samples]
    lengths = torch.tensor([sample.meta.num_tokens for sample in made], dtype=torch.int64)
    length = max(lengths.tolist(), default=1)
    shape = (0, *(spec or make_spec()).video.shape)
    frames = [torch.from_numpy(sample.frames) for sample in made]
    there = {
        name: [row for row, number in enumerate(samples) if name not in (absent or {}).get(number, ())]
        for name in MODALITIES
    }
    places = [[row] for row in range(len(samples))] if window is None else window
    rows = torch.tensor(places, dtype=torch.int64).reshape(len(places), -1 if places else 1)
    return Batch(
        frames=(torch.stack(frames) if frames else torch.zeros(shape, dtype=torch.uint8)).permute(0, 4, 1, 2, 3),
        logmel=_stacked([torch.from_numpy(sample.logmel) for sample in made], (spec or make_spec()).audio.shape),
        num_hops=torch.tensor([sample.meta.num_hops for sample in made], dtype=torch.int64),
        tokens=_stacked([torch.from_numpy(sample.tokens).long() for sample in made], (length,))[:, :length],
        token_mask=torch.arange(length) < lengths.unsqueeze(1),
        features={name: _features(samples, width) for name, width in (features or {}).items()},
        rows={name: torch.tensor(numbers, dtype=torch.int64) for name, numbers in there.items()},
        window=rows,
        labels={
            task: torch.tensor([number % size for number in samples[: len(places)]], dtype=torch.int64)
            for task, size in (("emotion", 7), ("sentiment", 3))
        },
        samples=torch.tensor(samples, dtype=torch.int64),
    )


def _stacked(arrays: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    return (
        torch.stack(arrays)
        if arrays
        else torch.zeros(0, *shape, dtype=torch.float16 if len(shape) > 1 else torch.int64)
    )


def _features(samples: Sequence[int], width: int) -> Tensor:
    rows = [torch.randn(width, generator=torch.Generator().manual_seed(number)) for number in samples]
    return torch.stack(rows) if rows else torch.zeros(0, width)
