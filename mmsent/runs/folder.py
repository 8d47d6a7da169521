"""The folder of a run: whether it may be used, and who is alone in it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsent.compute.distributed import World
from mmsent.errors import TrainingError
from mmsent.runs.checkpoint import Checkpoint, checkpoint_paths, load_last_checkpoint
from mmsent.runs.history import BEST, RUN
from shards.errors import describe
from shards.files import sweep
from shards.lock import locked

__all__ = ["last_checkpoint", "prepared_folder"]

_LOG = logging.getLogger(__name__)


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
        for path in run.glob("checkpoints/.tmp*"):  # safetensors' own name, before it renames it to ours
            path.unlink(missing_ok=True)
        yield


def last_checkpoint(run: Path, *, resume: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None to begin in a folder that is new or empty."""
    if run.is_dir() and checkpoint_paths(run):
        if resume:
            return load_last_checkpoint(run)
        then = "go on with `--resume`, or choose another --out"
        raise TrainingError(describe("the folder holds a run already", file=run, then=then))
    # A run that was killed before its first checkpoint has left run.json and has nothing to lose.
    if run.exists() and not run.is_dir():
        raise TrainingError(describe("--out is a file", file=run, then="choose another --out"))
    if (run / BEST).is_file():
        what = "the folder holds a run whose checkpoints to go on from are gone"
        raise TrainingError(
            describe(what, file=run, then="choose another --out; `mmsent evaluate` still reads this one")
        )
    if run.is_dir() and any(run.glob(f"seed-*/{RUN}")):
        then = "go on with `--seeds`, or choose another --out"
        raise TrainingError(describe("the folder holds the runs of several seeds", file=run, then=then))
    if run.exists() and not (run / RUN).is_file() and _visible(run):
        what = "the folder is not empty and holds no run to go on from"
        raise TrainingError(describe(what, file=run, then="choose another --out"))
    if resume:
        _LOG.info("nothing to resume, starting from the beginning: there is no checkpoint in %s", run)
    return None


def _visible(folder: Path) -> list[Path]:
    """Return what is in a folder, but for hidden files: a run that was refused has left its lock."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
