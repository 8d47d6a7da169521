"""Anybody's own clips, listed in one CSV -> utterances. `docs/own-data.md` is the normative text."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from preprocess.datasets.annotations import Dataset, DatasetSplit, Span, Utterance, by_turn
from preprocess.datasets.csv_rows import CsvRow, read_columns, read_csv, value_of
from preprocess.datasets.meld import normalise_text
from preprocess.errors import DatasetError
from shards.errors import describe
from shards.schema import SPLITS, LabelSet, check_key

__all__ = ["OWN_CSV", "is_own", "read_own"]

OWN_CSV = "utterances.csv"
REQUIRED = ("id", "split", "text", "path")
OPTIONAL = ("start", "end", "dialogue", "turn", "speaker")
RESERVED = ("key",)
"""No label task may have this name: `predictions.csv` has a column of it."""
MANY_LABELS = 20
"""A task of more labels than this, of which most belong to a single row, is a column of numbers or names instead."""

_TASK = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SECONDS = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE)
_TIME = re.compile(r"(?:([0-9]{1,3}):)?([0-5]?[0-9]):([0-5]?[0-9](?:[.,][0-9]+)?)")


def is_own(root: Path) -> bool:
    """Whether this is a CSV, or a folder with one called `utterances.csv`."""
    path = _csv_of(root)
    return path.suffix.lower() == ".csv" and path.is_file()


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
    tasks = _tasks(path, read_columns(path, REQUIRED))
    turns: Counter[str] = Counter()
    seen: set[str] = set()

    def parse(values: CsvRow) -> Utterance:
        row = _parse_row(path.parent, values, tasks, turns)
        if row.key in seen:
            raise ValueError(f"id {row.utterance_id!r} comes twice in {row.split}")
        seen.add(row.key)
        turns[f"{row.split} {row.dialogue_id}"] += 1
        return row

    rows = read_csv(path, REQUIRED, parse)
    found = {split: by_turn(row for row in rows if row.split == split) for split in SPLITS}
    return Dataset(
        root=path.parent,
        adapter="csv",
        label_sets=tuple(_label_set(path, task, [row.labels[task] for row in rows]) for task in tasks),
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


def _tasks(path: Path, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that are label tasks: all that are nothing else."""
    then = "name each task in lower case, like `emotion`; a column whose name begins with _ is not read"
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        what = f"columns are there more than once: {', '.join(map(repr, twice))}"
        raise DatasetError(describe(what, file=path, then="rename the ones that are not to be read"))
    tasks = tuple(name for name in columns if name not in (*REQUIRED, *OPTIONAL) and not name.startswith("_"))
    if bad := [name for name in tasks if not _TASK.fullmatch(name) or name in RESERVED]:
        what = f"columns that cannot be label tasks: {', '.join(map(repr, bad))}"
        raise DatasetError(describe(what, file=path, then=then))
    if not tasks:
        raise DatasetError(describe("there is no column of labels", file=path, then=then))
    return tasks


def _label_set(path: Path, task: str, labels: Sequence[str]) -> LabelSet:
    """Return the labels of a task in alphabetical order, over the rows of all splits."""
    names = tuple(sorted(set(labels)))
    then = f"a task needs two labels or more; name the column _{task} if it is none"
    if len(names) < 2:
        raise DatasetError(describe(f"{task} is {names[0]!r} in every row", file=path, then=then))
    if alike := _alike(labels):
        what = f"{task} has labels that differ in case, spaces or the form of a number alone: {alike}"
        then = "write them alike if they are one, or give them names that differ in more if they are not"
        raise DatasetError(describe(what, file=path, then=then))
    if len(names) > max(MANY_LABELS, len(labels) / 2):
        what = f"{task} has {len(names)} labels in {len(labels)} rows, like {names[0]!r} and {names[1]!r}"
        then = f"put numbers into classes first; name the column _{task} if it is no task"
        raise DatasetError(describe(what, file=path, then=then))
    return LabelSet(task=task, names=names)


def _alike(labels: Sequence[str]) -> str:
    """Return labels that are hardly two classes, with their rows: `'joy' (12 rows) and 'Joy' (1 row)`; or nothing."""
    counts = Counter(labels)
    spellings: dict[str, list[str]] = {}
    for name in sorted(counts):
        spellings.setdefault(_plain(name), []).append(name)
    return "; ".join(
        " and ".join(f"{name!r} ({counts[name]} row{'s' * (counts[name] > 1)})" for name in names)
        for names in spellings.values()
        if len(names) > 1
    )


