from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.datasets.csv_rows import CsvRow, folders_under, read_columns, read_csv, value_of
from preprocess.errors import DatasetError
from tests.support.tables import write_table


def two_columns(row: CsvRow) -> tuple[str, str]:
    return value_of(row, "a"), value_of(row, "b")


def refusal(path: Path, required: Sequence[str] = ("a", "b")) -> str:
    """Read a file that is to be refused; return the message, which must name the file and say what to do."""
    with pytest.raises(DatasetError) as caught:
        read_csv(path, required, two_columns)
    message = str(caught.value)
    assert f"\n  file: {path}\n  next: " in message
    return message


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_values_written_as_csv_are_read_back_as_they_were(tmp_path: Path, values: list[tuple[str, str]]) -> None:
    path = write_table(tmp_path / "t.csv", [{"b": b, "a": a} for a, b in values])
    assert read_csv(path, ("a", "b"), two_columns) == values


def test_columns_are_named_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", [{"b": "1", "a": "2", "": "3"}], encoding="utf-8-sig")
    assert read_columns(path, ("a",)) == ["b", "a", ""]


def test_an_empty_line_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n\n3,4\n\n", "utf-8")
    assert read_csv(tmp_path / "t.csv", ("a", "b"), two_columns) == [("1", "2"), ("3", "4")]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_is_refused_with_what_to_do(tmp_path: Path, separator: str) -> None:
    (tmp_path / "t.csv").write_text(f"a{separator}b\n1{separator}2\n", "utf-8")
    message = refusal(tmp_path / "t.csv")
    assert "columns are missing: a, b" in message
    assert "save it with commas between the columns" in message


def test_a_required_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,a,c,c\n1,2,3,4,5\n", "utf-8")
    assert "columns are there more than once: a\n" in refusal(tmp_path / "t.csv")


def test_a_row_with_more_values_than_columns_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1,2,3\n", "utf-8")
    assert "line 3: the row has more values than there are columns" in refusal(tmp_path / "t.csv")


def test_what_parsing_a_row_refuses_is_named_with_the_last_line_of_the_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b\n1,"2\n3"\n4\n', "utf-8")
    assert "line 4: the row ends before column b" in refusal(tmp_path / "t.csv")


@pytest.mark.parametrize("content", [b"a,b\n1,\xb4\n", b"a,\x92\n"])
def test_another_encoding_is_refused_by_whichever_function_meets_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    assert "is not UTF-8" in refusal(tmp_path / "t.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_named_for_what_they_are(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n", encoding)
    message = refusal(tmp_path / "t.csv")
    name = "UTF-32" if encoding == "utf-32" else "UTF-16"
    assert f"is {name}" in message
    assert f"iconv -f {name.lower()}" in message


def test_the_first_place_of_another_encoding_is_shown(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,2\n3,caf\xe9\n")
    assert r"line 3 has b'3,caf\xe9'" in refusal(tmp_path / "t.csv")


def test_columns_of_a_file_in_another_encoding_are_refused_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,\x92\n")
    with pytest.raises(DatasetError, match="is not UTF-8"):
        read_columns(tmp_path / "t.csv", ())


@pytest.mark.parametrize(
    ("content", "line"), [('a,"b"c\n1,2\n', 1), ('a,b\n1,2\n3,"4"5\n', 3), ('a,b\n1,2\n3,"4\n5\n', 4)]
)
def test_a_quote_that_does_not_fit_is_refused_with_its_line(tmp_path: Path, content: str, line: int) -> None:
    (tmp_path / "t.csv").write_text(content, "utf-8")
    message = refusal(tmp_path / "t.csv")
    assert message.startswith(f"line {line}: ")
    assert "mend the row" in message


def test_folders_are_walked_shallow_ones_first_and_hidden_ones_not(tmp_path: Path) -> None:
    for path in ("b/x/1/2", "a", ".git/x", "b/.x"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "file").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in folders_under(tmp_path)] == [
        ".",
        "a",
        "b",
        "b/x",
        "b/x/1",
    ]


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(list(folders_under(tmp_path))) == 4
