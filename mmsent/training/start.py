"""Start a run in a folder, or go on with the one that is there."""

import json
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from mmsent.compute.distributed import ALONE, World
from mmsent.config import DataConfig, ModelConfig, TrainConfig, check_together
from mmsent.errors import CheckpointError, TrainingError
from mmsent.model.checks import config_for
from mmsent.runs.checkpoint import Checkpoint, check_fit, checkpoint_to_resume, load_checkpoint, save_frozen
from mmsent.runs.config_toml import config_toml
from mmsent.runs.folder import CONFIG, RUN, checkpoint_paths, prepared_folder
from mmsent.runs.history import EpochResult, StepInfo, TrainResult
from mmsent.training.trainer import Trainer
from shards.errors import ExpectedError, SpecMismatchError, describe
from shards.files import publish
from shards.reading.split import Split
from shards.splits import split_sources
from shards.storage.cache import ShardCache
from shards.storage.url_folder import is_url

__all__ = ["train"]

_LOG = logging.getLogger(__name__)

_FREE_TO_CHANGE = (
    "precision", "max_epochs", "num_readers", "check", "checkpoint_steps", "keep_checkpoints",
    "early_stopping_patience",
)  # fmt: skip
"""What may differ when a run goes on: none of it changes a step that was already made or the next one.

What `precision` comes to is compared by the trainer: `auto` may mean what was asked for by name.

With a linear schedule `max_epochs` does: the learning rates fall towards its end."""


def train(
    shards: str | Path,
    run: Path,
    *,
    cache: ShardCache | None = None,
    model_config: ModelConfig,
    train_config: TrainConfig,
    resume: bool,
    profile: bool = False,
    world: World = ALONE,
    on_step: Callable[[StepInfo], None] = lambda info: None,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
    on_exit: Callable[[str], None] = lambda line: None,
) -> TrainResult:
    """Train on the `train` split of a folder of shards, choosing by the `dev` split.

    Args:
        shards: What `mmsent preprocess --out` or `mmsent encode --out` made, or the URL of it.
        run: Where checkpoints, logs and the history go; rank 0 alone writes there.
        cache: What shards behind a URL come through.
        model_config: The network.
        train_config: The run.
        resume: Go on from the last checkpoint of `run` if there is one.
        profile: Profile a few of the first steps, into `run/profile`.
        world: This process among those of the run, which have `joined`.
        on_step: Called after each step.
        on_epoch: Called after each epoch.
        on_exit: Called with a line to show if a signal ends the process in the middle of a step.

    Raises:
        TrainingError: if `run` holds another run, the shards lack a split, or the loss is no longer a number.
        ShardError: if the shards cannot be read or do not fit the checkpoint or the model.
        EncoderError: if a pre-trained encoder cannot be had.
        CheckpointError: if the last checkpoint is damaged or cannot be written.
        OutputBusyError: if another process trains in `run`.
        ValueError: if the configs do not go together.
    """
    check_together(model_config, train_config)
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
    _check_augmentation(train_config, train_split)
    model_config = config_for(model_config, train_split.spec)
    last = _last_of_all(run, resume=resume, world=world)
    if last is None:
        trainer = Trainer.new(
            train_split, dev_split, run, model_config=model_config, train_config=train_config, world=world
        )
    else:
        _check_same(last, run, model_config=model_config, train_config=train_config)
        check_fit(last, train_split, path=checkpoint_paths(run)[-1])
        trainer = Trainer.resumed(last, train_split, dev_split, run, train_config=train_config, world=world)
    with prepared_folder(run, world):
        if world.is_first:
            _write_run(run, shards, train_split, trainer)
            if last is None:
                save_frozen(run, trainer.model)
            _say_what_encode_would_spare(trainer)
        return trainer.run(profile=profile, on_step=on_step, on_epoch=on_epoch, on_exit=on_exit)


def _check_augmentation(config: TrainConfig, split: Split) -> None:
    """Refuse to augment what is no picture and no log-mel any more."""
    keys = {"video": ("crop_and_flip", config.crop_and_flip), "audio": ("spec_augment", config.spec_augment)}
    for name in split.spec.encoded:
        key, wanted = keys.get(name, ("", False))
        if wanted:
            what = f"train.{key} is for {name} as it was, the shards hold what an encoder made of it"
            then = f"leave `train.{key}` out, or give the shards that were encoded"
            raise TrainingError(describe(what, file=split.source.location, then=then))


def _last_of_all(run: Path, *, resume: bool, world: World) -> Checkpoint | None:
    """Return the checkpoint to go on from, the same on every rank: rank 0 looks whether the folder may be used.

    Raises:
        TrainingError: on every rank, with the message on rank 0.
    """
    if world.is_first:
        try:
            last = checkpoint_to_resume(run, resume=resume)
        except ExpectedError:
            world.broadcast_text("refused")
            raise
        world.broadcast_text("new" if last is None else checkpoint_paths(run)[-1].relative_to(run).as_posix())
        return last
    found = world.broadcast_text("")
    if found == "refused":
        raise TrainingError(describe("rank 0 cannot start the run", then="see its message"))
    if found == "new":
        return None
    try:
        return load_checkpoint(run / found)
    except CheckpointError as exc:
        then = "give an --out that all machines of the run see"
        what = f"rank {world.rank} cannot read the checkpoint from which rank 0 goes on: {exc}"
        raise CheckpointError(describe(what.partition("\n")[0], file=run / found, then=then)) from exc


def _check_same(last: Checkpoint, run: Path, *, model_config: ModelConfig, train_config: TrainConfig) -> None:
    free = tuple(name for name in _FREE_TO_CHANGE if name != "max_epochs" or train_config.schedule != "linear")
    differences = last.train_config.differences(train_config, ignore=free)
    differences += last.model_config.differences(model_config)
    if differences:
        what = "the run was started with other options (then against now): " + "; ".join(differences)
        raise TrainingError(describe(what, file=run, then="give the same options, or start a new run in another --out"))


def _say_what_encode_would_spare(trainer: Trainer) -> None:
    frozen = trainer.model.frozen_modalities
    if frozen and not trainer.model.config.train_encoders and not trainer.config.crop_and_flip:  # that needs pictures
        _LOG.info(
            "the pre-trained encoders (%s) stay frozen, and run again on every sample of every epoch: `mmsent encode` "
            "would compute their outputs once",
            " and ".join(frozen),
        )


def _write_run(run: Path, shards: str | Path, split: Split, trainer: Trainer) -> None:
    """Write how the run is trained from now on: run.json for whoever wants to know, config.toml to repeat it with."""
    where = str(shards) if is_url(str(shards)) else str(Path(shards).absolute())
    value = {
        "shards": where,
        "device": trainer.device.type,
        "precision": trainer.precision,
        "world_size": trainer.world.size,
        "model": trainer.model.config.to_json(),
        "train": trainer.config.to_json(),
        "spec": split.spec.to_json(),
        "labels": {item.task: list(item.names) for item in split.label_sets},
        "versions": {name: version(name) for name in ("torch", "torchvision", "transformers")},
    }
    publish(run / RUN, (json.dumps(value, indent=1) + "\n").encode())
    data = DataConfig(shards=where)
    configs = {"data": data, "model": trainer.model.config, "train": trainer.config}
    publish(run / CONFIG, config_toml({name: config.to_json() for name, config in configs.items()}).encode())
