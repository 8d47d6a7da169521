import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets.annotations import Dataset, DatasetSplit
from preprocess.datasets.meld import normalise_text, parse_time, read_meld
from preprocess.errors import DatasetError
from tests.support.clips import CLIP_FOLDERS, COLUMNS, Row, write_csv

MELD_CSV = Path(__file__).parents[4] / "shared" / "meld-csv"
needs_meld_csv = pytest.mark.skipif(not MELD_CSV.is_dir(), reason="needs ../shared/meld-csv, MELD's own annotations")
ONE_ROW = [Row(dialogue_id=0, utterance_id=0)]


def touch(folder: Path, *names: str) -> None:
    """Make files that only have names; reading the annotations never opens a clip."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def write_split(root: Path, rows: Sequence[Row], *, split: str = "train", clips: Sequence[str] | None = None) -> Path:
    """Write one split as MELD's archives hold it."""
    write_csv(root / f"{split}_sent_emo.csv", rows)
    touch(root / CLIP_FOLDERS[split], *([row.clip_name for row in rows] if clips is None else clips))
    return root


def only_split(root: Path) -> DatasetSplit:
    (split,) = read_meld(root).splits
    return split


def clips_of(dataset: Dataset) -> dict[str, str]:
    return {split.name: split.utterances[0].clip for split in dataset.splits}


LAYOUTS = {
    "archives extracted in place": (
        ("train_sent_emo.csv", "dev_sent_emo.csv", "test_sent_emo.csv"),
        ("train_splits", "dev_splits_complete", "output_repeated_splits_test"),
    ),
    "nested by an archive manager, the train csv inside": (
        ("train/train_sent_emo.csv", "dev_sent_emo.csv", "test_sent_emo.csv"),
        ("train/train_splits", "dev/dev_splits_complete", "test/output_repeated_splits_test"),
    ),
    "the tutorial's dataset folder": (
        ("dataset/train/train_sent_emo.csv", "dataset/dev/dev_sent_emo.csv", "dataset/test/test_sent_emo.csv"),
        (
            "dataset/train/train_splits",
            "dataset/dev/dev_splits_complete",
            "dataset/test/output_repeated_splits_test",
        ),
    ),
    "videos by split, the csv files from GitHub": (
        ("data/MELD/train_sent_emo.csv", "data/MELD/dev_sent_emo.csv", "data/MELD/test_sent_emo.csv"),
        ("videos/train", "videos/dev", "videos/test"),
    ),
    "renamed splits": (
        ("train_sent_emo.csv", "dev_sent_emo.csv", "test_sent_emo.csv"),
        ("train_splits", "dev_splits", "test_splits"),
    ),
    "mixed": (
        ("train/train_sent_emo.csv", "csv/dev_sent_emo.csv", "test_sent_emo.csv"),
        ("train/train_splits", "dev_splits_complete", "videos/Test"),
    ),
}


