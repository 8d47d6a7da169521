"""The checkpoints of a run in its folder: the last few, to go on from, and what they share."""

import logging
import re
from pathlib import Path

from mmsent.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mmsent.errors import CheckpointError
from shards.errors import describe

__all__ = ["CHECKPOINTS", "checkpoint_paths", "load_last_checkpoint", "save_step_checkpoint"]

_LOG = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"

_NAME = re.compile(r"step-(\d{8,})\.safetensors")


def checkpoint_paths(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first."""
    found = [(int(match[1]), path) for path in (run / CHECKPOINTS).glob("*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def save_step_checkpoint(run: Path, checkpoint: Checkpoint, *, step: int, keep: int) -> Path:
    """Save a checkpoint under the number of its step; then remove the oldest ones until `keep` are left.

    Raises:
        CheckpointError: if the disk is full or cannot be written; the others are all still there then.
    """
    path = run / CHECKPOINTS / f"step-{step:08d}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_checkpoint(path, checkpoint)
    for older in checkpoint_paths(run)[:-keep]:
        older.unlink()
    return path


def load_last_checkpoint(run: Path) -> Checkpoint | None:
    """Read the newest checkpoint of a run; None if there is none.

    Raises:
        CheckpointError: if it is cut, damaged or of another program. It is for the user to give up its steps.
    """
    paths = checkpoint_paths(run)
    if not paths:
        return None
    try:
        return load_checkpoint(paths[-1])
    except CheckpointError as exc:
        what = str(exc).partition("\n")[0]
        before = f"go on from {paths[-2].name}" if len(paths) > 1 else "begin again"
        then = f"delete it to {before}: run the same command again after that"
        raise CheckpointError(describe(what, file=paths[-1], then=then)) from exc
