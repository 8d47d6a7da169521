"""What a run says of itself: after a step, after an epoch, at its end; and the epochs as it writes them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmsent.compute.precision import ResolvedPrecision
from mmsent.config import Selection, TrainConfig
from mmsent.errors import CheckpointError
from mmsent.runs.folder import HISTORY
from shards.errors import describe
from shards.files import publish

__all__ = [
    "EpochResult",
    "StepInfo",
    "TrainResult",
    "is_best",
    "is_finished",
    "publish_history",
    "read_history",
    "stopped_early",
    "write_board",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """Where an epoch stands."""

    epoch: int
    step: int
    num_steps: int
    loss: float
    """Mean over the epoch so far; on a GPU as of the last look at it."""
    samples_per_second: float
    wait_share: float
    """Part of the time in which the trainer waited for the loader, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """One epoch; losses are sums over the tasks."""

    epoch: int
    train_loss: float
    dev_loss: float
    dev_accuracy: dict[str, float]
    dev_weighted_f1: dict[str, float]
    learning_rate: float
    seconds: float
    """Of the steps, without validation."""
    samples_per_second: float
    wait_share: float
    best: bool
    """Whether it is the best so far by the config's `selection`, so that its weights are kept."""

    def merit(self, selection: Selection) -> float:
        """Return by how much it is good; more is better."""
        if selection == "loss":
            return -self.dev_loss
        return sum(self.dev_weighted_f1.values()) / len(self.dev_weighted_f1)


def is_best(result: EpochResult, history: Sequence[EpochResult], *, selection: Selection) -> bool:
    """Return whether an epoch is better than all before it."""
    return all(result.merit(selection) > before.merit(selection) for before in history)


def stopped_early(history: Sequence[EpochResult], config: TrainConfig) -> bool:
    """Return whether so many epochs in a row were no better that the run ends."""
    since_best = 0
    for result in history:
        since_best = 0 if result.best else since_best + 1
    return since_best >= config.early_stopping_patience


def is_finished(history: Sequence[EpochResult], config: TrainConfig) -> bool:
    """Return whether a run has no epoch before it."""
    return len(history) >= config.max_epochs or stopped_early(history, config)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A run that ended, or was asked to end."""

    epochs: tuple[EpochResult, ...]
    best_epoch: int | None
    """None while no epoch is finished."""
    stopped_early: bool
    signum: int
    """Of the signal that ended it; 0 if none did."""
    num_steps: int
    device: str
    precision: ResolvedPrecision
    world_size: int


def publish_history(run: Path, history: Sequence[EpochResult]) -> None:
    """Write the epochs of a run to its folder."""
    publish(run / HISTORY, (json.dumps([asdict(item) for item in history], indent=1) + "\n").encode())


def read_history(run: Path) -> list[EpochResult]:
    """Read the epochs of a run; none of one that was killed during its first save.

    Raises:
        CheckpointError: if the file is damaged.
    """
    path = run / HISTORY
    if not path.is_file():
        return []
    try:
        return [EpochResult(**item) for item in json.loads(path.read_bytes())]
    except (ValueError, TypeError) as exc:
        then = "delete it: the curves are then drawn up to the best epoch"
        raise CheckpointError(describe(f"the history cannot be read: {exc}", file=path, then=then)) from exc


def write_board(board: Any, result: EpochResult) -> None:
    """Write an epoch to a `SummaryWriter` of TensorBoard."""
    for name in ("train_loss", "dev_loss", "learning_rate", "samples_per_second", "wait_share"):
        board.add_scalar(name, getattr(result, name), result.epoch)
    for task in result.dev_weighted_f1:
        board.add_scalar(f"dev_weighted_f1/{task}", result.dev_weighted_f1[task], result.epoch)
        board.add_scalar(f"dev_accuracy/{task}", result.dev_accuracy[task], result.epoch)
    board.flush()