@pytest.mark.parametrize(("csvs", "folders"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_known_layout_gives_every_row_its_clip(
    tmp_path: Path, csvs: Sequence[str], folders: Sequence[str]
) -> None:
    for csv_name, folder in zip(csvs, folders, strict=True):
        write_csv(tmp_path / csv_name, ONE_ROW)
        touch(tmp_path / folder, "dia0_utt0.mp4")
    dataset = read_meld(tmp_path)
    assert [split.csv for split in dataset.splits] == list(csvs)
    assert clips_of(dataset) == {
        split: f"{folder}/dia0_utt0.mp4" for split, folder in zip(("train", "dev", "test"), folders, strict=True)
    }
    assert dataset.missing_splits == ()


def test_a_split_without_a_csv_is_named_missing(tmp_path: Path) -> None:
    write_split(tmp_path, ONE_ROW, split="dev")
    dataset = read_meld(tmp_path)
    assert [split.name for split in dataset.splits] == ["dev"]
    assert dataset.missing_splits == ("train", "test")


def test_an_equal_copy_of_a_csv_is_no_trouble_and_is_named(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_csv(tmp_path / folder / "train_sent_emo.csv", ONE_ROW)
    dataset = read_meld(tmp_path)
    assert dataset.splits[0].csv == "a/train_sent_emo.csv"
    assert dataset.other_csvs == ("b/train_sent_emo.csv",)


def test_of_two_csvs_the_shallower_is_read(tmp_path: Path) -> None:
    write_split(tmp_path, ONE_ROW)
    write_csv(tmp_path / "train" / "train_sent_emo.csv", [Row(text="An older version")])
    dataset = read_meld(tmp_path)
    assert dataset.splits[0].utterances[0].text == "Hello there"
    assert dataset.other_csvs == ("train/train_sent_emo.csv",)


def test_an_empty_folder_of_the_right_name_does_not_hide_the_one_with_clips(tmp_path: Path) -> None:
    write_split(tmp_path, ONE_ROW, split="test")
    touch(tmp_path / "test")
    touch(tmp_path / "videos" / "test")
    assert clips_of(read_meld(tmp_path)) == {"test": "output_repeated_splits_test/dia0_utt0.mp4"}


def test_a_linked_clip_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "clips", "dia0_utt0.mp4")
    root = tmp_path / "meld"
    write_csv(root / "train_sent_emo.csv", ONE_ROW)
    (root / "train_splits").symlink_to(tmp_path / "elsewhere" / "clips", target_is_directory=True)
    assert clips_of(read_meld(root)) == {"train": "train_splits/dia0_utt0.mp4"}


def test_a_row_without_a_clip_stays_and_says_what_was_looked_for(tmp_path: Path) -> None:
    write_split(tmp_path, [Row(utterance_id=0), Row(utterance_id=1)], clips=["dia0_utt0.mp4"])
    split = only_split(tmp_path)
    assert [row.clip for row in split.utterances] == ["train_splits/dia0_utt0.mp4", ""]
    assert split.utterances[1].clip_name == "train_splits/dia0_utt1.mp4"


def test_a_split_without_any_clip_folder_keeps_its_rows(tmp_path: Path) -> None:
    write_csv(tmp_path / "train_sent_emo.csv", ONE_ROW)
    split = only_split(tmp_path)
    assert (split.clip_folder, split.num_files, len(split.utterances)) == ("", 0, 1)


def test_files_that_are_no_rows_clip_are_sorted_by_what_they_are(tmp_path: Path) -> None:
    names = ["dia0_utt0.mp4", "dia66_utt9.mp4", "._dia0_utt0.mp4", "._final_videos_testdia0_utt0.mp4", ".DS_Store"]
    names += [
        "final_videos_testdia0_utt0.mp4",
        "final_videos_testdia7_utt7.mp4",
        "dia0_utt0.mp4.part",
        "xdia0_utt0.mp4",
    ]
    write_split(tmp_path, ONE_ROW, split="test", clips=names)
    (tmp_path / CLIP_FOLDERS["test"] / "dia1_utt1.mp4").mkdir()
    split = only_split(tmp_path)
    assert split.num_files == len(names)
    assert split.orphan_clips == ("dia66_utt9.mp4",)
    assert set(split.twins) == {"final_videos_testdia0_utt0.mp4", "final_videos_testdia7_utt7.mp4"}
    assert set(split.ignored_files) == {name for name in names if name.startswith((".", "x")) or name.endswith("part")}


def test_an_apple_double_never_stands_in_for_a_clip(tmp_path: Path) -> None:
    write_split(tmp_path, ONE_ROW, clips=["._dia0_utt0.mp4", "dia9_utt9.mp4"])
    assert only_split(tmp_path).utterances[0].clip == ""


def test_a_twin_is_joined_to_its_row_beside_the_plain_clip(tmp_path: Path) -> None:
    rows = [Row(utterance_id=0), Row(utterance_id=1), Row(utterance_id=2)]
    clips = ["dia0_utt0.mp4", "final_videos_testdia0_utt0.mp4", "final_videos_testdia0_utt1.mp4", "dia0_utt2.mp4"]
    write_split(tmp_path, rows, split="test", clips=clips)
    folder = "output_repeated_splits_test"
    assert [(row.clip, row.twin) for row in only_split(tmp_path).utterances] == [
        (f"{folder}/dia0_utt0.mp4", f"{folder}/final_videos_testdia0_utt0.mp4"),
        ("", f"{folder}/final_videos_testdia0_utt1.mp4"),
        (f"{folder}/dia0_utt2.mp4", ""),
    ]


def test_a_next_line_character_in_a_text_does_not_end_its_row(tmp_path: Path) -> None:
    write_split(tmp_path, [Row(utterance_id=0, text="No, I\x92m\x85 I mean\u2028 no"), Row(utterance_id=1)])
    first, second = only_split(tmp_path).utterances
    assert first.text == "No, I’m… I mean\u2028 no"
    assert second.text == "Hello there"


def test_quoted_commas_quotes_and_line_ends_stay_in_the_text(tmp_path: Path) -> None:
    text = 'He said, "no",\r\nand left'
    write_split(tmp_path, [Row(text=text)])
    assert only_split(tmp_path).utterances[0].text == text


def test_text_is_repaired_and_marked_only_where_it_had_to_be(tmp_path: Path) -> None:
    rows = [Row(utterance_id=0, text="It\x92s\xa0me"), Row(utterance_id=1, text="It’s me", speaker="Joey\x92s")]
    write_split(tmp_path, rows)
    first, second = only_split(tmp_path).utterances
    assert (first.text, first.text_repaired) == ("It’s me", True)
    assert (second.text, second.text_repaired, second.speaker) == ("It’s me", False, "Joey’s")


@given(st.characters(max_codepoint=0xFF))
def test_normalising_gives_what_cp1252_means_and_touches_nothing_else(character: str) -> None:
    if character == "\xa0":
        expected = " "
    elif "\x80" <= character <= "\x9f":
        expected = character.encode("latin-1").decode("cp1252", errors="replace").replace("�", character)
    else:
        expected = character
    assert normalise_text(character) == expected


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise_text(normalise_text(text)) == normalise_text(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:14:38,127", 878.127),
        ("0:02:57,802", 177.802),
        ("12:00:00,000", 43200.0),
        ("00:06:47,28", 407.028),
        ("00:06:47,8", 407.008),
        ("00:06:47.280", 407.28),
        (" 00:00:00,000 ", 0.0),
    ],
)
def test_a_time_is_read_in_each_form_that_meld_writes(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "1:2:3,4", "00:00:00", "00:00:00,", "-1:00:00,000", "00:00:00,1234", "nan"])
def test_what_is_no_time_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"no time like 0:06:47,280"):
        parse_time(text)


