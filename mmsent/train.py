"""Start a run in a folder, or go on with the one that is there."""

import json
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from mmsent.checkpoint import Checkpoint, check_fit, load_checkpoint
from mmsent.config import ModelConfig, TrainConfig
from mmsent.errors import TrainingError
from mmsent.trainer import BEST, LAST, EpochResult, StepInfo, Trainer, TrainResult
from shards.cache import ShardCache
from shards.errors import SpecMismatchError, describe
from shards.index import publish
from shards.reader import Split
from shards.store import split_sources

__all__ = ["train"]

_LOG = logging.getLogger(__name__)

_FREE_TO_CHANGE = ("max_epochs", "num_readers", "check", "checkpoint_steps", "early_stopping_patience")
"""What may differ when a run goes on: none of it changes a step that was already made or the next one."""


def train(
    shards: str | Path,
    run: Path,
    *,
    cache: ShardCache | None = None,
    model_config: ModelConfig,
    train_config: TrainConfig,
    resume: bool,
    on_step: Callable[[StepInfo], None],
    on_epoch: Callable[[EpochResult], None],
) -> TrainResult:
    """Train on the `train` split of a folder of shards, choosing by the `dev` split.

    Args:
        shards: What `mmsent preprocess --out` made, or the URL of it.
        run: Where checkpoints, logs and the history go.
        cache: What shards behind a URL come through.
        model_config: The network.
        train_config: The run.
        resume: Go on from the last checkpoint of `run` if there is one.
        on_step: Called after each step.
        on_epoch: Called after each epoch.

    Raises:
        TrainingError: if `run` holds another run, the shards lack a split, or the loss is no longer a number.
        ShardError: if the shards cannot be read or do not fit the checkpoint.
        EncoderError: if a pre-trained encoder cannot be had.
    """
    splits = split_sources(shards, cache=cache)
    if missing := [name for name in ("train", "dev") if name not in splits]:
        what = f"training needs the splits train and dev; missing: {', '.join(missing)}"
        raise TrainingError(
            describe(what, file=shards, then="add their rows to the data and run `mmsent preprocess` again")
        )
    train_split, dev_split = Split(splits["train"]), Split(splits["dev"])
    if differences := dev_split.differences(train_split.spec, train_split.label_sets):
        what = f"the splits were not made alike (train against dev): {'; '.join(differences)}"
        raise SpecMismatchError(describe(what, file=shards, then="make both with the same `mmsent preprocess`"))
    last = _last_checkpoint(run, resume=resume)
    if last is None:
        trainer = Trainer.new(train_split, dev_split, run, model_config=model_config, train_config=train_config)
        _write_run(run, shards, train_split, trainer)
    else:
        _check_same(last, run, model_config=model_config, train_config=train_config)
        check_fit(last, train_split, path=run / LAST)
        trainer = Trainer.resumed(last, train_split, dev_split, run, train_config=train_config)
    return trainer.run(on_step=on_step, on_epoch=on_epoch)


def _last_checkpoint(run: Path, *, resume: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None to begin in a folder that is new or empty."""
    if (run / LAST).is_file():
        if resume:
            return load_checkpoint(run / LAST)
        then = "go on with `--resume`, or choose another --out"
        raise TrainingError(describe("the folder holds a run already", file=run, then=then))
    # A run that was killed before its first checkpoint has left run.json and has nothing to lose.
    if run.exists() and not run.is_dir():
        raise TrainingError(describe("--out is a file", file=run, then="choose another --out"))
    if (run / BEST).is_file():
        what = "the folder holds a run whose last checkpoint is gone"
        raise TrainingError(
            describe(what, file=run, then="choose another --out; `mmsent evaluate` still reads this one")
        )
    if run.exists() and not (run / "run.json").is_file() and any(run.iterdir()):
        what = "the folder is not empty and holds no run to go on from"
        raise TrainingError(describe(what, file=run, then="choose another --out"))
    if resume:
        _LOG.info("nothing to resume, starting from the beginning: %s has no %s", run, LAST)
    return None


def _check_same(last: Checkpoint, run: Path, *, model_config: ModelConfig, train_config: TrainConfig) -> None:
    differences = last.train_config.differences(train_config, ignore=_FREE_TO_CHANGE)
    differences += last.model_config.differences(model_config)
    if differences:
        what = "the run was started with other options (then against now): " + "; ".join(differences)
        raise TrainingError(describe(what, file=run, then="give the same options, or start a new run in another --out"))


def _write_run(run: Path, shards: str | Path, split: Split, trainer: Trainer) -> None:
    """Write what a person wants to know of a run without opening a checkpoint."""
    run.mkdir(parents=True, exist_ok=True)
    value = {
        "shards": str(shards),
        "device": trainer.device.type,
        "precision": trainer.precision,
        "model": trainer.model.config.to_json(),
        "train": trainer.config.to_json(),
        "spec": split.spec.to_json(),
        "labels": {item.task: list(item.names) for item in split.label_sets},
        "versions": {name: version(name) for name in ("torch", "torchvision", "transformers")},
    }
    publish(run / "run.json", (json.dumps(value, indent=1) + "\n").encode())
