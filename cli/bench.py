"""The command that measures."""

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.drawing import print_json, print_timings, stdout
from cli.options import (
    ALL_MODALITIES,
    AccumulationOption,
    BatchSizeOption,
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
    core_count,
    modality_names,
)
from cli.progress import bars_by_name
from mmsent.config import ModelConfig, TrainConfig
from shards.errors import ShardError, describe
from shards.schema import MODALITIES

__all__ = ["bench_command"]

_MODEL = ModelConfig()
_TRAIN = TrainConfig()


def bench_command(
    shards: Annotated[str, typer.Option(help="Folder of shards, on this machine.")],
    split: Annotated[str, typer.Option(help="Split whose shards are read.")] = "train",
    raw: Annotated[
        Path | None, typer.Option(metavar="MELD", help="The raw MELD folder: also time decoding on every access.")
    ] = None,
    text_encoder: TextEncoderOption = _MODEL.text_encoder,
    text_pooling: TextPoolingOption = _MODEL.text_pooling,
    video_encoder: VideoEncoderOption = _MODEL.video_encoder,
    video_weights: VideoWeightsOption = _MODEL.video_weights,
    modalities: ModalitiesOption = ALL_MODALITIES,
    train_encoders: TrainEncodersOption = "",
    batch_size: BatchSizeOption = _TRAIN.batch_size,
    accumulation_steps: AccumulationOption = _TRAIN.accumulation_steps,
    precision: PrecisionOption = _TRAIN.precision,
    compile_encoders: CompileOption = _TRAIN.compile,
    readers: ReadersOption = _TRAIN.num_readers,
    samples: Annotated[int, typer.Option(help="How many samples the loaders read in a round, about.")] = 2000,
    seconds: Annotated[float, typer.Option(help="How long the trainer is timed in a round, about.")] = 5.0,
    rounds: Annotated[int, typer.Option(help="Rounds, all ways in turns; one more is not counted.")] = 5,
    plot: Annotated[Path | None, typer.Option(help="Write a chart to this PNG, too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine: memory, the loader, what others would use, the trainer; and say what bounds training.

    All in one run, in turns, medians over the rounds. What cannot be measured here stands in the table with its reason.

    Example: `mmsent bench --shards data/shards --plot bench.png`
    """
    from mmsent.bench import file_ways, loader_ways, train_ways
    from mmsent.machine import describe_machine, describe_samples
    from mmsent.plots import plot_timings
    from mmsent.verdict import verdict
    from shards.remote import is_url
    from shards.store import open_split
    from shards.timing import measure

    if samples < 1 or rounds < 1 or not (math.isfinite(seconds) and seconds > 0):
        raise typer.BadParameter("--samples, --rounds and --seconds must be above 0")
    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise typer.BadParameter("--plot must be a PNG in a folder that exists")
    chosen, trained = modality_names("modalities", modalities), modality_names("train-encoders", train_encoders)
    model_config = checked(
        lambda: ModelConfig(
            modalities=tuple(name for name in MODALITIES if name in chosen),
            text_encoder=text_encoder,
            text_pooling=text_pooling,
            video_encoder=video_encoder,
            video_weights=video_weights,
            train_encoders=tuple(name for name in MODALITIES if name in trained),
        )
    )
    train_config = checked(
        lambda: TrainConfig(
            batch_size=batch_size,
            accumulation_steps=accumulation_steps,
            precision=precision,
            compile=compile_encoders,
            num_readers=readers,
        )
    )
    if is_url(shards):
        then = "copy the shards to a disk of this machine first, or look at `wait` in `mmsent train --shards URL`"
        raise ShardError(describe("bench measures shards on this machine, not behind a URL", file=shards, then=then))
    opened = open_split(shards, split)
    measured_on = {"machine": describe_machine(), "samples": describe_samples(opened, batch_size=batch_size)}
    tried = sorted({*range(1, min(4, max(2, core_count())) + 1), readers})
    ways = loader_ways(opened, num_samples=samples, batch_size=batch_size, readers=tried)
    with file_ways(opened, batch_size=batch_size) as from_files, bars_by_name() as on_progress:
        ways += from_files
        if raw is not None:
            from preprocess.onthefly import on_the_fly_ways  # with the decoders, which nothing else here needs

            ways += on_the_fly_ways(raw, num_clips=12)
        ways += train_ways(opened, model_config=model_config, train_config=train_config, seconds=seconds)
        timings = measure(ways, rounds=rounds, on_progress=partial(on_progress, "measuring"))
    words = verdict(timings)
    if plot is not None:
        plot_timings(timings, plot)
    if as_json:
        measured = [{**asdict(timing), "median": timing.median} for timing in timings]
        print_json({**measured_on, "rounds": rounds, "timings": measured, "verdict": words})
        return
    print_timings(timings)
    for line in measured_on.values():
        stdout.print(escape(line), highlight=False, soft_wrap=True)
    for line in words:
        stdout.print(f"- {escape(line)}", highlight=False, soft_wrap=True)
    if plot is not None:
        stdout.print(f"Chart: {escape(str(plot))}", highlight=False, soft_wrap=True)
