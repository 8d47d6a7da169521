"""`mmsent bench`: what this machine reads, decodes and trains in a second."""

import math
import statistics
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from commands.config_file import ConfigOption, SetOption, ShowConfigOption, print_config, read_settings
from commands.options import (
    BatchSizeOption,
    JsonOption,
    ModalitiesOption,
    PrecisionOption,
    TextEncoderOption,
    VideoWeightsOption,
    needed,
)
from commands.progress import bars_by_name
from commands.terminal import print_json, stdout
from mmsent.config import DataConfig, ModelConfig, TrainConfig, check_together
from shards.errors import ShardError, describe
from shards.machine import core_count

if TYPE_CHECKING:
    from mmsent.bench.timing import Group, Timing

__all__ = ["bench_command"]


def bench_command(
    shards: Annotated[str | None, typer.Option(help="Folder of shards, on this machine.")] = None,
    split: Annotated[str, typer.Option(help="Split whose shards are read.")] = "train",
    raw: Annotated[
        Path | None, typer.Option(metavar="MELD", help="The raw MELD folder: also time decoding on every access.")
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    show_config: ShowConfigOption = False,
    text_encoder: TextEncoderOption = None,
    video_weights: VideoWeightsOption = None,
    modalities: ModalitiesOption = None,
    batch_size: BatchSizeOption = None,
    precision: PrecisionOption = None,
    samples: Annotated[int, typer.Option(help="How many samples the loaders read in a round, about.")] = 2000,
    seconds: Annotated[float, typer.Option(help="How long the trainer is timed in a round, about.")] = 5.0,
    rounds: Annotated[int, typer.Option(help="Rounds, all cases in turns; one more is not counted.")] = 5,
    plot: Annotated[Path | None, typer.Option(help="Write a chart to this PNG, too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine: memory, the loader, what others would use, the trainer; and say what bounds training.

    All in one run, in turns, medians over the rounds. What cannot be measured here stands in the table with its reason.

    The model and its training are set as for `mmsent train`, whose files `--config` takes, too.

    Example: `mmsent bench --shards meld-shards --plot bench.png`
    """
    from mmsent.bench.cases import file_cases, loader_cases, train_cases
    from mmsent.bench.chart import plot_timings
    from mmsent.bench.machine import describe_machine, describe_samples
    from mmsent.bench.timing import Case, measure
    from mmsent.bench.verdict import verdict
    from shards.splits import open_split
    from shards.storage.url_folder import is_url

    if samples < 1 or rounds < 1 or not (math.isfinite(seconds) and seconds > 0):
        raise typer.BadParameter("--samples, --rounds and --seconds must be above 0")
    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise typer.BadParameter("--plot must be a PNG in a folder that exists")
    settings = read_settings(
        "bench",
        file=config,
        assignments=assignments,
        options={
            "data.shards": shards,
            "model.text_encoder": text_encoder,
            "model.video_weights": video_weights,
            "model.modalities": modalities,
            "train.batch_size": batch_size,
            "train.precision": precision,
        },
    )
    data_config = settings.make("data", DataConfig())
    model_config = settings.make("model", ModelConfig())
    train_config = settings.make("train", TrainConfig())
    settings.checked(lambda: check_together(model_config, train_config))
    if show_config:
        print_config("bench", {"data": data_config, "model": model_config, "train": train_config})
        return
    where = needed(data_config.shards)
    if is_url(where):
        then = "copy the shards to a disk of this machine first, or look at `wait` in `mmsent train --shards URL`"
        raise ShardError(describe("bench measures shards on this machine, not behind a URL", file=where, then=then))
    opened = open_split(where, split)
    measured_on = {
        "machine": describe_machine(),
        "samples": describe_samples(opened, batch_size=train_config.batch_size),
    }
    tried = sorted({*range(1, min(4, max(2, core_count())) + 1), train_config.num_readers})
    cases = loader_cases(opened, num_samples=samples, batch_size=train_config.batch_size, readers=tried)
    with file_cases(opened, batch_size=train_config.batch_size) as from_files, bars_by_name() as on_progress:
        cases += from_files
        if raw is not None:
            from preprocess.on_the_fly.bench_cases import on_the_fly_ways  # with the decoders, needed nowhere else here

            decoding = on_the_fly_ways(raw, num_clips=12)
            cases += [Case(name=name, kind="other", group="decoding", run=run) for name, run in decoding.items()]
        cases += train_cases(opened, model_config=model_config, train_config=train_config, seconds=seconds)
        timings = measure(cases, rounds=rounds, on_progress=partial(on_progress, "measuring"))
    words = verdict(timings)
    if plot is not None:
        plot_timings(timings, plot)
    if as_json:
        measured = [{**asdict(timing), "median": timing.median} for timing in timings]
        print_json({**measured_on, "rounds": rounds, "timings": measured, "verdict": words})
        return
    _print_timings(timings)
    for line in measured_on.values():
        stdout.print(escape(line), highlight=False, soft_wrap=True)
    for line in words:
        stdout.print(f"- {escape(line)}", highlight=False, soft_wrap=True)
    if plot is not None:
        stdout.print(f"Chart: {escape(str(plot))}", highlight=False, soft_wrap=True)


def _print_timings(timings: list["Timing"]) -> None:
    """Draw what `mmsent bench` measured."""
    from mmsent.bench.verdict import three_figures

    table = Table(title="Samples per second, medians", caption=_TIMINGS_CAPTION, caption_justify="left")
    for column in ("case", "samples/s", "from", "to", "of\nlimit", "CPU s\n/1,000"):
        table.add_column(column, justify="left" if column == "case" else "right", overflow="fold")
    limits = {
        timing.group: timing for timing in timings if timing.kind in ("limit", "headroom") and timing.samples_per_second
    }
    group = ""
    for timing in sorted(timings, key=lambda timing: list(_GROUPS).index(timing.group)):
        if timing.group != group:
            group = timing.group
            table.add_section()
            table.add_row(f"[bold]{_GROUPS[timing.group]}[/]")
        if timing.failure:
            table.add_row(escape(timing.name), "—")
            continue
        share = f"{timing.times(limits[group]):.2f}" if group in limits else ""
        seconds = statistics.median(timing.cpu_seconds_per_1000)
        cpu = f"{seconds:.3f}" if seconds < 1 else three_figures(seconds)
        table.add_row(escape(timing.name), *map(three_figures, (timing.median, *timing.spread)), share, cpu)
    stdout.print(table)
    for failure in dict.fromkeys(timing.failure for timing in timings if timing.failure):
        names = "; ".join(timing.name for timing in timings if timing.failure == failure)
        stdout.print(f"Not measured: {escape(names)}: {escape(failure)}", highlight=False, soft_wrap=True)


_GROUPS: dict["Group", str] = {
    "loading": "batches in memory",
    "reading": "…and every byte read",
    "decoding": "samples from raw clips",
    "training": "training",
}


_TIMINGS_CAPTION = (
    "Of limit: of copying memory; in training, of a model that never waits. Every byte read: once, by one thread, as "
    "whoever uses a batch must. CPU: seconds of all threads and workers for 1,000 samples."
)
