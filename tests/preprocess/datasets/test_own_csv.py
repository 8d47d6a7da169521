import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.datasets.annotations import Span, Utterance
from preprocess.datasets.meld import normalise_text
from preprocess.datasets.own_csv import MANY_LABELS, OPTIONAL, REQUIRED, RESERVED, is_own, read_own
from preprocess.errors import DatasetError
from shards.schema import LabelSet
from tests.support.tables import own_row, own_rows, touch, write_table


def utterances(root: Path) -> list[Utterance]:
    return [row for split in read_own(root).splits for row in split.utterances]


def read_rows(root: Path, rows: Sequence[Mapping[str, str]]) -> list[Utterance]:
    return utterances(write_table(root / "utterances.csv", rows))


def refusal(path: Path) -> str:
    """Read a CSV that is to be refused; return the message, which must name the file and say what to do."""
    with pytest.raises(DatasetError) as caught:
        read_own(path)
    message = str(caught.value)
    assert f"\n  file: {path}" in message
    assert "\n  next: " in message
    return message


def test_a_csv_or_the_folder_of_one_gives_the_same(tmp_path: Path) -> None:
    path = write_table(tmp_path / "utterances.csv", own_rows(2))
    assert read_own(path) == read_own(tmp_path)
    assert read_own(path).root == tmp_path


def test_a_csv_of_any_name_is_read_when_it_is_given_itself(tmp_path: Path) -> None:
    path = write_table(tmp_path / "my clips.CSV", own_rows(2))
    assert is_own(path)
    assert not is_own(tmp_path)
    assert len(utterances(path)) == 2


@pytest.mark.parametrize("name", ["nothing.csv", "clip.mp4"])
def test_what_is_no_csv_is_not_recognised(tmp_path: Path, name: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0\xff" * 50)
    assert not is_own(tmp_path / name)


def test_all_that_a_row_says_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "clips/0.mp4")
    columns = {"start": "1.5", "end": "0:00:04.25", "dialogue": "d7", "turn": "4", "speaker": "Ann", "mood": "calm"}
    rows = [own_row(0, split="dev", **columns), own_row(1, split="dev", **{**columns, "mood": "sad"})]
    assert read_rows(tmp_path, rows)[0] == Utterance(
        key="dev-u0",
        split="dev",
        dialogue_id="d7",
        utterance_id="u0",
        turn_index=4,
        speaker="Ann",
        text="Line 0",
        text_repaired=False,
        labels={"laughter": "no", "mood": "calm"},
        clip="clips/0.mp4",
        clip_name="clips/0.mp4",
        span=Span(start_seconds=1.5, end_seconds=4.25),
        cut_by_span=True,
    )


def test_splits_come_in_their_order_and_rows_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [own_row(number, split=("test", "train")[number % 2]) for number in range(5)]
    dataset = read_own(write_table(tmp_path / "utterances.csv", rows))
    found = {split.name: [row.utterance_id for row in split.utterances] for split in dataset.splits}
    assert list(found.items()) == [("train", ["u1", "u3"]), ("test", ["u0", "u2", "u4"])]
    assert dataset.missing_splits == ("dev",)


def test_one_id_may_come_once_in_each_split(tmp_path: Path) -> None:
    rows = [own_row(0), own_row(1), own_row(0, split="dev"), own_row(0, split="test")]
    assert [row.key for row in read_rows(tmp_path, rows)] == ["train-u0", "train-u1", "dev-u0", "test-u0"]


# Labels.


def test_labels_are_alphabetical_over_the_rows_of_all_splits(tmp_path: Path) -> None:
    moods = {"train": "warm", "dev": "calm", "test": "Zen"}
    rows = [own_row(number, split=split, mood=mood) for number, (split, mood) in enumerate(moods.items())]
    dataset = read_own(write_table(tmp_path / "utterances.csv", rows))
    assert dataset.label_sets == (
        LabelSet(task="laughter", names=("no", "yes")),
        LabelSet(task="mood", names=("Zen", "calm", "warm")),
    )


