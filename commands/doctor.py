"""`mmsent doctor`: what is wrong with a folder of raw clips."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from commands.options import JsonOption, checked, worker_count
from commands.progress import bars_by_name
from commands.terminal import print_json, stdout

if TYPE_CHECKING:
    from preprocess.doctor.diagnose import Diagnosis

__all__ = ["doctor_command"]


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
    from preprocess.doctor.diagnose import diagnose, diagnosis_to_json
    from preprocess.doctor.html_report import render_html
    from shards.files import publish

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
        _print_diagnosis(diagnosis)
        if html is not None:
            stdout.print(f"Report: {escape(str(html))}", highlight=False, soft_wrap=True)
    if diagnosis.count("error"):
        raise typer.Exit(1)


_FIRST = 3
"""Findings of a kind that are shown; `--json` and `--html` have the others."""


def _print_diagnosis(diagnosis: "Diagnosis") -> None:
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
