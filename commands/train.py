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

from commands.options import (
    ALL_MODALITIES,
    CACHE_GIGABYTES,
    DATA_PANEL,
    LOSS_PANEL,
    MODEL_PANEL,
    OPTIMISER_PANEL,
    AccumulationOption,
    BatchSizeOption,
    CacheOption,
    CacheSizeOption,
    CompileOption,
    JsonOption,
    ModalitiesOption,
    PrecisionOption,
    ReadersOption,
    TextEncoderOption,
    TextPoolingOption,
    TrainEncodersOption,
    VideoEncoderOption,
    VideoWeightsOption,
    checked,
    modality_names,
    url_cache,
)
from commands.progress import training_bars
from commands.score_tables import print_scores_over_seeds
from commands.terminal import print_json, print_next, stdout
from mmsent.config import ClassWeights, Fusion, ModelConfig, OrderKind, Schedule, Selection, TrainConfig
from shards.schema import MODALITIES

if TYPE_CHECKING:
    from mmsent.runs.history import TrainResult

__all__ = ["train_command"]

_LOG = logging.getLogger(__name__)


def _seed_numbers(text: str) -> list[int]:
    """Return the numbers of `--seeds`."""
    numbers = [item.strip() for item in text.split(",")]
    if not all(item.isascii() and item.isdigit() for item in numbers) or len(set(numbers)) != len(numbers):
        raise typer.BadParameter(f"--seeds is different numbers with commas, like 0,1,2; got {text!r}")
    return [int(item) for item in numbers]


_MODEL = ModelConfig()
_TRAIN = TrainConfig()


