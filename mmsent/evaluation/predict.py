"""Model and loader -> predictions and scores.

Shape letters: N samples, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmsent.batches.device_feed import DeviceFeed
from mmsent.compute.distributed import ALONE, World
from mmsent.compute.precision import ResolvedPrecision, autocast
from mmsent.evaluation.metrics import TaskScore, score_task
from mmsent.model.multimodal import MultimodalModel
from shards.reading.loader import ShardLoader

__all__ = ["Predictions", "predict", "score"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """What a model says of every sample of a split, in the order of the shards.

    Attributes:
        logits: `(N, K)` float32 by task.
        labels: `(N,)` int64 by task.
        losses: Mean cross-entropy by task, unweighted.
    """

    logits: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    losses: Mapping[str, float]

    @property
    def loss(self) -> float:
        """Sum over the tasks."""
        return sum(self.losses.values())


def predict(
    model: MultimodalModel,
    loader: ShardLoader,
    *,
    device: torch.device,
    precision: ResolvedPrecision,
    world: World = ALONE,
    before_batch: Callable[[], None] = lambda: None,
) -> Predictions:
    """Run a model over a split, every sample exactly once, each rank over its share of every batch.

    Args:
        model: On `device`; its mode is restored afterwards.
        loader: In the order of the shards.
        device: Where to compute.
        precision: Of the forward pass.
        world: This rank of the loader; all ranks get the predictions of all.
        before_batch: Called before each batch, on every rank as often.
    """
    was_training = model.training
    model.eval()
    samples: list[Tensor] = []
    outputs: dict[str, list[Tensor]] = {labels.task: [] for labels in loader.split.label_sets}
    try:
        with torch.inference_mode():
            for batch in DeviceFeed(loader, device):
                before_batch()
                with autocast(precision, device):
                    logits = model(batch)
                samples.append(batch.samples[: len(batch)].clone())
                for task, output in logits.items():
                    outputs[task].append(output)  # looked at when all are computed: nobody waits for a GPU meanwhile
    finally:
        model.train(was_training)
    places = torch.cat(samples)
    joined: dict[str, Tensor] = {}
    truth: dict[str, Tensor] = {}
    for number, labels in enumerate(loader.split.label_sets):
        found = torch.cat(outputs[labels.task]).cpu()
        whole = torch.zeros(len(loader.split), found.shape[1])
        whole[places] = found
        joined[labels.task] = world.all_reduce(whole)
        truth[labels.task] = torch.from_numpy(loader.split.rows["labels"][:, number].astype(np.int64))
    return Predictions(
        logits=joined,
        labels=truth,
        losses={task: float(F.cross_entropy(joined[task].double(), truth[task])) for task in joined},
    )


def score(
    predictions: Predictions, loader: ShardLoader, *, train_counts: Mapping[str, Mapping[str, int]]
) -> dict[str, TaskScore]:
    """Score predictions of the loader's split by task."""
    return {
        labels.task: score_task(
            predictions.logits[labels.task].argmax(dim=1),
            predictions.labels[labels.task],
            label_set=labels,
            train_counts=train_counts[labels.task],
        )
        for labels in loader.split.label_sets
    }