def _plain(label: str) -> str:
    """Return what a label has in common with its other spellings: `Very  Happy`, `very_happy` -> `very happy`."""
    try:
        return str(float(label))
    except ValueError:
        return " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFKC", label).casefold().strip()))


def _parse_row(root: Path, values: CsvRow, tasks: tuple[str, ...], turns: Counter[str]) -> Utterance:
    value = partial(value_of, values)

    def optional(column: str) -> str:
        return value(column).strip() if column in values else ""

    split = value("split")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, not one of {', '.join(SPLITS)}")
    labels = {task: value(task).strip() for task in tasks}
    if empty := [task for task, label in labels.items() if not label]:
        raise ValueError(f"{', '.join(empty)} is empty: every row needs its label")
    clip_name = _clip_name(root, value("path"))
    text = normalise_text(value("text"))
    dialogue_id = optional("dialogue") or value("id")
    return Utterance(
        key=_key(split, value("id")),
        split=split,
        dialogue_id=dialogue_id,
        utterance_id=value("id"),
        turn_index=_turn(optional("turn"), turns[f"{split} {dialogue_id}"]),
        speaker=normalise_text(optional("speaker")),
        text=text,
        text_repaired=text != value("text"),
        labels=labels,
        clip=_found(root, clip_name),
        clip_name=clip_name,
        span=(span := _span(optional("start"), optional("end"))),
        cut_by_span=span is not None,
    )


def _key(split: str, text: str) -> str:
    if not text:
        raise ValueError("id is empty")
    try:
        check_key(f"{split}-{text}")
    except ValueError as exc:
        raise ValueError(f"id {text!r} cannot be used, because with the split before it {exc}") from exc
    return f"{split}-{text}"


def _clip_name(root: Path, text: str) -> str:
    path = PurePosixPath(text)
    relative = f"paths are relative to the CSV's folder, {root}"
    if PureWindowsPath(text).drive:
        raise ValueError(f"path {text!r} is one of Windows: {relative}, with forward slashes")
    if path.is_absolute():
        raise ValueError(f"path {text!r} is absolute: {relative}")
    if ".." in path.parts or not path.parts:
        raise ValueError(f"path must be that of a file below the CSV's folder, got {text!r}")
    if "\\" in text and not _is_file(root / path):
        raise ValueError(f"path {text!r} has backslashes, and there is no such file: write forward slashes")
    return path.as_posix()


def _found(root: Path, name: str) -> str:
    """Return the path of a file below a folder as the disk has it, empty if there is none.

    A name may have its accents as characters of their own, as macOS writes them, where the CSV has them composed, or
    the other way round: to a reader both are the same (https://unicode.org/reports/tr15/).
    """
    if name.isascii() or _is_file(root / name):
        return name if _is_file(root / name) else ""
    folder = root
    for part in PurePosixPath(name).parts:
        plain = unicodedata.normalize("NFC", part)
        try:
            names = sorted(entry.name for entry in os.scandir(folder))
        except OSError:  # no folder, or one that may not be read
            return ""
        folder /= next((found for found in names if unicodedata.normalize("NFC", found) == plain), part)
    return folder.relative_to(root).as_posix() if _is_file(folder) else ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as exc:  # a folder that may not be entered, or a name that no disk can have
        raise ValueError(f"path {path} cannot be looked at: {exc.strerror}") from exc


def _turn(text: str, place: int) -> int:
    """Return the turn a row gives, or its place among the rows of its dialogue, from 0."""
    if not text:
        return place
    if not (text.isascii() and text.isdecimal()):
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
    """Parse seconds, like 12.5, or a time, like 0:00:12.5; unlike in MELD's, .5 is half a second."""
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    elif match := _TIME.fullmatch(text):
        seconds = 3600 * int(match[1] or 0) + 60 * int(match[2]) + float(match[3].replace(",", "."))
    else:
        raise ValueError(f"{text!r} is neither seconds, like 12.5, nor a time, like 0:00:12.5")
    if seconds >= 1e6:
        raise ValueError(f"{text!r} is no time within a file")
    return round(seconds, 6)
