"""Model and loader -> predictions and scores.

Shape letters: N samples, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmsent.feed import DeviceFeed
from mmsent.metrics import TaskScore, score_task
from mmsent.model import MultimodalModel
from mmsent.precision import ResolvedPrecision, autocast
from shards.loader import ShardLoader

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
    model: MultimodalModel, loader: ShardLoader, *, device: torch.device, precision: ResolvedPrecision
) -> Predictions:
    """Run a model over a split, every sample exactly once.

    Args:
        model: On `device`; its mode is restored afterwards.
        loader: Of one process, in the order of the shards.
        device: Where to compute.
        precision: Of the forward pass.
    """
    was_training = model.training
    model.eval()
    logits: dict[str, list[Tensor]] = {}
    labels: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for batch in DeviceFeed(loader, device):
            with autocast(precision, device):
                outputs = model(batch)
            for task, output in outputs.items():
                logits.setdefault(task, []).append(output.cpu())
                labels.setdefault(task, []).append(batch.labels[task].cpu().clone())
    model.train(was_training)
    joined = {task: torch.cat(parts) for task, parts in logits.items()}
    truth = {task: torch.cat(parts) for task, parts in labels.items()}
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
