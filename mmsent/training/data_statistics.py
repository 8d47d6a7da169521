"""What is computed of the training split before the first step.

Shape letters: K classes, M mel bins.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mmsent.config import ClassWeights
from shards.reading.split import Split
from shards.schema import LabelSet

__all__ = ["class_weights", "logmel_statistics"]


def class_weights(counts: Mapping[str, int], label_set: LabelSet, *, kind: ClassWeights) -> Tensor | None:
    """Return the weight of each class `(K,)` for the loss, by label name, so that the mean over the samples is 1.

    Args:
        counts: Training samples by label name.
        label_set: The order of the result.
        kind: `none` gives no weights, `inverse` 1 / count, `sqrt` its square root. A class without samples gets 0.
    """
    if kind == "none":
        return None
    count = torch.tensor([counts[name] for name in label_set.names], dtype=torch.float64)
    weight = count.clamp(min=1) ** (-1.0 if kind == "inverse" else -0.5)
    weight = torch.where(count > 0, weight, 0.0)
    return (weight * count.sum() / (weight * count).sum()).float()


def logmel_statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation `(M,)` of the log-mel over real hops of evenly spread samples.

    They are of a few evenly spread shards, so that of a split behind a URL only these are fetched for it.
    """
    shape = split.spec.audio.shape
    num_shards = len(split.shard_ends)
    shards = np.unique(np.linspace(0, num_shards - 1, min(num_shards, _STATISTICS_SHARDS)).astype(int))
    in_them = np.isin(np.searchsorted(split.shard_ends, np.arange(len(split)), side="right"), shards)
    with_sound = np.flatnonzero((split.rows["num_hops"] > 0) & in_them)
    chosen = with_sound[np.linspace(0, len(with_sound) - 1, min(len(with_sound), _STATISTICS_SAMPLES)).astype(int)]
    if not len(chosen):
        return torch.zeros(shape[0]), torch.ones(shape[0])
    columns = np.concatenate(
        [
            split.array_payload("audio", int(i)).view("<f2").reshape(shape)[:, : int(split.rows["num_hops"][i])].copy()
            for i in chosen  # copied, since a view would keep the disk space of a shard that its cache evicts
        ],
        axis=1,
    ).astype(np.float64)  # (M, hops of all)
    mean, std = columns.mean(axis=1), columns.std(axis=1)
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float().clamp(min=1e-3)


_STATISTICS_SHARDS = 16
"""Of 128 samples as preprocessing makes them, they hold just as many as are looked at."""

_STATISTICS_SAMPLES = 2048
"""Enough for a mean and a deviation per mel bin to three digits, few enough to read in a second."""
