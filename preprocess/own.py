"""Anybody's own clips, listed in one CSV -> utterances. `docs/own-data.md` is the normative text."""

import re
from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath

from preprocess.annotations import Dataset, DatasetSplit, Span, Utterance
from preprocess.errors import DatasetError
from preprocess.meld import normalise_text, parse_time
from preprocess.table import Row, read_columns, read_table, value_of
from shards.errors import describe
from shards.schema import SPLITS, LabelSet, check_key

__all__ = ["OWN_CSV", "is_own", "read_own"]

OWN_CSV = "utterances.csv"
REQUIRED = ("id", "split", "text", "path")
OPTIONAL = ("start", "end", "dialogue", "turn", "speaker")

_TASK = re.compile(r"[a-z][a-z0-9_]*")


def is_own(root: Path) -> bool:
    """Whether this is a CSV with the columns of `REQUIRED`, or a folder with one called `utterances.csv`."""
    return set(REQUIRED) <= set(read_columns(_csv_of(root)))


def read_own(root: Path) -> Dataset:
    """Read a CSV of own clips; their paths are relative to its folder.

    Args:
        root: The CSV, or the folder of an `utterances.csv`.

    Raises:
        DatasetError: if it cannot be read, a row is not as it must be, or there is no label to learn.
    """
    path = _csv_of(root)
    if not path.is_file():
        then = "give a CSV as docs/own-data.md describes it, or the folder of one"
        raise DatasetError(describe("there is no such CSV", file=path, then=then))
    columns = read_columns(path)
    tasks = tuple(name for name in columns if name not in (*REQUIRED, *OPTIONAL) and not name.startswith("_"))
    bad = [name for name in tasks if not _TASK.fullmatch(name)]
    if bad or not tasks or len(set(columns)) != len(columns):
        what = f"columns that are no label task: {', '.join(map(repr, bad))}" if bad else "there is no column of labels"
        if len(set(columns)) != len(columns):
            what = "two columns have the same name"
        then = "name each task in lower case, like `emotion`; a name that begins with _ is not read"
        raise DatasetError(describe(what, file=path, then=then))
    turns: Counter[str] = Counter()
    seen: set[str] = set()

    def parse(values: Row) -> Utterance:
        row = _parse_row(path.parent, values, tasks, turns)
        if row.key in seen:
            raise ValueError(f"id {row.utterance_id!r} comes twice in {row.split}")
        seen.add(row.key)
        turns[f"{row.split} {row.dialogue_id}"] += 1
        return row

    rows = read_table(path, REQUIRED, parse)
    label_sets = tuple(LabelSet(task=task, names=tuple(sorted({row.labels[task] for row in rows}))) for task in tasks)
    for labels in label_sets:
        if len(labels.names) < 2:
            then = "a task needs two labels; a column that is none begins with _"
            raise DatasetError(describe(f"{labels.task} is {labels.names[0]!r} in every row", file=path, then=then))
    found = {split: tuple(row for row in rows if row.split == split) for split in SPLITS}
    return Dataset(
        root=path.parent,
        adapter="csv",
        label_sets=label_sets,
        splits=tuple(
            DatasetSplit(
                name=split,
                csv=path.name,
                clip_folder="",
                utterances=utterances,
                num_files=len({row.clip for row in utterances if row.clip}),
                orphan_clips=(),
                twins=(),
                ignored_files=(),
            )
            for split, utterances in found.items()
            if utterances
        ),
        missing_splits=tuple(split for split, utterances in found.items() if not utterances),
        other_csvs=(),
    )


def _csv_of(root: Path) -> Path:
    return root / OWN_CSV if root.is_dir() else root


def _parse_row(root: Path, values: Row, tasks: tuple[str, ...], turns: Counter[str]) -> Utterance:
    value = partial(value_of, values)
    split = value("split")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, not one of {', '.join(SPLITS)}")
    key = f"{split}-{value('id')}"
    check_key(key)
    labels = {task: value(task).strip() for task in tasks}
    if empty := [task for task, label in labels.items() if not label]:
        raise ValueError(f"{', '.join(empty)} is empty: every row needs its label")
    path = PurePosixPath(value("path"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"path must be that of a file below the CSV's folder, got {value('path')!r}")
    text = normalise_text(value("text"))
    dialogue_id = values.get("dialogue") or value("id")
    return Utterance(
        key=key,
        split=split,
        dialogue_id=dialogue_id,
        utterance_id=value("id"),
        turn_index=_turn(values.get("turn") or "", turns[f"{split} {dialogue_id}"]),
        speaker=values.get("speaker") or "",
        text=text,
        text_repaired=text != value("text"),
        labels=labels,
        clip=path.as_posix() if (root / path).is_file() else "",
        clip_name=path.as_posix(),
        span=(span := _span(values.get("start") or "", values.get("end") or "")),
        cut_by_span=span is not None,
    )


def _turn(text: str, place: int) -> int:
    """Return the turn a row gives, or its place among the rows of its dialogue, from 0."""
    if not text:
        return place
    if not text.strip().isdecimal():
        raise ValueError(f"turn must be a whole number from 0, got {text!r}")
    return int(text)


def _span(start: str, end: str) -> Span | None:
    if not start and not end:
        return None
    if not (start and end):
        raise ValueError("start and end go together: one of them is empty")
    span = Span(start_seconds=_seconds(start), end_seconds=_seconds(end))
    if span.seconds <= 0:
        raise ValueError(f"end must be after start, got {start} and {end}")
    return span


def _seconds(text: str) -> float:
    """Parse seconds, like 12.5, or a time, like 0:00:12.500."""
    if ":" in text:
        return parse_time(text)
    try:
        seconds = float(text)
    except ValueError as exc:
        raise ValueError(f"{text!r} is neither seconds nor a time like 0:00:12.500") from exc
    if not 0 <= seconds < 1e6:
        raise ValueError(f"{text!r} is no time within a file")
    return seconds