def test_space_around_a_label_is_no_part_of_it(tmp_path: Path) -> None:
    rows = [own_row(0, laughter="yes "), own_row(1, laughter=" yes"), own_row(2, laughter="no")]
    assert [row.labels["laughter"] for row in read_rows(tmp_path, rows)] == ["yes", "yes", "no"]


def test_a_column_that_begins_with_an_underscore_is_not_read(tmp_path: Path) -> None:
    rows = [{**row, "_note": "", "_Another Note": "x"} for row in own_rows(2)]
    assert [set(row.labels) for row in read_rows(tmp_path, rows)] == [{"laughter"}] * 2


@pytest.mark.parametrize("name", ["Laughter", "two words", "", "1st", "é", "key", "a" * 41])
def test_a_column_whose_name_cannot_be_a_task_is_refused(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / "utterances.csv", [{**row, name: "x"} for row in own_rows(2)])
    message = refusal(path)
    assert f"columns that cannot be label tasks: {name!r}" in message
    assert "begins with _" in message


def test_a_csv_without_labels_is_refused(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "laughter"} for row in own_rows(2)]
    assert "there is no column of labels" in refusal(write_table(tmp_path / "utterances.csv", rows))


def test_a_task_with_one_label_is_refused(tmp_path: Path) -> None:
    message = refusal(write_table(tmp_path / "utterances.csv", own_rows(3, laughter="no")))
    assert "laughter is 'no' in every row" in message
    assert "name the column _laughter" in message


def test_a_column_of_numbers_is_refused_as_a_task(tmp_path: Path) -> None:
    rows = [own_row(number, loudness=f"{number / 7:.3f}") for number in range(MANY_LABELS + 1)]
    message = refusal(write_table(tmp_path / "utterances.csv", rows))
    assert f"loudness has {MANY_LABELS + 1} labels in {MANY_LABELS + 1} rows, like '0.000' and '0.143'" in message
    assert "name the column _loudness" in message


def test_many_labels_are_no_trouble_where_rows_share_them(tmp_path: Path) -> None:
    rows = [own_row(number, word=str(number % (MANY_LABELS + 1))) for number in range(3 * MANY_LABELS)]
    assert len({row.labels["word"] for row in read_rows(tmp_path, rows)}) == MANY_LABELS + 1


# Files.


def test_a_row_whose_file_is_missing_stays_and_says_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path, "clips/0.mp4")
    rows = read_rows(tmp_path, own_rows(2))
    assert [(row.clip, row.clip_name) for row in rows] == [("clips/0.mp4", "clips/0.mp4"), ("", "clips/1.mp4")]


def test_a_folder_in_place_of_a_file_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "clips" / "0.mp4").mkdir(parents=True)
    assert [row.clip for row in read_rows(tmp_path, own_rows(2))] == ["", ""]


def test_files_are_counted_once_however_many_rows_cut_them(tmp_path: Path) -> None:
    touch(tmp_path, "long.mp4")
    rows = [own_row(i, path="long.mp4", start=str(i), end=str(i + 1)) for i in range(3)]
    assert [split.num_files for split in read_own(write_table(tmp_path / "utterances.csv", rows)).splits] == [1]


@pytest.mark.parametrize("path", ["../other/a.mp4", "clips/../../a.mp4", "", ".", "./"])
def test_a_path_that_is_not_below_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    message = refusal(write_table(tmp_path / "utterances.csv", [*own_rows(2), own_row(2, path=path)]))
    assert f"line 4: path must be that of a file below the CSV's folder, got {path!r}" in message


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/etc/passwd", "is absolute: paths are relative to the CSV's folder"),
        (r"C:\clips\a.mp4", "is one of Windows: paths are relative to the CSV's folder"),
        (r"\\server\clips\a.mp4", "is one of Windows"),
        (r"clips\a.mp4", "has backslashes, and there is no such file: write forward slashes"),
    ],
)
def test_a_path_of_another_kind_is_told_as_such(tmp_path: Path, path: str, words: str) -> None:
    message = refusal(write_table(tmp_path / "utterances.csv", [*own_rows(2), own_row(2, path=path)]))
    assert f"line 4: path {path!r} {words}" in message


