"""Annotation files: CSV rows by the names of their columns, every row or none."""

import codecs
import csv
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from preprocess.errors import DatasetError
from shards.errors import describe

__all__ = ["CsvRow", "folders_under", "read_columns", "read_csv", "value_of"]

R = TypeVar("R")

CsvRow = Mapping[str, str | None]
"""Values by column; None where a row ends before it."""

_MAX_DEPTH = 4


def read_csv(path: Path, required: Collection[str], parse: Callable[[CsvRow], R]) -> list[R]:
    """Read an annotation file.

    Args:
        path: The file, UTF-8 with or without a byte order mark.
        required: Columns that must be there, once.
        parse: Makes something of a row; what it raises as `ValueError` is named with the line.

    Raises:
        DatasetError: if it is no such file, lacks a column, has a bad row, or has none.
    """
    rows = []
    with _opened(path, required) as reader:
        for values in reader:
            if None in values:
                raise _bad_row(path, reader.line_num, "the row has more values than there are columns")
            try:
                rows.append(parse(values))
            except ValueError as exc:
                raise _bad_row(path, reader.line_num, exc) from exc
    if not rows:
        raise DatasetError(describe("has no rows", file=path, then="copy it again, or write some"))
    return rows


def read_columns(path: Path, required: Collection[str]) -> list[str]:
    """Return the names of the columns of an annotation file.

    Raises:
        DatasetError: if it is no such file, or lacks a required column.
    """
    with _opened(path, required) as reader:
        return list(reader.fieldnames or ())


def value_of(row: CsvRow, column: str) -> str:
    """Return a value; `ValueError` if the row ends before it."""
    text = row[column]
    if text is None:
        raise ValueError(f"the row ends before column {column}")
    return text


def folders_under(root: Path) -> Iterator[Path]:
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


@contextmanager
def _opened(path: Path, required: Collection[str]) -> "Iterator[csv.DictReader[str]]":
    """Open an annotation file; what is wrong with it as a file of rows and columns becomes a `DatasetError`."""
    try:
        # newline="": only the csv module may end a row; str.splitlines also ends one at U+0085, which is in the texts.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if any("\0" in column for column in reader.fieldnames or ()):
                raise _not_utf8(path)  # UTF-16 of plain letters is also valid UTF-8
            _check_columns(path, reader.fieldnames or (), required)
            yield reader
    except UnicodeError as exc:
        raise _not_utf8(path) from exc
    except csv.Error as exc:
        line = reader.reader.line_num  # a DictReader's own is that of the row before
        raise DatasetError(describe(f"line {line}: {exc}", file=path, then="mend the row")) from exc


_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
"""What a file begins with that says how it is encoded; UTF-16's little-endian mark begins UTF-32's as well."""


def _not_utf8(path: Path) -> DatasetError:
    """Return an error that names the encoding of a file where it can be told, else its first place that is no UTF-8."""
    content = path.read_bytes()
    name = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")
    if not name and b"\0" in content[:200]:
        name = "utf-16le" if content[1:2] == b"\0" else "utf-16be"
    if name:
        what = f'is {name.upper()}, as Excel\'s "Unicode text" is, not UTF-8'
        then = f'save it as "CSV UTF-8", or run `iconv -f {name.lower()} -t utf-8`'
        return DatasetError(describe(what, file=path, then=then))
    try:
        content.decode()
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        begin = max(content.rfind(b"\n", 0, exc.start) + 1, exc.start - 10)
        around = content[begin : exc.start + 10].splitlines()[0]
        what = f"is not UTF-8: line {line} has {around!r}"
    else:
        what = "is no text"
    then = (
        "save it as UTF-8 in the program that wrote it, or convert it from its encoding, "
        "for example `iconv -f cp1252 -t utf-8` for Windows in Western Europe, `-f gb18030` for Chinese"
    )
    return DatasetError(describe(what, file=path, then=then))


def _check_columns(path: Path, found: Sequence[str], required: Collection[str]) -> None:
    then = "use the data set's own CSV, or add the columns"
    if len(found) == 1 and (";" in found[0] or "\t" in found[0]):
        then = "save it with commas between the columns"
    if missing := [column for column in required if column not in found]:
        what = f"columns are missing: {', '.join(missing)}; found {', '.join(found) or 'none'}"
        raise DatasetError(describe(what, file=path, then=then))
    if twice := [column for column in required if found.count(column) > 1]:
        what = f"columns are there more than once: {', '.join(twice)}"
        raise DatasetError(describe(what, file=path, then="rename the ones that are not to be read"))


def _bad_row(path: Path, line: int, why: object) -> DatasetError:
    return DatasetError(describe(f"line {line}: {why}", file=path, then="mend the row: none is ever dropped"))
