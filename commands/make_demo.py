"""`mmsent make-demo`: a small data set to try everything on."""

import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from commands.options import JsonOption, checked, worker_count
from commands.progress import move_bar, progress_bars
from commands.terminal import print_json, print_next, size_text, stdout
from preprocess.config import (
    DemoConfig,
)

__all__ = ["make_demo_command"]

_DEMO = DemoConfig()


def make_demo_command(
    directory: Annotated[Path, typer.Argument(help="Folder to make; it must not exist or be empty.")],
    utterances: Annotated[int, typer.Option(help="Clips in all, over the three splits.")] = _DEMO.num_utterances,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = _DEMO.seed,
    height: Annotated[
        int, typer.Option(help="Rows of pixels of a clip; 720 as in MELD, to measure speed on.")
    ] = _DEMO.height,
    workers: Annotated[int | None, typer.Option(help="Processes that encode; as many as cores if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a small MELD-format data set to try everything on.

    Three CSVs in MELD's columns and mp4 clips with picture and sound, whose emotion can be learned from the text, the
    sound or the picture alone, and better from all three.

    Example: `mmsent make-demo data/demo --utterances 120`
    """
    from preprocess.demo.make_demo import make_demo

    config = checked(
        lambda: DemoConfig(num_utterances=utterances, seed=seed, height=height, num_workers=worker_count(workers))
    )
    with progress_bars() as progress:
        task = progress.add_task("clips", total=None)
        summary = make_demo(directory, config, on_progress=partial(move_bar, progress, task))
    if as_json:
        print_json(asdict(summary))
        return
    rows = ", ".join(f"{split} {count}" for split, count in summary.num_rows.items())
    size = f"{summary.num_clips} clips, {summary.footage_seconds:.0f} s of footage, {size_text(summary.total_bytes)}"
    stdout.print(f"Demo data set in {escape(str(directory))}: {size}; rows: {rows}", highlight=False, soft_wrap=True)
    print_next(f"mmsent preprocess {shlex.quote(str(directory))} --text-encoder scratch")
