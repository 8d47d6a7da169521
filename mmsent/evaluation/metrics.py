"""The scores of the field, from torchmetrics. Pure.

Shape letters: N samples, K classes.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from shards.schema import LabelSet

__all__ = ["Baseline", "ClassScore", "TaskScore", "score_task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class; a precision, recall or F1 without a case is 0, as scikit-learn and the field's papers count it."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    num_predicted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What always answering the commonest class of the training split scores."""

    label: str
    accuracy: float
    weighted_f1: float
    macro_f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One task on one split. Shares are from 0 to 1."""

    task: str
    num_samples: int
    accuracy: float
    weighted_f1: float
    macro_f1: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Row: true class, column: predicted class."""
    baseline: Baseline

    @property
    def never_predicted(self) -> tuple[str, ...]:
        """Classes that occur and are never predicted."""
        return tuple(item.name for item in self.classes if item.support and not item.num_predicted)


def score_task(predicted: Tensor, labels: Tensor, *, label_set: LabelSet, train_counts: Mapping[str, int]) -> TaskScore:
    """Score predictions of one task.

    Args:
        predicted: `(N,)` int64, N at least 1.
        labels: `(N,)` int64.
        label_set: The classes.
        train_counts: Samples per label in the training split, for the baseline.

    Raises:
        ValueError: if there is nothing to score.
    """
    if not len(labels):
        raise ValueError("no samples to score")
    num_classes = len(label_set.names)
    accuracy, weighted, macro = _summary(predicted, labels, num_classes)
    precision, recall, f1 = (
        _quiet(function, predicted, labels, num_classes, "none")
        for function in (multiclass_precision, multiclass_recall, multiclass_f1_score)
    )
    confusion = multiclass_confusion_matrix(predicted, labels, num_classes=num_classes)  # (K, K)
    majority = max(label_set.names, key=lambda name: train_counts.get(name, 0))
    constant = torch.full_like(labels, label_set.index(majority))
    base_accuracy, base_weighted, base_macro = _summary(constant, labels, num_classes)
    return TaskScore(
        task=label_set.task,
        num_samples=len(labels),
        accuracy=accuracy,
        weighted_f1=weighted,
        macro_f1=macro,
        classes=tuple(
            ClassScore(
                name=name,
                precision=float(precision[i]),
                recall=float(recall[i]),
                f1=float(f1[i]),
                support=int((labels == i).sum()),
                num_predicted=int((predicted == i).sum()),
            )
            for i, name in enumerate(label_set.names)
        ),
        confusion=tuple(tuple(int(value) for value in row) for row in confusion),
        baseline=Baseline(label=majority, accuracy=base_accuracy, weighted_f1=base_weighted, macro_f1=base_macro),
    )


def _summary(predicted: Tensor, labels: Tensor, num_classes: int) -> tuple[float, float, float]:
    """Return accuracy, weighted F1 and macro F1. Macro is over the classes that occur in labels or predictions."""
    accuracy = multiclass_accuracy(predicted, labels, num_classes=num_classes, average="micro")
    weighted = _quiet(multiclass_f1_score, predicted, labels, num_classes, "weighted")
    macro = _quiet(multiclass_f1_score, predicted, labels, num_classes, "macro")
    return float(accuracy), float(weighted), float(macro)


def _quiet(function: object, predicted: Tensor, labels: Tensor, num_classes: int, average: str) -> Tensor:
    """Call a torchmetrics function; that a class without a case scores 0 is said in `ClassScore`, not as a warning."""
    assert callable(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        value: Tensor = function(predicted, labels, num_classes=num_classes, average=average)
    return value