def test_a_file_with_a_backslash_in_its_name_is_found(tmp_path: Path) -> None:
    touch(tmp_path, r"a\b.mp4")
    assert read_rows(tmp_path, own_rows(2, path=r"a\b.mp4"))[0].clip == r"a\b.mp4"


@pytest.mark.parametrize("there", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_composed_and_decomposed_names_find_each_other(
    tmp_path: Path, there: Literal["NFC", "NFD"], asked: Literal["NFC", "NFD"]
) -> None:
    name = "Zoë/ép01.mp4"
    touch(tmp_path, unicodedata.normalize(there, name))
    row, _ = read_rows(tmp_path, own_rows(2, path=unicodedata.normalize(asked, name)))
    assert row.clip == unicodedata.normalize(there, name)
    assert (tmp_path / row.clip).is_file()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("joy", "Joy", "sad"), "'Joy' (1 row) and 'joy' (1 row)"),
        (("very happy", "very_happy", "sad"), "'very happy' (1 row) and 'very_happy' (1 row)"),
        (("1", "1.0", "2"), "'1' (1 row) and '1.0' (1 row)"),
        (("joy", "sad", "joy"), ""),
        (("1", "10", "2"), ""),
        (("c++", "c", "c#"), ""),
    ],
)
def test_labels_that_are_hardly_two_classes_are_refused(tmp_path: Path, labels: tuple[str, ...], words: str) -> None:
    path = write_table(tmp_path / "utterances.csv", [own_row(i, laughter=name) for i, name in enumerate(labels)])
    if words:
        assert words in refusal(path)
    else:
        assert len(utterances(path)) == 3


@given(st.permutations(range(12)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
def test_turns_decide_the_order_of_a_dialogue_however_rows_are_sorted(tmp_path: Path, order: list[int]) -> None:
    rows = [own_row(i, dialogue="d" if i < 8 else "e", turn=str(i)) for i in order]
    found = read_rows(tmp_path, rows)
    for dialogue in ("d", "e"):
        turns = [row.turn_index for row in found if row.dialogue_id == dialogue]
        assert turns == sorted(turns)
    assert len({row.dialogue_id for row in found[: sum(row.dialogue_id == found[0].dialogue_id for row in found)]}) == 1


def test_a_path_that_no_disk_can_have_is_refused_with_its_line(tmp_path: Path) -> None:
    message = refusal(write_table(tmp_path / "utterances.csv", own_rows(2, path="a" * 5000)))
    assert "line 2: path " in message
    assert "File name too long" in message


# Ids.


@pytest.mark.parametrize("text", ["a.b", "a/b", "a b", "é", "u" * 80])
def test_an_id_that_webdataset_would_misread_is_refused(tmp_path: Path, text: str) -> None:
    message = refusal(write_table(tmp_path / "utterances.csv", own_rows(1, id=text)))
    assert f"line 2: id {text!r} cannot be used" in message
    assert "A-Z a-z 0-9 _ -" in message


def test_an_empty_id_is_refused(tmp_path: Path) -> None:
    assert "line 2: id is empty" in refusal(write_table(tmp_path / "utterances.csv", own_rows(1, id="")))


def test_an_id_that_comes_twice_in_a_split_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "utterances.csv", [*own_rows(2), own_row(0, text="Again")])
    assert "line 4: id 'u0' comes twice in train" in refusal(path)


@pytest.mark.parametrize("split", ["", "Train", "validation"])
def test_a_split_of_another_name_is_refused(tmp_path: Path, split: str) -> None:
    message = refusal(write_table(tmp_path / "utterances.csv", own_rows(2, split=split)))
    assert f"line 2: split is {split!r}, not one of train, dev, test" in message


def test_a_row_without_its_label_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "utterances.csv", [own_row(0), own_row(1, laughter=" ")])
    assert "line 3: laughter is empty: every row needs its label" in refusal(path)


