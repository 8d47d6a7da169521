"""What training minimises: the cross-entropy of each task, weighted, smoothed.

Shape letters: B batch, K classes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmsent.config import TrainConfig
from mmsent.training.data_statistics import class_weights
from shards.schema import LabelSet

__all__ = ["MultitaskLoss"]


class MultitaskLoss:
    """Sum over the tasks of the weighted mean cross-entropy of the samples of a step.

    A step may be computed in parts and by several ranks: each adds what its samples contribute to the mean over all of
    them, whose weight is known beforehand from the labels alone.
    """

    def __init__(
        self,
        config: TrainConfig,
        label_sets: Sequence[LabelSet],
        counts: Mapping[str, Mapping[str, int]],
        device: torch.device,
    ) -> None:
        """Prepare weights.

        Args:
            config: Its `class_weights` and `label_smoothing`.
            label_sets: The tasks.
            counts: Training samples by task and label name.
            device: Of logits and labels.
        """
        self._smoothing = config.label_smoothing
        self._weights: dict[str, Tensor | None] = {}
        for labels in label_sets:
            weights = class_weights(counts[labels.task], labels, kind=config.class_weights)
            self._weights[labels.task] = None if weights is None else weights.to(device)

    @property
    def is_weighted(self) -> bool:
        """Whether samples weigh differently, so that the weight of a batch is not its number of samples."""
        return any(weights is not None for weights in self._weights.values())

    def weight(self, labels: Mapping[str, Tensor]) -> Tensor:
        """Return what some samples weigh together, `(tasks,)` float32 in the order of the tasks."""
        return torch.stack([self._task_weight(task, labels[task]) for task in self._weights])

    def __call__(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], *, weight: Tensor) -> Tensor:
        """Return what some samples contribute to the loss of their step.

        Args:
            logits: `(B, K)` float32 by task. B may be 0: the loss is then 0, with a gradient of 0.
            labels: `(B,)` int64 by task.
            weight: `(tasks,)`, from `weight`, of all samples of the step.
        """
        total = torch.zeros((), device=weight.device)
        for place, task in enumerate(self._weights):
            total = total + F.cross_entropy(
                logits[task],
                labels[task],
                weight=self._weights[task],
                label_smoothing=self._smoothing,
                reduction="sum",
            ) / weight[place].clamp(min=_SMALLEST)
        return total

    def _task_weight(self, task: str, labels: Tensor) -> Tensor:
        weights = self._weights[task]
        if weights is None:
            return torch.tensor(float(len(labels)), device=labels.device)
        return weights[labels].sum()


_SMALLEST = 1e-12
"""A batch may hold nothing but labels that weigh nothing."""
