"""Figures of an evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmsent.evaluation.label_fonts import label_texts
from mmsent.evaluation.metrics import TaskScore
from mmsent.runs.history import EpochResult

__all__ = ["plot_confusion", "plot_curves"]


def plot_confusion(score: TaskScore, path: Path) -> None:
    """Draw the confusion matrix of one task: counts in the cells, colour by the share of the true class."""
    counts = np.array(score.confusion)  # (K, K)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = label_texts([item.name for item in score.classes])
    size = 1.8 + 0.75 * len(labels.texts)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    # Labels are anybody's own text: a $ in one is a dollar, not the beginning of a formula.
    true = [f"{text} ({item.support})" for text, item in zip(labels.texts, score.classes, strict=True)]
    plain: dict[str, Any] = {"parse_math": False, "fontfamily": labels.families}
    axes.set_xticks(range(len(true)), labels.texts, rotation=45, ha="right", **plain)
    axes.set_yticks(range(len(true)), true, **plain)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (samples)")
    axes.set_title(f"{score.task}: weighted F1 {score.weighted_f1:.3f}, baseline {score.baseline.weighted_f1:.3f}")
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    figure.colorbar(image, ax=axes, label="share of the true class")
    figure.savefig(path, dpi=120)


def plot_curves(epochs: Sequence[EpochResult], path: Path) -> None:
    """Draw losses and validation scores over the epochs; a dotted line marks the epoch whose weights are used."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    numbers = [item.epoch + 1 for item in epochs]
    losses.plot(numbers, [item.train_loss for item in epochs], marker="o", label="train")
    losses.plot(numbers, [item.dev_loss for item in epochs], marker="o", label="dev")
    losses.set_ylabel("loss, sum over tasks")
    for task in epochs[0].dev_weighted_f1:
        scores.plot(numbers, [item.dev_weighted_f1[task] for item in epochs], marker="o", label=f"{task}, dev")
    scores.set_ylabel("weighted F1")
    scores.set_ylim(0, 1)
    best = max(item.epoch for item in epochs if item.best) + 1
    for axes in (losses, scores):
        axes.axvline(best, color="grey", linestyle=":", label="weights used")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.savefig(path, dpi=120)
