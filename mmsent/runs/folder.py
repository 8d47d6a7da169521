"""The folder of a run: what lies where in it, and who is alone in it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsent.compute.distributed import World
from shards.files import sweep
from shards.lock import locked

__all__ = [
    "BEST",
    "CURVES",
    "FROZEN",
    "HISTORY",
    "METRICS",
    "PREDICTIONS",
    "PROFILE",
    "RUN",
    "SEED_SCORES",
    "TENSORBOARD",
    "checkpoint_path",
    "checkpoint_paths",
    "confusion_figure",
    "evaluation_folder",
    "prepared_folder",
    "seed_folder",
    "seed_folders",
]

RUN = "run.json"
"""Options, data and versions of a run, as of its last start."""

HISTORY = "history.json"
"""Its epochs."""

BEST = "best.safetensors"
"""The weights of its best epoch."""

FROZEN = "frozen.safetensors"
"""The weights of its frozen encoders, which no checkpoint repeats."""

TENSORBOARD = "tensorboard"
"""Folder of its curves while it runs."""

PROFILE = "profile"
"""Folder of what a profiler saw of its first steps."""

METRICS = "metrics.json"
"""Scores of a run, in the folder of an evaluation."""

PREDICTIONS = "predictions.csv"
"""Every sample with its prediction, in the folder of an evaluation."""

CURVES = "training-curves.png"
"""Losses and scores over the epochs, in the folder of an evaluation."""

SEED_SCORES = "seeds.json"
"""Scores over all seeds, in the folder of an evaluation beside the runs of the seeds."""

_CHECKPOINTS = "checkpoints"
_CHECKPOINT = re.compile(r"step-(\d{8,})\.safetensors")
_SEED = re.compile(r"seed-(\d+)")


def checkpoint_path(run: Path, step: int) -> Path:
    """Return where the checkpoint after a step is: `first`, 500 -> `first/checkpoints/step-00000500.safetensors`."""
    return run / _CHECKPOINTS / f"step-{step:08d}.safetensors"


def checkpoint_paths(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first."""
    files = (run / _CHECKPOINTS).glob("*")
    found = [(int(match[1]), path) for path in files if (match := _CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def evaluation_folder(run: Path, split: str) -> Path:
    """Return where the evaluation of a run, or of all its seeds, on a split is."""
    return run / f"evaluation-{split}"


def confusion_figure(task: str) -> str:
    """Return the name of a task's confusion matrix, in the folder of an evaluation."""
    return f"confusion-{task}.png"


def seed_folder(run: Path, seed: int) -> Path:
    """Return where the run of a seed is: `runs/first`, 2 -> `runs/first/seed-2`."""
    return run / f"seed-{seed}"


def seed_folders(run: Path) -> dict[int, Path]:
    """Return the runs by seed of a folder that `mmsent train --seeds` made; empty if it is another one."""
    found = [(int(match[1]), path) for path in run.glob("seed-*") if (match := _SEED.fullmatch(path.name))]
    return dict(sorted(found))


@contextmanager
def prepared_folder(run: Path, world: World) -> Iterator[None]:
    """Make the folder of a run, and keep other runs out of it, on rank 0.

    Raises:
        OutputBusyError: if another process trains there.
    """
    if not world.is_first:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with locked(run):
        sweep(run)  # of a save that was killed
        for path in (run / _CHECKPOINTS).glob(".tmp*"):  # safetensors' own name, before it renames it to ours
            path.unlink(missing_ok=True)
        yield
