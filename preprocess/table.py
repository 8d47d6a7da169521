"""Annotation files: CSV rows by the names of their columns, every row or none."""

import csv
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from preprocess.errors import DatasetError
from shards.errors import describe

__all__ = ["Row", "read_columns", "read_table", "value_of", "walk"]

R = TypeVar("R")

Row = Mapping[str, str | None]
"""Values by column; None where a row ends before it."""

_MAX_DEPTH = 4


def read_table(path: Path, required: Collection[str], parse: Callable[[Row], R]) -> list[R]:
    """Read an annotation file.

    Args:
        path: The file, UTF-8 with or without a byte order mark.
        required: Columns that must be there.
        parse: Makes something of a row; what it raises as `ValueError` is named with the line.

    Raises:
        DatasetError: if it is no such file, lacks a column, has a bad row, or has none.
    """
    rows = []
    try:
        # newline="": only the csv module may end a row; str.splitlines also ends one at U+0085, which is in the texts.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in required if column not in (reader.fieldnames or ())]
            if missing:
                what = f"columns are missing: {', '.join(missing)}; found {', '.join(reader.fieldnames or ['none'])}"
                raise DatasetError(describe(what, file=path, then="use the data set's own CSV, or add the columns"))
            for values in reader:
                if None in values:
                    raise _bad_row(path, reader.line_num, "the row has more values than there are columns")
                try:
                    rows.append(parse(values))
                except ValueError as exc:
                    raise _bad_row(path, reader.line_num, exc) from exc
    except UnicodeDecodeError as exc:
        then = "convert it, for example with `iconv -f cp1252 -t utf-8`"
        raise DatasetError(describe(f"is not UTF-8: {exc}", file=path, then=then)) from exc
    except csv.Error as exc:
        raise DatasetError(describe(f"line {reader.line_num}: {exc}", file=path, then="mend the row")) from exc
    if not rows:
        raise DatasetError(describe("has no rows", file=path, then="copy it again"))
    return rows


def read_columns(path: Path) -> list[str]:
    """Return the names of the columns of a CSV; none of a file that is no CSV in UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file).fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def value_of(row: Row, column: str) -> str:
    """Return a value; `ValueError` if the row ends before it."""
    text = row[column]
    if text is None:
        raise ValueError(f"the row ends before column {column}")
    return text


def walk(root: Path) -> Iterator[Path]:
    """Yield a folder and those in it, shallow ones first, hidden ones left out."""
    level = [root]
    for _ in range(_MAX_DEPTH):
        yield from level
        level = [
            Path(entry.path)
            for folder in level
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
            if entry.is_dir() and not entry.name.startswith(".")
        ]


def _bad_row(path: Path, line: int, why: object) -> DatasetError:
    return DatasetError(describe(f"line {line}: {why}", file=path, then="mend the row: none is ever dropped"))