def test_the_annotated_length_is_end_minus_start_to_the_millisecond(tmp_path: Path) -> None:
    write_split(tmp_path, [Row(start="0:00:09,900", end="00:00:12,05")])
    assert only_split(tmp_path).utterances[0].annotated_seconds == 2.105


def test_turns_count_the_rows_of_a_dialogue_by_their_ids_however_they_are_sorted(tmp_path: Path) -> None:
    ids = [(57, 1), (57, 10), (4, 2), (57, 3), (4, 0)]
    write_split(tmp_path, [Row(dialogue_id=dialogue, utterance_id=utterance) for dialogue, utterance in ids])
    rows = only_split(tmp_path).utterances
    assert [(int(row.dialogue_id), int(row.utterance_id)) for row in rows] == [
        (57, 1),
        (57, 3),
        (57, 10),
        (4, 0),
        (4, 2),
    ]
    assert [row.turn_index for row in rows] == [0, 1, 2, 0, 1]
    assert rows[2].key == "train-dia57-utt10"


def test_a_repeated_serial_number_is_no_trouble(tmp_path: Path) -> None:
    write_split(tmp_path, [Row(utterance_id=number, serial=7035) for number in range(3)])
    assert len(only_split(tmp_path).utterances) == 3


def test_labels_are_read_whatever_their_case(tmp_path: Path) -> None:
    write_split(tmp_path, [Row(emotion="Surprise ", sentiment="POSITIVE")])
    assert only_split(tmp_path).utterances[0].labels == {"emotion": "surprise", "sentiment": "positive"}


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    write_csv(tmp_path / "train_sent_emo.csv", ONE_ROW, encoding="utf-8-sig")
    text = (tmp_path / "train_sent_emo.csv").read_text("utf-8").replace("Sr No.,Utterance,", "Utterance,Sr No.,")
    (tmp_path / "train_sent_emo.csv").write_text(text, "utf-8")
    assert len(only_split(tmp_path).utterances) == 1


def test_columns_that_are_not_used_may_be_there_or_not(tmp_path: Path) -> None:
    wanted = [column for column in COLUMNS if column not in ("Sr No.", "Season", "Episode")]
    with (tmp_path / "train_sent_emo.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Note", *reversed(wanted)])
        writer.writerow(["", "0:00:02,000", "0:00:01,000", 0, 0, "neutral", "neutral", "Ross", "Hi"])
    assert only_split(tmp_path).utterances[0].text == "Hi"


# What is refused.


def refusal(root: Path) -> str:
    """Read a folder that is to be refused; return the message, which must name a file and say what to do."""
    with pytest.raises(DatasetError) as caught:
        read_meld(root)
    message = str(caught.value)
    assert f"\n  file: {root}" in message
    assert "\n  next: " in message
    return message


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "there is no such folder" in refusal(tmp_path / "file")
    assert "there is no such folder" in refusal(tmp_path / "nothing")


