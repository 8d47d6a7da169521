"""The commands that look at raw clips and make shards of them."""

import json
import logging
import math
import shlex
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cli.drawing import (
    print_checks,
    print_diagnosis,
    print_estimate,
    print_json,
    print_next,
    print_reports,
    size_text,
    stdout,
)
from cli.options import JsonOption, checked, frame_size, part_of_run, worker_count
from cli.progress import bars_by_name, move_bar, progress_bars
from mmsent.config import ModelConfig
from preprocess.config import (
    DatasetFormat,
    Decoder,
    DemoConfig,
    PreprocessConfig,
    Preset,
    TestClips,
    max_tokens_for,
    preset,
)
from shards.schema import Storage

if TYPE_CHECKING:
    from shards.verify import SplitCheck

__all__ = ["doctor_command", "index_command", "make_demo_command", "preprocess_command", "verify_command"]

_LOG = logging.getLogger(__name__)

_DEMO = DemoConfig()
_PREPROCESS = PreprocessConfig()


def make_demo_command(
    directory: Annotated[Path, typer.Argument(help="Folder to make; it must not exist or be empty.")],
    utterances: Annotated[int, typer.Option(help="Clips in all, over the three splits.")] = _DEMO.num_utterances,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = _DEMO.seed,
    workers: Annotated[int | None, typer.Option(help="Processes that encode; as many as cores if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a small MELD-format data set to try everything on.

    Three CSVs in MELD's columns and mp4 clips with picture and sound, whose emotion can be learned from the text, the
    sound or the picture alone, and better from all three.

    Example: `mmsent make-demo data/demo --utterances 120`
    """
    from preprocess.demo import make_demo

    config = checked(lambda: DemoConfig(num_utterances=utterances, seed=seed, num_workers=worker_count(workers)))
    with progress_bars() as progress:
        task = progress.add_task("clips", total=None)
        summary = make_demo(directory, config, on_progress=partial(move_bar, progress, task))
    if as_json:
        print_json(asdict(summary))
        return
    rows = ", ".join(f"{split} {count}" for split, count in summary.num_rows.items())
    size = f"{summary.num_clips} clips, {summary.footage_seconds:.0f} s of footage, {size_text(summary.total_bytes)}"
    stdout.print(f"Demo data set in {escape(str(directory))}: {size}; rows: {rows}", highlight=False, soft_wrap=True)
    print_next(f"mmsent preprocess {shlex.quote(str(directory))} --out SHARDS --text-encoder scratch")


def doctor_command(
    meld: Annotated[Path, typer.Argument(help="Folder with MELD's CSVs and clips, in any of the known layouts.")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Open every clip: count its frames, decode its sound and some pictures.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as one self-contained file, too.")] = None,
    clip_timeout: Annotated[
        float, typer.Option(help="With --deep: seconds after which a clip is given up, plus 10 per megabyte.")
    ] = 60.0,
    workers: Annotated[
        int | None, typer.Option(help="With --deep: processes that open clips; as many as cores if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with a MELD folder, in seconds and without changing it.

    Compares rows and clips with the official counts, clips with their rows, and rows with each other; and says which of
    MELD's publicly known issues it found. Exit code 1 if there are errors: rows without picture or sound, splits that
    are not there, labels that contradict each other. Warnings and notes leave it 0.

    Example: `mmsent doctor MELD.Raw --html report.html`
    """
    from preprocess.doctor import diagnose, diagnosis_to_json
    from preprocess.doctor_html import render_html
    from shards.index import publish

    if not (math.isfinite(clip_timeout) and clip_timeout > 0):
        raise typer.BadParameter(f"--clip-timeout must be above 0, got {clip_timeout}")
    num_workers = checked(lambda: worker_count(workers))
    with bars_by_name() as on_progress:
        diagnosis = diagnose(
            meld, deep=deep, num_workers=num_workers, timeout_seconds=clip_timeout, on_progress=on_progress
        )
    if html is not None:
        publish(html, render_html(diagnosis).encode())
    if as_json:
        print_json(diagnosis_to_json(diagnosis))
    else:
        print_diagnosis(diagnosis)
        if html is not None:
            stdout.print(f"Report: {escape(str(html))}", highlight=False, soft_wrap=True)
    if diagnosis.count("error"):
        raise typer.Exit(1)


def preprocess_command(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder of MELD or EmoryNLP, in any known layout, or a CSV of clips.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the shards. Run again with the same folder to go on or update.")
    ],
    kind: Annotated[
        DatasetFormat, typer.Option("--format", help="What DATA is; auto looks at the names of its files.")
    ] = "auto",
    preset_name: Annotated[
        Preset, typer.Option("--preset", help="Where the choices below begin; tutorial: 30 first frames of 224x224.")
    ] = "default",
    text_encoder: Annotated[
        str, typer.Option(help="Whose tokenizer: a Hugging Face name, a folder, or `scratch` (learned from train).")
    ] = _PREPROCESS.text_encoder,
    context: Annotated[
        int,
        typer.Option(metavar="K", help="Earlier utterances of the dialogue in an utterance's tokens, with speakers."),
    ] = _PREPROCESS.context_utterances,
    frames: Annotated[
        int | None, typer.Option(help="Frames per clip.", show_default=str(_PREPROCESS.num_frames))
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Height and width of a frame in pixels.",
            show_default=f"{_PREPROCESS.height}x{_PREPROCESS.width}",
        ),
    ] = None,
    storage: Annotated[
        Storage, typer.Option(help="Of frames: raw values, or one JPEG per sample, decoded while training.")
    ] = _PREPROCESS.storage,
    hops: Annotated[
        int | None,
        typer.Option(
            help="Columns of the log-mel, 32 ms each, from the start of the sound.",
            show_default=str(_PREPROCESS.num_hops),
        ),
    ] = None,
    test_clips: Annotated[
        TestClips, typer.Option(help="For test rows with a final_videos_test twin: the better fit, the twin, or never.")
    ] = _PREPROCESS.test_clips,
    samples_per_shard: Annotated[int, typer.Option(help="Rows in a shard.")] = _PREPROCESS.samples_per_shard,
    decoder: Annotated[
        Decoder, typer.Option(help="decord, with PyAV for what it cannot read; or pyav, which skips unneeded frames.")
    ] = _PREPROCESS.decoder,
    clip_timeout: Annotated[
        float, typer.Option(help="Seconds after which a clip's decoder is killed, plus 10 per megabyte.")
    ] = _PREPROCESS.clip_timeout_seconds,
    max_failed_fraction: Annotated[
        float, typer.Option(help="Refuse a split when more of its rows have no picture (0 to 1).")
    ] = _PREPROCESS.max_failed_fraction,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="Make the I-th of N shares of the shards, here or on another machine.")
    ] = "1/1",
    remake: Annotated[
        bool, typer.Option("--remake", help="Decode pictures again if they are to be made in another way than before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Decode a few clips, and say what all would take; write nothing.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes that decode; as many as cores if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Decode every clip once and write WebDataset shards.

    Every row becomes a sample. A clip that is missing, broken or silent keeps its row, text and labels, with what it
    lacks marked absent and the reason in the report (also in OUT/report.json).

    DATA may also be a CSV that lists your own clips and their labels (docs/own-data.md).

    With `--context 2` the tokens of an utterance are `[CLS] Monica: … [SEP] Ross: … [SEP] Rachel: its text [SEP]`; in a
    folder of shards without it, `mmsent preprocess MELD.Raw --out data/shards --context 2` decodes nothing again.

    Example: `mmsent preprocess MELD.Raw --out data/shards`
    """
    from preprocess.adapters import read_dataset
    from preprocess.build import build_shards, build_tokenizer, check_run
    from preprocess.estimate import estimate_run
    from preprocess.report import REPORT_NAME, report_splits, report_to_json
    from shards.index import publish

    start = preset(preset_name)
    height, width = frame_size(size) if size is not None else (start.height, start.width)
    config = checked(
        lambda: replace(
            start,
            num_frames=start.num_frames if frames is None else frames,
            height=height,
            width=width,
            storage=storage,
            num_hops=start.num_hops if hops is None else hops,
            text_encoder=text_encoder,
            context_utterances=context,
            max_tokens=max_tokens_for(context),
            samples_per_shard=samples_per_shard,
            test_clips=test_clips,
            decoder=decoder,
            clip_timeout_seconds=clip_timeout,
            max_failed_fraction=max_failed_fraction,
        )
    )
    num_workers = checked(lambda: worker_count(workers))
    share = part_of_run(part)
    dataset = read_dataset(data, kind)
    for split in dataset.missing_splits:
        _LOG.warning("there are no annotations of %s: the split is left out", split)
    for path in dataset.other_csvs:
        _LOG.warning("not read, because there is one higher up: %s", path)
    tokenizer = build_tokenizer(dataset, config)
    if dry_run:
        claim = check_run(dataset, out, config=config, tokenizer=tokenizer, remake=remake)
        estimate = estimate_run(dataset, out, config=config, spec=claim.spec, part=share, num_workers=num_workers)
        if as_json:
            print_json({**asdict(estimate), "fits": estimate.fits})
        else:
            print_estimate(estimate, out, part=share, num_workers=num_workers)
        return
    with bars_by_name() as on_progress:
        made = build_shards(
            dataset,
            out,
            config=config,
            tokenizer=tokenizer,
            num_workers=num_workers,
            part=share,
            remake=remake,
            on_progress=on_progress,
        )
    reports = report_splits(dataset, out, made=made)
    value = report_to_json(dataset, reports)
    if all(item.finished for item in made.values()):
        publish(out / REPORT_NAME, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
    if as_json:
        print_json({**value, "made": {split: asdict(item) for split, item in made.items()}})
        return
    if missing := [name for item in made.values() for name in item.shards_missing]:
        num_made = sum(item.shards_made for item in made.values())
        stdout.print(
            f"Part {share.number} of {share.count} is done, {num_made} shards made. Other parts are not: "
            f"{len(missing)} shards are missing, {missing[0]} for one.",
            highlight=False,
            soft_wrap=True,
        )
        print_next("the other parts; whichever ends last finishes the splits. Made apart, copy them together and run")
        stdout.print(f"  mmsent index {shlex.quote(str(out))}", highlight=False, soft_wrap=True)
        return
    print_reports(reports, out)
    print_next(f"mmsent train --shards {shlex.quote(str(out))} --out RUN{_encoder_option(text_encoder)}")


def index_command(
    shards: Annotated[
        Path,
        typer.Argument(help="Folder of shards: one the parts were made or copied into, with their .work folders."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Finish splits whose shards were made in parts on machines that share no disk, or whose index is lost.

    Each part leaves its shards and what is recorded of them in the split's hidden .work folder. Copy all of it into one
    folder; when no shard is missing, this writes the index that makes a split readable.

    Of a split without a .work folder, a lost index or samples table is made again from the tars.

    Example: `mmsent index data/shards`
    """
    from preprocess.complete import complete_splits

    found = complete_splits(shards)
    if as_json:
        print_json(found)
        return
    words = ", ".join(f"{split} {count} shards" for split, count in found.items())
    stdout.print(f"Finished: {words}", highlight=False, soft_wrap=True)
    print_next(f"mmsent verify {shlex.quote(str(shards))}")


def verify_command(
    shards: Annotated[Path, typer.Argument(help="Folder of shards, or one split of it.")],
    repair: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Make broken shards, and no others, again from the data set they came from."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes for --repair; as many as cores if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check shards in full: sizes, digests, and every member of every sample. Exit code 1 if anything is wrong.

    Example: `mmsent verify data/shards`
    """
    from preprocess.complete import repair_shards, restore_tables
    from shards.index import INDEX_NAME, split_directories
    from shards.verify import verify_split

    if workers is not None and repair is None:
        raise typer.BadParameter("--workers is for --repair")
    num_workers = checked(lambda: worker_count(workers))

    def check_all() -> list["SplitCheck"]:
        if (shards / INDEX_NAME).is_file():
            directories = [shards]
        else:
            # A split with tars and no index is unfinished, one with an index and no tars was copied in part.
            found = {path.parent for pattern in ("*/*.tar", f"*/{INDEX_NAME}") for path in shards.glob(pattern)}
            directories = sorted(found) or list(split_directories(shards).values())
        checks = []
        with progress_bars() as progress:
            for directory in directories:
                task = progress.add_task(directory.name, total=None)
                checks.append(verify_split(directory, on_progress=partial(move_bar, progress, task)))
        return checks

    checks = check_all()
    if repair is not None and any(check.problems for check in checks):
        if not as_json:
            print_checks(checks, repair=True)
        broken = {check.split: check.broken_shards for check in checks}
        out = shards.parent if (shards / INDEX_NAME).is_file() else shards
        restore_tables(out, [check.split for check in checks if check.only_table_broken])
        if any(check.problems and not check.only_table_broken for check in checks):
            with bars_by_name() as on_progress:
                repair_shards(out, repair, broken=broken, num_workers=num_workers, on_progress=on_progress)
        checks = check_all()
    if as_json:
        print_json({check.split: asdict(check) for check in checks})
    else:
        print_checks(checks, repair=False)
    if any(check.problems for check in checks):
        raise typer.Exit(1)


def _encoder_option(name: str) -> str:
    return "" if name == ModelConfig().text_encoder else f" --text-encoder {shlex.quote(name)}"