# Dialogues.


def test_without_a_dialogue_column_every_row_is_a_dialogue_of_its_own(tmp_path: Path) -> None:
    rows = read_rows(tmp_path, own_rows(3))
    assert [(row.dialogue_id, row.turn_index) for row in rows] == [("u0", 0), ("u1", 0), ("u2", 0)]


def test_without_a_turn_column_rows_of_a_dialogue_are_counted_in_each_split(tmp_path: Path) -> None:
    places = [("train", "a"), ("train", "b"), ("train", "a"), ("test", "a"), ("train", "a")]
    rows = [own_row(i, split=split, dialogue=dialogue) for i, (split, dialogue) in enumerate(places)]
    assert [(row.utterance_id, row.turn_index) for row in read_rows(tmp_path, rows)] == [
        ("u0", 0), ("u2", 1), ("u4", 2), ("u1", 0), ("u3", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("turn", ["-1", "1.0", "first", "²"])
def test_a_turn_that_is_no_whole_number_is_refused(tmp_path: Path, turn: str) -> None:
    path = write_table(tmp_path / "utterances.csv", own_rows(2, turn=turn))
    assert f"line 2: turn must be a whole number from 0, got {turn!r}" in refusal(path)


# Spans.


def test_without_a_span_the_file_is_the_utterance(tmp_path: Path) -> None:
    for rows in (own_rows(2), own_rows(2, start="", end=" ")):
        for row in read_rows(tmp_path, rows):
            assert (row.span, row.part, row.annotated_seconds) == (None, None, 0.0)


def test_a_span_is_the_part_of_the_file_to_read(tmp_path: Path) -> None:
    row = read_rows(tmp_path, own_rows(2, start="10", end="12.5"))[0]
    assert row.part == Span(start_seconds=10.0, end_seconds=12.5)
    assert row.annotated_seconds == 2.5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("7.", 7.0),
        (".5", 0.5),
        ("12.345678", 12.345678),
        ("1e-3", 0.001),
        (" 7 ", 7.0),
        ("1:30", 90.0),
        ("01:02:03", 3723.0),
        ("0:00:12.5", 12.5),
        ("0:00:12,05", 12.05),
        ("100:00:00", 360_000.0),
    ],
)
def test_a_time_is_read_as_seconds_or_as_a_clock_shows_it(tmp_path: Path, text: str, seconds: float) -> None:
    row = read_rows(tmp_path, own_rows(2, start=text, end="999999"))[0]
    assert row.part is not None
    assert row.part.start_seconds == seconds


@pytest.mark.parametrize("text", ["soon", "nan", "inf", "-1", "1_000", "1:60", "1:2:3:4", "12,5", "١", "0:00:12:05"])
def test_what_is_no_time_is_refused_with_its_text(tmp_path: Path, text: str) -> None:
    message = refusal(write_table(tmp_path / "utterances.csv", own_rows(2, start=text, end="999")))
    assert f"line 2: {text!r} is neither seconds, like 12.5, nor a time, like 0:00:12.5" in message


def test_a_time_beyond_any_file_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "utterances.csv", own_rows(2, start="0", end="1e9"))
    assert "line 2: '1e9' is no time within a file" in refusal(path)


@pytest.mark.parametrize(("start", "end"), [("2", "2"), ("3", "2"), ("2", "2.0004")])
def test_a_span_that_is_empty_or_runs_backwards_is_refused(tmp_path: Path, start: str, end: str) -> None:
    path = write_table(tmp_path / "utterances.csv", own_rows(2, start=start, end=end))
    assert f"line 2: end must be after start, got {start} and {end}" in refusal(path)