def test_an_empty_folder_is_refused_saying_what_was_looked_for(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert "looked for train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv; found no folder" in message
    assert "make-demo" in message


def test_a_folder_without_annotations_is_refused_saying_what_was_found(tmp_path: Path) -> None:
    touch(tmp_path / "train_splits", "dia0_utt0.mp4")
    touch(tmp_path / "videos" / "dev", "dia0_utt0.mp4")
    assert "found train_splits/, videos/, videos/dev/" in refusal(tmp_path)


@pytest.mark.parametrize("column", ["Utterance", "Emotion", "Dialogue_ID", "EndTime"])
def test_a_missing_column_is_refused_by_its_name(tmp_path: Path, column: str) -> None:
    path = write_csv(tmp_path / "train_sent_emo.csv", ONE_ROW)
    path.write_text(path.read_text("utf-8").replace(column, "Other", 1), "utf-8")
    assert f"columns are missing: {column}; found " in refusal(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train_sent_emo.csv").touch()
    assert "found none" in refusal(tmp_path)


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "train_sent_emo.csv", [])
    assert "has no rows" in refusal(tmp_path)


BAD_ROWS = {
    "emotion": (Row(utterance_id=1, emotion="bored"), "line 3: Emotion is 'bored', not one of anger, disgust"),
    "sentiment": (Row(utterance_id=1, sentiment=""), "line 3: Sentiment is '', not one of negative"),
    "start": (Row(utterance_id=1, start="soon"), "line 3: 'soon' is no time like"),
    "end": (Row(utterance_id=1, end="00:00:01"), "line 3: '00:00:01' is no time like"),
    "twice": (Row(utterance_id=0, text="Again"), "line 3: dialogue 0, utterance 0 comes twice"),
}


@pytest.mark.parametrize(("row", "what"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_row_that_cannot_be_read_is_refused_with_its_line(tmp_path: Path, row: Row, what: str) -> None:
    write_csv(tmp_path / "train_sent_emo.csv", [*ONE_ROW, row])
    assert what in refusal(tmp_path)


def test_an_id_that_is_no_number_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train_sent_emo.csv", [Row(dialogue_id=77)])
    path.write_text(path.read_text("utf-8").replace(",77,", ",7.5,"), "utf-8")
    assert "line 2: " in (message := refusal(tmp_path))
    assert "'7.5'" in message


def test_a_row_that_ends_early_is_refused_with_the_column_it_lacks(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train_sent_emo.csv", ONE_ROW)
    path.write_text(path.read_text("utf-8").replace(",00:00:02,000", "").replace(',"00:00:02,000"', ""), "utf-8")
    assert "line 2: the row ends before column EndTime" in refusal(tmp_path)


def test_a_quote_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train_sent_emo.csv", [Row(text="plain")])
    path.write_text(path.read_text("utf-8").replace("plain", '"plain'), "utf-8")
    assert "mend the row" in refusal(tmp_path)


def test_a_file_in_another_encoding_is_refused_with_a_way_to_convert_it(tmp_path: Path) -> None:
    write_csv(tmp_path / "train_sent_emo.csv", [Row(text="It’s")], encoding="cp1252")
    message = refusal(tmp_path)
    assert "is not UTF-8" in message
    assert "iconv -f cp1252" in message


def test_two_different_csvs_at_the_same_depth_are_refused_by_name(tmp_path: Path) -> None:
    write_csv(tmp_path / "a" / "train_sent_emo.csv", ONE_ROW)
    write_csv(tmp_path / "b" / "train_sent_emo.csv", [Row(text="Another")])
    assert "a/train_sent_emo.csv, b/train_sent_emo.csv" in refusal(tmp_path)


def test_two_folders_of_clips_for_one_split_are_refused_by_name(tmp_path: Path) -> None:
    write_split(tmp_path, ONE_ROW, split="dev")
    touch(tmp_path / "videos" / "dev", "dia0_utt0.mp4")
    assert "more than one folder of dev clips: dev_splits_complete, videos/dev" in refusal(tmp_path)


# MELD's own annotations, where they are at hand.


@needs_meld_csv
def test_melds_own_annotations_have_every_row() -> None:
    dataset = read_meld(MELD_CSV)
    assert {split.name: len(split.utterances) for split in dataset.splits} == {"train": 9989, "dev": 1109, "test": 2610}
    assert {split.csv for split in dataset.splits} == {f"{split}_sent_emo.csv" for split in ("train", "dev", "test")}
    assert not any(row.text_repaired for split in dataset.splits for row in split.utterances)


@needs_meld_csv
def test_the_first_published_texts_are_repaired_to_the_ones_of_today() -> None:
    today = {row.key: row for split in read_meld(MELD_CSV).splits for row in split.utterances}
    first = {row.key: row for split in read_meld(MELD_CSV / "first-published").splits for row in split.utterances}
    assert first.keys() == today.keys()
    assert [key for key, row in first.items() if row.text != today[key].text] == []
    assert sum(row.text_repaired for row in first.values()) > 3000


def test_an_annotation_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "train_sent_emo.csv").symlink_to("/proc/self/mem")  # a file whose reading fails, also for root
    with pytest.raises(DatasetError, match="cannot be read") as caught:
        read_meld(tmp_path)
    assert "\n  next: " in str(caught.value)
