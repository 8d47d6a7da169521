"""The folder of a run: which it is, whether it may be used, and who is alone in it."""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsent.compute.distributed import World
from mmsent.errors import CheckpointError, TrainingError
from mmsent.runs.checkpoint import Checkpoint, checkpoint_paths, load_last_checkpoint
from mmsent.runs.history import BEST, RUN
from shards.errors import describe
from shards.files import sweep
from shards.lock import locked
from shards.storage.url_folder import is_url

__all__ = ["default_folder", "last_checkpoint", "prepared_folder", "shards_of"]

_LOG = logging.getLogger(__name__)


def default_folder(shards: str, *, resume: bool) -> Path:
    """Return where a run goes that was given no folder: `runs/` and the name of the shards, `-2` after the first, ….

    Args:
        shards: Folder of shards, or its URL.
        resume: Return the last one that is there, if any, in place of the first that is not.
    """
    name = Path(shards).resolve().name if not is_url(shards) else shards.rstrip("/").rpartition("/")[2]
    first = Path("runs") / (name or "shards")
    there = {1: first} if _is_taken(first) else {}
    for path in first.parent.glob("*"):
        if (match := re.fullmatch(rf"{re.escape(first.name)}-(\d+)", path.name)) and _is_taken(path):
            there[int(match[1])] = path
    if resume and there:
        return there[max(there)]
    return first.with_name(f"{first.name}-{max(there) + 1}") if there else first


def shards_of(run: Path) -> str:
    """Return where the shards of a run, or of the runs of several seeds, are, by what it wrote at its last start.

    Raises:
        CheckpointError: if there is no such run, it does not say, or they are no longer there.
    """
    if not run.is_dir():
        raise CheckpointError(describe("there is no such run", file=run, then=_GIVE_RUN))
    path = next((path for path in (run / RUN, *sorted(run.glob(f"seed-*/{RUN}"))) if path.is_file()), None)
    if path is None:
        if not (run / BEST).is_file():
            raise CheckpointError(describe("this is no folder of a run", file=run, then=_GIVE_RUN))
        what = f"without {RUN} the run does not say where its shards are"
        raise CheckpointError(describe(what, file=run, then="give their folder by `--shards FOLDER`"))
    try:
        shards = str(json.loads(path.read_bytes())["shards"])
    except (ValueError, TypeError, KeyError) as exc:
        what = f"where the shards of the run are cannot be read: {exc}"
        raise CheckpointError(describe(what, file=path, then="give their folder by `--shards FOLDER`")) from exc
    if not is_url(shards) and not Path(shards).is_dir():
        what = f"the shards of the run are no longer where they were, in {shards}"
        raise CheckpointError(describe(what, file=path, then="give their new place by `--shards FOLDER`"))
    return shards


_GIVE_RUN = "give the folder that `mmsent train` made"


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
    """Return the checkpoint to go on from, or None to begin in a folder that is new or empty.

    Raises:
        TrainingError: if the folder cannot be made, holds something else, or a run that is not to go on.
        CheckpointError: if the checkpoint is damaged.
    """
    _check_place(run)
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


def _check_place(run: Path) -> None:
    """Refuse a folder that cannot be made or written, before minutes are spent on a model that could not be saved."""
    place = next(path for path in (run, *run.absolute().parents) if path.exists())
    if place == run and not place.is_dir():
        return  # told with what it is by the caller
    if not place.is_dir():
        what = "the folder of the run cannot be made: what should hold it is a file"
    elif not os.access(place, os.W_OK | os.X_OK):
        what = "the folder of the run cannot be written: permission denied"
    else:
        return
    raise TrainingError(describe(what, file=place, then="choose another place with --out"))


def _is_taken(path: Path) -> bool:
    """Return whether there is something at a path, if only a file: a run that was refused has left an empty folder."""
    return path.exists() and not (path.is_dir() and not _visible(path))


def _visible(folder: Path) -> list[Path]:
    """Return what is in a folder, but for hidden files: a run that was refused has left its lock."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