@pytest.mark.parametrize(("start", "end"), [("1", ""), ("", "1")])
def test_half_a_span_is_refused(tmp_path: Path, start: str, end: str) -> None:
    path = write_table(tmp_path / "utterances.csv", own_rows(2, start=start, end=end))
    assert "line 2: start and end go together" in refusal(path)


def test_a_row_that_ends_before_its_span_is_refused_rather_than_read_without_it(tmp_path: Path) -> None:
    path = write_table(tmp_path / "utterances.csv", own_rows(2, start="1", end="2"))
    path.write_text(path.read_text("utf-8").replace(",1,2\n", "\n", 1).replace(",1,2\r\n", "\r\n", 1), "utf-8")
    assert "line 2: the row ends before column start" in refusal(path)


# The file.


def test_a_path_without_a_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no such CSV\n  file: .*utterances\.csv\n  next: "):
        read_own(tmp_path)


@pytest.mark.parametrize("column", ["id", "split", "text", "path"])
def test_a_missing_column_is_refused_by_its_name_before_anything_else(tmp_path: Path, column: str) -> None:
    rows = [{name.upper() if name == column else name: value for name, value in row.items()} for row in own_rows(2)]
    assert f"columns are missing: {column}; found " in refusal(write_table(tmp_path / "utterances.csv", rows))


@pytest.mark.parametrize("column", ["text", "start", "laughter", "_note"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, column: str) -> None:
    path = tmp_path / "utterances.csv"
    names = ["id", "split", "text", "path", "start", "laughter", "_note", column]
    path.write_text(",".join(names) + "\n", "utf-8")
    message = refusal(path)
    assert "more than once: " in message
    assert column in message


DOCS = Path(__file__).parents[3] / "docs" / "own-data.md"


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    _, _, rest = DOCS.read_text("utf-8").partition("```csv\n")
    (tmp_path / "utterances.csv").write_text(rest.partition("```")[0], "utf-8")
    dataset = read_own(tmp_path)
    assert dataset.label_sets == (LabelSet(task="laughter", names=("no", "yes")),)
    assert dataset.missing_splits == ()
    dev = dataset.splits[1].utterances
    assert [row.part for row in dev] == [
        Span(start_seconds=12.5, end_seconds=14.25),
        Span(start_seconds=14.25, end_seconds=17.8),
    ]
    assert [row.turn_index for row in dev] == [0, 1]


@pytest.mark.parametrize("column", [*REQUIRED, *OPTIONAL, *RESERVED])
def test_every_column_with_a_meaning_is_in_the_documentation(column: str) -> None:
    table = [line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert any(f"`{column}`" in line for line in table)


_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@st.composite
def written_rows(draw: st.DrawFn) -> list[dict[str, str]]:
    """Draw rows with every column, of ids that differ and labels that do too."""
    places = st.tuples(st.sampled_from(["train", "dev", "test"]), st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True))
    rows = []
    for number, (split, name) in enumerate(draw(st.lists(places, min_size=2, max_size=12, unique=True))):
        start, length = draw(st.integers(0, 10**8)), draw(st.integers(1, 10**6))
        rows.append(
            {
                "id": name,
                "split": split,
                "text": draw(_TEXTS),
                "speaker": draw(_TEXTS),
                "mood": f"{number}{draw(_TEXTS)}",
                "path": "a.mp4",
                "start": f"{start / 1000:.3f}",
                "end": f"{(start + length) / 1000:.3f}",
            }
        )
    return rows


@given(rows=written_rows())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_written_as_csv_are_read_back_as_they_were(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    found = {row.key: row for row in read_rows(tmp_path, rows)}
    assert len(found) == len(rows)
    for row in rows:
        one = found[f"{row['split']}-{row['id']}"]
        assert (one.text, one.speaker) == (normalise_text(row["text"]), normalise_text(row["speaker"].strip()))
        assert one.labels == {"mood": row["mood"].strip()}
        assert one.part == Span(start_seconds=float(row["start"]), end_seconds=float(row["end"]))
