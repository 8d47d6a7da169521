"""`mmsent preprocess`: raw clips to shards."""

import json
import logging
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from commands.config_file import ConfigOption, SetOption, ShowConfigOption, print_config, read_settings
from commands.options import JsonOption, checked, worker_count
from commands.progress import bars_by_name
from commands.terminal import print_json, print_next, size_text, stdout
from preprocess.config import (
    DatasetFormat,
    Part,
    PreprocessConfig,
    Preset,
    max_tokens_for,
    preset,
)
from shards.errors import ShardError, describe
from shards.schema import MODALITIES

if TYPE_CHECKING:
    from preprocess.building.estimate import Estimate
    from preprocess.building.report import SplitReport

__all__ = ["preprocess_command"]

_LOG = logging.getLogger(__name__)
_PREPROCESS = PreprocessConfig()
_MAX_TOKENS = "preprocess.max_tokens"


def preprocess_command(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Folder of MELD or EmoryNLP, in any known layout, or a CSV of clips."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the shards. Run again with the same folder to go on or update.",
            show_default="the name of DATA and -shards, here",
        ),
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    show_config: ShowConfigOption = False,
    kind: Annotated[
        DatasetFormat, typer.Option("--format", help="What DATA is; auto looks at the names of its files.")
    ] = "auto",
    preset_name: Annotated[
        Preset, typer.Option("--preset", help="Where the choices below begin; tutorial: 30 first frames of 224x224.")
    ] = "default",
    text_encoder: Annotated[
        str | None,
        typer.Option(
            help="Whose tokenizer: a Hugging Face name, a folder, or `scratch` (learned from train).",
            show_default=_PREPROCESS.text_encoder,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Earlier utterances of the dialogue in an utterance's tokens, with speakers.",
            show_default=str(_PREPROCESS.context_utterances),
        ),
    ] = None,
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
    folder of shards without it, `mmsent preprocess meld/ --context 2` decodes nothing again.

    All other choices are keys of `--config FILE.toml` and `--set KEY=VALUE` (docs/config.md).

    Example: `mmsent preprocess meld/`
    """
    from preprocess.building.build import build_shards, check_run
    from preprocess.building.estimate import estimate_run
    from preprocess.building.feature_spec import build_tokenizer
    from preprocess.building.report import REPORT_NAME, report_splits, report_to_json
    from preprocess.datasets.adapters import read_dataset
    from shards.files import publish

    height, width = (None, None) if size is None else _frame_size(size)
    settings = read_settings(
        "preprocess",
        file=config,
        assignments=assignments,
        options={
            "preprocess.text_encoder": text_encoder,
            "preprocess.context_utterances": context,
            "preprocess.num_frames": frames,
            "preprocess.height": height,
            "preprocess.width": width,
        },
    )
    choices = settings.make("preprocess", preset(preset_name))
    derived = () if settings.gives(_MAX_TOKENS) else (_MAX_TOKENS,)
    if derived:
        choices = replace(choices, max_tokens=max_tokens_for(choices.context_utterances))
    if show_config:
        print_config("preprocess", {"preprocess": choices}, derived=derived)
        return
    if data is None:
        raise typer.BadParameter("give DATA, a folder of clips and their labels, or a CSV that lists them")
    num_workers = checked(lambda: worker_count(workers))
    share = _part_of_run(part)
    if out is None:
        out = _default_out(data)
        _LOG.info("the shards go to %s", out)
    dataset = read_dataset(data, kind)
    for split in dataset.missing_splits:
        _LOG.warning("there are no annotations of %s: the split is left out", split)
    for path in dataset.other_csvs:
        _LOG.warning("not read, because there is one higher up: %s", path)
    tokenizer = build_tokenizer(dataset, choices)
    if dry_run:
        claim = check_run(dataset, out, config=choices, tokenizer=tokenizer, remake=remake)
        estimate = estimate_run(dataset, out, config=choices, spec=claim.spec, part=share, num_workers=num_workers)
        if as_json:
            print_json({**asdict(estimate), "fits": estimate.fits})
        else:
            _print_estimate(estimate, out, part=share, num_workers=num_workers)
        return
    with bars_by_name() as on_progress:
        made = build_shards(
            dataset,
            out,
            config=choices,
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
    _print_reports(reports, out)
    local = choices.text_encoder if Path(choices.text_encoder).is_dir() else ""  # shards know it by its name alone
    print_next(f"mmsent train --shards {shlex.quote(str(out))}{f' --text-encoder {shlex.quote(local)}' * bool(local)}")


def _default_out(data: Path) -> Path:
    """Return where shards go that were given no folder.

    Raises:
        ShardError: if that name is taken by something else.
    """
    from preprocess.building.manifest import MANIFEST_NAME

    place = data.resolve()
    out = Path(f"{place.stem if place.is_file() else place.name or 'data'}-shards")
    if out.is_dir() and ((out / MANIFEST_NAME).is_file() or all(path.name.startswith(".") for path in out.iterdir())):
        return out
    if out.exists() or out.is_symlink():
        kind = "a folder that holds no shards of ours" if out.is_dir() else "a file"
        what = f"the shards would go to {out}, and there is {kind} of this name"
        raise ShardError(describe(what, file=out.absolute(), then="give another folder by `--out`"))
    return out


def _print_reports(reports: list["SplitReport"], out: Path) -> None:
    """Draw what the splits hold and what was found odd, group by group."""
    table = Table(title=f"Shards in {escape(str(out))}")
    for column in ("split", "rows", "samples", *MODALITIES, "made", "kept", "size"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for item in reports:
        usable = [str(item.usable[name]) for name in MODALITIES]
        kept = item.num_shards - item.num_shards_made
        table.add_row(
            item.split, str(item.num_rows), str(item.num_samples), *usable, str(item.num_shards_made), str(kept),
            size_text(item.num_bytes),
        )  # fmt: skip
    stdout.print(table)
    events = Table(title="What was found", show_lines=False)
    for column in ("split", "what", "count", "first of them"):
        events.add_column(column, justify="right" if column == "count" else "left", overflow="fold")
    for item in reports:
        for what, details in _events(item).items():
            events.add_row(item.split, what, str(len(details)), escape(details[0]))
    if events.row_count:
        stdout.print(events)
    where = escape(str(out / "report.json"))
    what = "Row by row" if events.row_count else "Nothing odd was found. Row by row"
    stdout.print(f"{what}: {where}", highlight=False, soft_wrap=True)


def _events(item: "SplitReport") -> dict[str, list[str]]:
    """Group everything odd about a split by what it is."""
    events: dict[str, list[str]] = {}
    for absent in item.absent:
        why = absent.reason.partition(":")[0]
        events.setdefault(f"no {absent.modality}: {why}", []).append(f"{absent.key}: {absent.reason}")
    for note in item.notes:
        events.setdefault(note.kind.replace("_", " "), []).append(f"{note.key}: {note.detail}")
    for what, files in (("clip without a row", item.orphan_clips), ("file that is no clip", item.ignored_files)):
        if files:
            events[what] = files
    return events


def _print_estimate(estimate: "Estimate", out: Path, *, part: Part, num_workers: int) -> None:
    """Draw what a run would take."""
    share = f", part {part.number} of {part.count}" if part.count > 1 else ""
    table = Table(title=f"What preprocessing would take{share}", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    hours = f"{estimate.annotated_hours:.2f} hours by the annotations"
    table.add_row("rows", f"{estimate.num_rows:,}")
    table.add_row("clips", f"{estimate.num_clips:,}, {size_text(estimate.clip_bytes)}, {hours}")
    for name, size in estimate.shard_bytes.items():
        table.add_row(f"shards: {'all the rest' if name == 'text' else name}", size_text(size))
    table.add_row("shards in all", size_text(sum(estimate.shard_bytes.values())))
    if estimate.num_rows_done:
        table.add_row("rows in finished shards", f"{estimate.num_rows_done:,}")
        table.add_row("more disk than now", size_text(max(0, estimate.needed_bytes)))
    table.add_row("free disk", size_text(estimate.free_bytes))
    rate = f"{estimate.clips_per_second:.1f} clips/s on {num_workers} workers, from {estimate.clips_measured} clips"
    table.add_row("measured", rate if estimate.clips_measured else "nothing is to be decoded")
    table.add_row("time for the rest", f"{estimate.minutes:.1f} minutes")
    stdout.print(table)
    if not estimate.fits:
        _LOG.warning(
            "the disk of %s has no room for these shards: fewer --frames, a smaller --size or "
            "`--set preprocess.storage=jpeg`",
            out,
        )


def _frame_size(text: str) -> tuple[int, int]:
    """Return height and width of `--size`."""
    height, _, width = text.lower().partition("x")
    if not (text.isascii() and height.isdigit() and width.isdigit()):
        raise typer.BadParameter(f"--size is HEIGHTxWIDTH in pixels, like 112x112; got {text!r}")
    return int(height), int(width)


def _part_of_run(text: str) -> Part:
    """Return what `--part` asks for."""
    number, _, count = text.partition("/")
    if not (text.isascii() and number.isdigit() and count.isdigit()):
        raise typer.BadParameter(f"--part is I/N, like 2/8; got {text!r}")
    return checked(lambda: Part(number=int(number), count=int(count)))
