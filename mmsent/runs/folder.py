"""The folder of a run: which it is, what lies where in it, and who is alone in it."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsent.compute.distributed import World
from mmsent.errors import CheckpointError, TrainingError
from shards.errors import describe
from shards.files import sweep
from shards.lock import locked
from shards.storage.url_folder import is_url

__all__ = [
    "BEST",
    "CONFIG",
    "CURVES",
    "FROZEN",
    "HISTORY",
    "METRICS",
    "PREDICTIONS",
    "PROFILE",
    "RUN",
    "SEED_SCORES",
    "TENSORBOARD",
    "check_place",
    "checkpoint_path",
    "checkpoint_paths",
    "confusion_figure",
    "default_folder",
    "evaluation_folder",
    "prepared_folder",
    "seed_folder",
    "seed_folders",
    "shards_of",
    "visible",
]

CONFIG = "config.toml"
"""Its settings, to be edited or repeated by `mmsent train --config`."""

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
        for path in (run / _CHECKPOINTS).glob(".tmp*"):  # safetensors' own name, before it renames it to ours
            path.unlink(missing_ok=True)
        yield


def check_place(run: Path) -> None:
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
    return path.exists() and not (path.is_dir() and not visible(path))


def visible(folder: Path) -> list[Path]:
    """Return what is in a folder, but for hidden files: a run that was refused has left its lock."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