def train_command(
    shards: Annotated[str, typer.Option(help="Folder that `mmsent preprocess` or `encode` made, or its URL.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, logs and history.")],
    text_encoder: TextEncoderOption = _MODEL.text_encoder,
    text_pooling: TextPoolingOption = _MODEL.text_pooling,
    video_encoder: VideoEncoderOption = _MODEL.video_encoder,
    video_weights: VideoWeightsOption = _MODEL.video_weights,
    modalities: ModalitiesOption = ALL_MODALITIES,
    train_encoders: TrainEncodersOption = "",
    fusion: Annotated[
        Fusion,
        typer.Option(help="Features side by side, or weighted by learned gates.", rich_help_panel=MODEL_PANEL),
    ] = _MODEL.fusion,
    dialogue_turns: Annotated[
        int,
        typer.Option(
            help="Utterances of a dialogue, up to the one to judge, that a GRU goes over; 1: no GRU.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = _MODEL.dialogue_turns,
    epochs: Annotated[
        int, typer.Option(help="Passes over the training split, at most.", rich_help_panel=OPTIMISER_PANEL)
    ] = _TRAIN.max_epochs,
    batch_size: BatchSizeOption = _TRAIN.batch_size,
    accumulation_steps: AccumulationOption = _TRAIN.accumulation_steps,
    learning_rate: Annotated[
        float, typer.Option(help="Of Adam, for what is not pre-trained.", rich_help_panel=OPTIMISER_PANEL)
    ] = _TRAIN.learning_rate,
    text_learning_rate: Annotated[
        float, typer.Option(help="Of a pre-trained text encoder that is trained.", rich_help_panel=OPTIMISER_PANEL)
    ] = _TRAIN.text_learning_rate,
    video_learning_rate: Annotated[
        float, typer.Option(help="Of a pre-trained video encoder that is trained.", rich_help_panel=OPTIMISER_PANEL)
    ] = _TRAIN.video_learning_rate,
    layer_decay: Annotated[
        float,
        typer.Option(
            help="Each layer of a trained encoder learns at this times the rate of the one above.",
            rich_help_panel=OPTIMISER_PANEL,
        ),
    ] = _TRAIN.layer_decay,
    warmup_steps: Annotated[
        int, typer.Option(help="First steps over which learning rates rise from 0.", rich_help_panel=OPTIMISER_PANEL)
    ] = _TRAIN.warmup_steps,
    schedule: Annotated[
        Schedule,
        typer.Option(
            help="Learning rates fall when the validation loss stops falling, or in a line to 0 at the end.",
            rich_help_panel=OPTIMISER_PANEL,
        ),
    ] = _TRAIN.schedule,
    ema_decay: Annotated[
        float,
        typer.Option(
            help="Keep a moving average of the weights with this decay, like 0.999; 0: none.",
            rich_help_panel=OPTIMISER_PANEL,
        ),
    ] = _TRAIN.ema_decay,
    selection: Annotated[
        Selection,
        typer.Option(
            "--select",
            help="The epoch whose weights are kept: of the lowest validation loss or the highest weighted F1.",
            rich_help_panel=OPTIMISER_PANEL,
        ),
    ] = _TRAIN.selection,
    patience: Annotated[
        int,
        typer.Option(help="Epochs without a better one before the run ends.", rich_help_panel=OPTIMISER_PANEL),
    ] = _TRAIN.early_stopping_patience,
    max_grad_norm: Annotated[
        float,
        typer.Option(help="Gradients are scaled down to this norm.", rich_help_panel=OPTIMISER_PANEL),
    ] = _TRAIN.max_grad_norm,
    precision: PrecisionOption = _TRAIN.precision,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="The same bits in each run, on a GPU too; slower.", rich_help_panel=OPTIMISER_PANEL
        ),
    ] = _TRAIN.deterministic,
    compile_encoders: CompileOption = _TRAIN.compile,
    class_weights: Annotated[
        ClassWeights,
        typer.Option(help="Of the losses, from the training labels' frequencies.", rich_help_panel=LOSS_PANEL),
    ] = _TRAIN.class_weights,
    label_smoothing: Annotated[
        float, typer.Option(help="Part of each target spread over all classes.", rich_help_panel=LOSS_PANEL)
    ] = _TRAIN.label_smoothing,
    modality_dropout: Annotated[
        float,
        typer.Option(help="Probability with which each modality of a sample is hidden.", rich_help_panel=LOSS_PANEL),
    ] = _TRAIN.modality_dropout,
    crop_and_flip: Annotated[
        bool,
        typer.Option(
            "--crop-and-flip",
            help="Random parts of the picture, half of them mirrored, alike over a clip.",
            rich_help_panel=LOSS_PANEL,
        ),
    ] = _TRAIN.crop_and_flip,
    spec_augment: Annotated[
        bool,
        typer.Option(
            "--spec-augment", help="Hide bands of the log-mel in time and frequency.", rich_help_panel=LOSS_PANEL
        ),
    ] = _TRAIN.spec_augment,
    order: Annotated[
        OrderKind,
        typer.Option(
            help="Of the training samples; block-shuffle: for a slow disk or a network.", rich_help_panel=DATA_PANEL
        ),
    ] = _TRAIN.order,
    shards_per_block: Annotated[
        int, typer.Option(help="With block-shuffle: shards that are mixed.", rich_help_panel=DATA_PANEL)
    ] = _TRAIN.shards_per_block,
    readers: ReadersOption = _TRAIN.num_readers,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare every sample with its CRC-32 when it is read.", rich_help_panel=DATA_PANEL
        ),
    ] = _TRAIN.check,
    cache: CacheOption = None,
    cache_size: CacheSizeOption = CACHE_GIGABYTES,
    seed: Annotated[int, typer.Option(help="Of weights, order, dropout and augmentation.")] = _TRAIN.seed,
    seeds: Annotated[
        str, typer.Option(metavar="N,N,…", help="One run for each seed, in OUT/seed-N, and their mean and deviation.")
    ] = "",
    checkpoint_steps: Annotated[
        int, typer.Option(help="Steps between saves within an epoch; each epoch ends with one.")
    ] = _TRAIN.checkpoint_steps,
    keep_checkpoints: Annotated[
        int, typer.Option(help="How many of the last checkpoints are kept to go on from.")
    ] = _TRAIN.keep_checkpoints,
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

    Example: `mmsent train --shards data/shards --out runs/first`
    """
    from mmsent.compute.distributed import joined, world_from_environment
    from mmsent.runs.folder import RUN, seed_folder
    from mmsent.training.start import train

    chosen = modality_names("modalities", modalities)
    trained = modality_names("train-encoders", train_encoders)
    model_config = checked(
        lambda: ModelConfig(
            modalities=tuple(name for name in MODALITIES if name in chosen),
            text_encoder=text_encoder,
            text_pooling=text_pooling,
            video_encoder=video_encoder,
            video_weights=video_weights,
            train_encoders=tuple(name for name in MODALITIES if name in trained),
            fusion=fusion,
            dialogue_turns=dialogue_turns,
        )
    )
    if shards_per_block != _TRAIN.shards_per_block and order != "block-shuffle":
        raise typer.BadParameter("--shards-per-block is for --order block-shuffle")
    for name, rate in (("text", text_learning_rate), ("video", video_learning_rate)):
        if rate != getattr(_TRAIN, f"{name}_learning_rate") and name not in trained:
            raise typer.BadParameter(f"--{name}-learning-rate is for --train-encoders {name}")
    if layer_decay != _TRAIN.layer_decay and not trained:
        raise typer.BadParameter("--layer-decay is for --train-encoders, which names none")
    for option, wanted, name in (("crop-and-flip", crop_and_flip, "video"), ("spec-augment", spec_augment, "audio")):
        if wanted and name not in chosen:
            raise typer.BadParameter(f"--{option} is for {name}, which --modalities leaves out")
    for option, changed, name in (
        ("text-pooling", text_pooling != _MODEL.text_pooling, "text"),
        ("video-encoder", video_encoder != _MODEL.video_encoder, "video"),
    ):
        if changed and name not in chosen:
            raise typer.BadParameter(f"--{option} is for {name}, which --modalities leaves out")
    if fusion != _MODEL.fusion and len(chosen) == 1:
        raise typer.BadParameter("--fusion is for several modalities")
    if modality_dropout and len(chosen) == 1:
        raise typer.BadParameter("--modality-dropout never hides the only modality there is")
    if seeds and seed != _TRAIN.seed:
        raise typer.BadParameter("give --seed or --seeds")
    train_config = checked(
        lambda: TrainConfig(
            batch_size=batch_size,
            max_epochs=epochs,
            learning_rate=learning_rate,
            text_learning_rate=text_learning_rate,
            video_learning_rate=video_learning_rate,
            layer_decay=layer_decay,
            warmup_steps=warmup_steps,
            schedule=schedule,
            early_stopping_patience=patience,
            selection=selection,
            max_grad_norm=max_grad_norm,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
            modality_dropout=modality_dropout,
            crop_and_flip=crop_and_flip,
            spec_augment=spec_augment,
            ema_decay=ema_decay,
            accumulation_steps=accumulation_steps,
            compile=compile_encoders,
            precision=precision,
            deterministic=deterministic,
            seed=seed,
            order=order,
            shards_per_block=shards_per_block,
            num_readers=readers,
            check=check,
            checkpoint_steps=checkpoint_steps,
            keep_checkpoints=keep_checkpoints,
        )
    )
    if seeds and (out / RUN).exists():
        raise typer.BadParameter(f"--out {out} holds a single run: choose another folder for --seeds")
    runs = {number: seed_folder(out, number) for number in _seed_numbers(seeds)} if seeds else {seed: out}
    configs = {number: checked(partial(replace, train_config, seed=number)) for number in runs}
    world = world_from_environment()
    results: dict[int, TrainResult] = {}
    with joined(world):
        if not world.is_first:
            logging.getLogger().setLevel(logging.WARNING)
        for number, run in runs.items():
            if seeds and world.is_first:
                _LOG.info("seed %d, in %s", number, run)
            with training_bars(shown=world.is_first) as (on_step, on_epoch, on_exit):
                results[number] = train(
                    shards,
                    run,
                    cache=url_cache(shards, cache, cache_size),
                    model_config=model_config,
                    train_config=configs[number],
                    resume=resume,
                    profile=profile,
                    world=world,
                    on_step=on_step,
                    on_epoch=on_epoch,
                    on_exit=on_exit,
                )
            if results[number].signum:
                break
    if world.is_first:
        _print_training(shards, out, results, many=bool(seeds), as_json=as_json)
    if signum := results[number].signum:
        raise typer.Exit(128 + signum)


def _print_training(shards: str, out: Path, results: dict[int, "TrainResult"], *, many: bool, as_json: bool) -> None:
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
    print_next(f"mmsent evaluate --shards {shlex.quote(shards)} --run {shlex.quote(str(out))} --split test")
