"""`mmsent train`: a model from shards."""

import logging
import shlex
import signal
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from commands.config_file import ConfigOption, SetOption, ShowConfigOption, print_config, read_settings
from commands.options import (
    CACHE_GIGABYTES,
    OPTIMISER_PANEL,
    BatchSizeOption,
    CacheOption,
    CacheSizeOption,
    JsonOption,
    ModalitiesOption,
    PrecisionOption,
    TextEncoderOption,
    TrainEncodersOption,
    VideoWeightsOption,
    needed,
    url_cache,
)
from commands.progress import training_bars
from commands.score_tables import print_scores_over_seeds
from commands.terminal import print_json, print_next, stdout
from mmsent.config import DataConfig, ModelConfig, TrainConfig, check_together

if TYPE_CHECKING:
    from mmsent.runs.history import TrainResult

__all__ = ["train_command"]

_LOG = logging.getLogger(__name__)
_TRAIN = TrainConfig()


def train_command(
    shards: Annotated[
        str | None, typer.Option(help="Folder that `mmsent preprocess` or `encode` made, or its URL.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for checkpoints, logs and history.",
            show_default="runs/ and the name of the shards, then -2, …",
        ),
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    show_config: ShowConfigOption = False,
    text_encoder: TextEncoderOption = None,
    video_weights: VideoWeightsOption = None,
    modalities: ModalitiesOption = None,
    train_encoders: TrainEncodersOption = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the training split, at most.",
            show_default=str(_TRAIN.max_epochs),
            rich_help_panel=OPTIMISER_PANEL,
        ),
    ] = None,
    batch_size: BatchSizeOption = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Adam's learning rate for parameters that start from random values.",
            show_default=str(_TRAIN.learning_rate),
            rich_help_panel=OPTIMISER_PANEL,
        ),
    ] = None,
    precision: PrecisionOption = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of weights, order, dropout and augmentation.",
            show_default=str(_TRAIN.seed),
            rich_help_panel=OPTIMISER_PANEL,
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="N,N,…", help="One run for each seed, in OUT/seed-N, and their mean and deviation.")
    ] = "",
    cache: CacheOption = None,
    cache_size: CacheSizeOption = CACHE_GIGABYTES,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT, if any.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Profile 4 of the first 8 steps into OUT/profile.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the three encoders' fusion on shards.

    Keeps the weights of the best epoch on the validation split (best.safetensors) and where the run stands
    (checkpoints/). `wait` in the progress line is the share of time in which the trainer waited for data.

    Ctrl-C and SIGTERM save within seconds, wherever the run is, and `--resume` goes on from there as if nothing had
    been; a second one quits at once. Under torchrun it trains on many GPUs (docs/scaling.md).

    All other settings are keys of `--config FILE.toml` and `--set KEY=VALUE` (docs/config.md). A run writes its own to
    OUT/config.toml: `mmsent train --config runs/first/config.toml --out runs/again` repeats it.

    Example: `mmsent train --shards meld-shards --epochs 10 --set train.warmup_steps=200`
    """
    from mmsent.compute.distributed import joined, world_from_environment
    from mmsent.runs.folder import RUN, default_folder, seed_folder
    from mmsent.training.start import train

    settings = read_settings(
        "train",
        file=config,
        assignments=assignments,
        options={
            "data.shards": shards,
            "model.text_encoder": text_encoder,
            "model.video_weights": video_weights,
            "model.modalities": modalities,
            "model.train_encoders": train_encoders,
            "train.max_epochs": epochs,
            "train.batch_size": batch_size,
            "train.learning_rate": learning_rate,
            "train.precision": precision,
            "train.seed": seed,
        },
    )
    data_config = settings.make("data", DataConfig())
    model_config = settings.make("model", ModelConfig())
    train_config = settings.make("train", _TRAIN)
    settings.checked(lambda: check_together(model_config, train_config))
    if show_config:
        print_config("train", {"data": data_config, "model": model_config, "train": train_config})
        return
    if seeds and seed is not None:
        raise typer.BadParameter("give --seed or --seeds")
    numbers = _seed_numbers(seeds) if seeds else [train_config.seed]
    configs = settings.checked(lambda: [replace(train_config, seed=number) for number in numbers])
    where = needed(data_config.shards)
    store = url_cache(where, cache, cache_size)
    world = world_from_environment()
    results: dict[int, TrainResult] = {}
    with joined(world):
        if not world.is_first:
            logging.getLogger().setLevel(logging.WARNING)
        if out is None:  # on one rank: another would take what that one has made for an older run
            out = Path(world.broadcast_text(str(default_folder(where, resume=resume)) if world.is_first else ""))
            _LOG.info("the run goes to %s", out)
        if seeds and (out / RUN).exists():
            raise typer.BadParameter(f"--out {out} holds a single run: choose another folder for --seeds")
        for one in configs:
            run = seed_folder(out, one.seed) if seeds else out
            if seeds and world.is_first:
                _LOG.info("seed %d, in %s", one.seed, run)
            with training_bars(shown=world.is_first) as (on_step, on_epoch, on_exit):
                result = results[one.seed] = train(
                    where,
                    run,
                    cache=store,
                    model_config=model_config,
                    train_config=one,
                    resume=resume,
                    profile=profile,
                    world=world,
                    on_step=on_step,
                    on_epoch=on_epoch,
                    on_exit=on_exit,
                )
            if result.signum:
                break
    if world.is_first:
        _print_training(out, results, many=bool(seeds), as_json=as_json)
    if result.signum:
        raise typer.Exit(128 + result.signum)


def _seed_numbers(text: str) -> list[int]:
    """Return the numbers of `--seeds`."""
    numbers = [item.strip() for item in text.split(",")]
    if not all(item.isascii() and item.isdigit() for item in numbers) or len(set(numbers)) != len(numbers):
        raise typer.BadParameter(f"--seeds is different numbers with commas, like 0,1,2; got {text!r}")
    return [int(item) for item in numbers]


def _print_training(out: Path, results: dict[int, "TrainResult"], *, many: bool, as_json: bool) -> None:
    """Say how the runs of `mmsent train` ended, and what to do next."""
    from mmsent.evaluation.seeds import dev_scores

    last = list(results.values())[-1]
    scores = dev_scores(results) if many else []
    if as_json:
        if many:
            by_seed = {seed: asdict(result) for seed, result in results.items()}
            print_json({"seeds": by_seed, "dev": [score.to_json() for score in scores]})
        else:
            print_json(asdict(last))
        return
    line = partial(stdout.print, highlight=False, soft_wrap=True)
    if last.signum:
        name = signal.Signals(last.signum).name
        epochs = f"{len(last.epochs)} whole epoch{'s' * (len(last.epochs) != 1)}"
        line(f"Stopped by {name} after {last.num_steps} steps, {epochs}; all is saved in {escape(str(out))}")
        print_next("the same command with --resume")
        return
    for seed, result in results.items():
        assert result.best_epoch is not None
        why = "no epoch was better any more" if result.stopped_early else "all epochs done"
        where = f"{result.device}{f' x {result.world_size}' * (result.world_size > 1)}"
        run = out / f"seed-{seed}" if many else out
        line(
            f"{len(result.epochs)} epoch{'s' * (len(result.epochs) > 1)} on {where} in {result.precision} ({why}); "
            f"best is epoch {result.best_epoch + 1}: {escape(str(run / 'best.safetensors'))}"
        )
    if many:
        print_scores_over_seeds(scores, split="dev")
    print_next(f"mmsent evaluate --run {shlex.quote(str(out))}")
