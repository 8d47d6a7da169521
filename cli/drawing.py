"""What the `mmsent` command draws on the terminal: tables and lines of what was found, made or measured."""

import json
import logging
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from preprocess.config import Part
from shards.schema import MODALITIES

if TYPE_CHECKING:
    from mmsent.report import Evaluation
    from mmsent.results import EpochResult
    from mmsent.seeds import ScoreOverSeeds
    from preprocess.doctor import Diagnosis
    from preprocess.estimate import Estimate
    from preprocess.report import SplitReport
    from shards.timing import Group, Timing
    from shards.verify import SplitCheck

__all__ = [
    "epoch_line",
    "print_checks",
    "print_diagnosis",
    "print_estimate",
    "print_evaluation",
    "print_json",
    "print_next",
    "print_reports",
    "print_scores_over_seeds",
    "print_timings",
    "size_text",
    "stderr",
    "stdout",
]

_LOG = logging.getLogger(__name__)

stdout = Console()
stderr = Console(stderr=True)

_FIRST = 3
"""Findings of a kind that are shown; `--json` and `--html` have the others."""


def print_diagnosis(diagnosis: "Diagnosis") -> None:
    """Draw what `mmsent doctor` found."""
    table = Table(title=f"MELD in {escape(str(diagnosis.root))}")
    for column in ("split", "rows", "clips", "annotations", "clip folder"):
        table.add_column(column, overflow="fold")
    for item in diagnosis.splits:
        counts = (f"{item.num_rows:,} of {item.official_rows:,}", f"{item.num_clips:,} of {item.official_clips:,}")
        table.add_row(item.name, *counts, escape(item.csv), escape(item.clip_folder or "none"))
    stdout.print(table)
    line = partial(stdout.print, highlight=False, soft_wrap=True)
    for item in diagnosis.splits:
        line(f"{item.name} text: {escape(item.text_form)}{', byte for byte' if item.table else ''}")
    groups = diagnosis.by_detector()
    for severity, colour in (("error", "red"), ("warning", "yellow"), ("note", "blue")):
        for name, group in groups.items():
            if group[0].severity == severity:
                line(f"\n[{colour}]{severity}[/] [bold]{name}[/]: {escape(group[0].title)} ({len(group):,})")
                for finding in group[:_FIRST]:
                    line(f"  {escape(finding.where)}: {escape(finding.detail)}")
                if len(group) > _FIRST:
                    line(f"  and {len(group) - _FIRST:,} more")
    for problem, entries in diagnosis.by_problem().items():
        line(f"\n[bold]publicly known[/]: {escape(problem)} ({len(entries):,}) {escape(' '.join(entries[0].links))}")
        for entry in entries[:_FIRST]:
            line(f"  {entry.split} {escape(entry.clip)}: {escape(entry.verdict)}")
        if len(entries) > _FIRST:
            confirmed = sum(bool(entry.confirmed_by) for entry in entries)
            line(f"  and {len(entries) - _FIRST:,} more; of all, {confirmed:,} confirmed")
    counted = ", ".join(f"{diagnosis.count(severity):,} {severity}s" for severity in ("error", "warning", "note"))
    line(f"\n{counted} ({'every clip was opened' if diagnosis.deep else 'headers only; --deep opens every clip'})")


def print_reports(reports: list["SplitReport"], out: Path) -> None:
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


def print_estimate(estimate: "Estimate", out: Path, *, part: Part, num_workers: int) -> None:
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
            "the disk of %s has no room for these shards: fewer --frames, a smaller --size or --storage jpeg", out
        )


def print_checks(checks: list["SplitCheck"], *, repair: bool) -> None:
    """Draw what `mmsent verify` found; without `repair`, also the remedy."""
    table = Table("split", "shards", "samples", "size", "problems")
    for check in checks:
        found = f"[red]{len(check.problems)}[/]" if check.problems else "[green]none[/]"
        table.add_row(check.split, str(check.num_shards), str(check.num_samples), size_text(check.num_bytes), found)
    stdout.print(table)
    for check in checks:
        for problem in check.problems:
            stdout.print(f"[red]{escape(problem.file)}[/]: {escape(problem.what)}", highlight=False, soft_wrap=True)
    if not repair and any(check.problems for check in checks):
        print_next("copy these files again, or make them again with `mmsent verify SHARDS --repair DATA`")


def print_evaluation(evaluation: "Evaluation") -> None:
    """Draw the scores of each task."""
    for task, item in evaluation.scores.items():
        table = Table(title=f"{task} on {evaluation.split}, {item.num_samples} samples")
        for column in ("class", "precision", "recall", "F1", "samples", "predicted"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for one in item.classes:
            values = (f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", str(one.support))
            table.add_row(escape(one.name), *values, str(one.num_predicted))
        stdout.print(table)
        base = item.baseline
        stdout.print(
            f"weighted F1 [bold]{item.weighted_f1:.3f}[/], macro F1 {item.macro_f1:.3f}, accuracy {item.accuracy:.3f}; "
            f"always '{escape(base.label)}': {base.weighted_f1:.3f}, {base.macro_f1:.3f}, {base.accuracy:.3f}",
            highlight=False,
            soft_wrap=True,
        )
        if item.never_predicted:
            names = ", ".join(item.never_predicted)
            stderr.print(f"[yellow]warning:[/] never predicted: {escape(names)}", highlight=False, soft_wrap=True)
    stdout.print(
        f"Weights of epoch {evaluation.epoch + 1}, chosen on dev. All in {escape(str(evaluation.directory))}",
        highlight=False,
        soft_wrap=True,
    )


def print_scores_over_seeds(scores: list["ScoreOverSeeds"], *, split: str) -> None:
    """Draw the scores of the runs of several seeds: each, their mean and their deviation."""
    seeds = list(scores[0].by_seed) if scores else []
    table = Table(title=f"{split}, {len(seeds)} seed{'s' * (len(seeds) != 1)}")
    for column in ("task", "score", "mean", "deviation", *(f"seed {seed}" for seed in seeds)):
        table.add_column(column, justify="left" if column in ("task", "score") else "right", overflow="fold")
    for score in scores:
        values = [f"{value:.3f}" for value in score.by_seed.values()]
        deviation = f"{score.deviation:.3f}" if len(seeds) > 1 else "—"
        table.add_row(escape(score.task), score.score, f"[bold]{score.mean:.3f}[/]", deviation, *values)
    stdout.print(table)


def print_timings(timings: list["Timing"]) -> None:
    """Draw what `mmsent bench` measured."""
    from mmsent.verdict import three_figures

    table = Table(title="Samples per second, medians", caption=_TIMINGS_CAPTION, caption_justify="left")
    for column in ("way", "samples/s", "from", "to", "of\nlimit", "CPU s\n/1,000"):
        table.add_column(column, justify="left" if column == "way" else "right", overflow="fold")
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


def epoch_line(result: "EpochResult") -> str:
    """Return the line that stays on the screen of an epoch."""
    scores = " ".join(f"{task} {value:.3f}" for task, value in result.dev_weighted_f1.items())
    return (
        f"epoch {result.epoch + 1}  train {result.train_loss:.3f}  dev {result.dev_loss:.3f}  wF1 {scores}  "
        f"{result.samples_per_second:.0f}/s  wait {result.wait_share:.1%}{'  best' if result.best else ''}"
    )


def print_next(command: str) -> None:
    """Print what to run next."""
    stdout.print(f"Next: {escape(command)}", highlight=False, soft_wrap=True)


def size_text(count: int) -> str:
    """Return bytes in words: `1.5 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def print_json(value: object) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")
