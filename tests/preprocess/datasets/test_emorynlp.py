from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets.annotations import DatasetSplit, Span, Utterance
from preprocess.datasets.emorynlp import EMORYNLP_EMOTION, is_emorynlp, read_emorynlp
from preprocess.errors import DatasetError
from shards.schema import LabelSet
from tests.support.tables import EMORYNLP_COLUMNS, emorynlp_row, touch, write_table

CLIP = "sea1_ep15_sc1_utt1.mp4"


def write_split(root: Path, *rows: dict[str, str], split: str = "train") -> Path:
    return write_table(root / f"emorynlp_{split}_final.csv", rows or (emorynlp_row(),))


def splits_of(root: Path) -> dict[str, DatasetSplit]:
    return {split.name: split for split in read_emorynlp(root).splits}


def only_row(root: Path) -> Utterance:
    (split,) = read_emorynlp(root).splits
    (row,) = split.utterances
    return row


def refusal(root: Path) -> str:
    """Read a folder that is to be refused; return the message, which must name a file and say what to do."""
    with pytest.raises(DatasetError) as caught:
        read_emorynlp(root)
    message = str(caught.value)
    assert f"\n  file: {root}" in message
    assert "\n  next: " in message
    return message


def test_all_that_a_row_says_is_read(tmp_path: Path) -> None:
    assert tuple(emorynlp_row()) == EMORYNLP_COLUMNS
    write_split(tmp_path, emorynlp_row(12, Emotion="Scared", Utterance="It\x92s me"))
    touch(tmp_path, "emorynlp_train_splits/sea1_ep15_sc1_utt12.mp4")
    assert only_row(tmp_path) == Utterance(
        key="train-sea1-ep15-sc1-utt12",
        split="train",
        dialogue_id="sea1_ep15_sc1",
        utterance_id="12",
        turn_index=0,
        speaker="Rachel Green",
        text="It’s me",
        text_repaired=True,
        labels={"emotion": "scared"},
        clip="emorynlp_train_splits/sea1_ep15_sc1_utt12.mp4",
        clip_name="sea1_ep15_sc1_utt12.mp4",
        season="1",
        episode="15",
        span=Span(start_seconds=3.795, end_seconds=5.004),
    )


def test_the_span_says_when_in_the_episode_and_does_not_cut_the_clip(tmp_path: Path) -> None:
    write_split(tmp_path)
    row = only_row(tmp_path)
    assert row.part is None
    assert row.annotated_seconds == 1.209


def test_there_is_one_task_with_the_seven_emotions_of_emorynlp(tmp_path: Path) -> None:
    write_split(tmp_path)
    names = ("joyful", "mad", "neutral", "peaceful", "powerful", "sad", "scared")
    assert read_emorynlp(tmp_path).label_sets == (EMORYNLP_EMOTION,) == (LabelSet(task="emotion", names=names),)


@pytest.mark.parametrize(
    "folders",
    [
        {"train": "emorynlp_train_splits", "dev": "emorynlp_dev_splits", "test": "emorynlp_test_splits"},
        {"train": "videos/Train", "dev": "videos/dev", "test": "videos/test"},
        {"train": "x/train_splits/train_splits", "dev": "x/dev_splits", "test": "x/test_splits"},
    ],
)
def test_every_split_has_its_own_clips_even_of_one_name(tmp_path: Path, folders: dict[str, str]) -> None:
    for split, folder in folders.items():
        write_split(tmp_path / "data" / "emorynlp", split=split)
        touch(tmp_path, f"{folder}/{CLIP}")
    found = {name: split.utterances[0].clip for name, split in splits_of(tmp_path).items()}
    assert found == {split: f"{folder}/{CLIP}" for split, folder in folders.items()}


def test_clips_of_all_splits_may_lie_in_one_folder(tmp_path: Path) -> None:
    write_split(tmp_path, emorynlp_row(1))
    write_split(tmp_path, emorynlp_row(2), split="dev")
    touch(tmp_path, "all/sea1_ep15_sc1_utt1.mp4", "all/sea1_ep15_sc1_utt2.mp4")
    assert [split.utterances[0].clip for split in splits_of(tmp_path).values()] == [
        "all/sea1_ep15_sc1_utt1.mp4",
        "all/sea1_ep15_sc1_utt2.mp4",
    ]


def test_a_clip_of_another_split_never_stands_in(tmp_path: Path) -> None:
    write_split(tmp_path)
    write_split(tmp_path, split="dev")
    touch(tmp_path, f"emorynlp_dev_splits/{CLIP}")
    assert splits_of(tmp_path)["train"].utterances[0].clip == ""


def test_a_row_without_a_clip_stays_and_says_what_was_looked_for(tmp_path: Path) -> None:
    write_split(tmp_path)
    touch(tmp_path, f"emorynlp_train_splits/._{CLIP}")
    assert (only_row(tmp_path).clip, only_row(tmp_path).clip_name) == ("", CLIP)


def test_files_that_are_no_rows_clip_are_named_by_the_split_of_their_folder(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write_split(tmp_path, split=split)
        touch(tmp_path, f"{split}/{CLIP}", f"{split}/sea9_ep9_sc9_utt9.mp4", f"{split}/._{CLIP}")
    touch(tmp_path, "sea8_ep8_sc8_utt8.mp4", "other.mp4")
    found = splits_of(tmp_path)
    assert found["train"].orphan_clips == ("train/sea9_ep9_sc9_utt9.mp4", "sea8_ep8_sc8_utt8.mp4")
    assert found["train"].ignored_files == (f"train/._{CLIP}", "other.mp4")
    assert found["dev"].orphan_clips == ("dev/sea9_ep9_sc9_utt9.mp4",)
    assert [split.num_files for split in found.values()] == [5, 3]


def test_turns_count_the_rows_of_a_scene_by_their_ids(tmp_path: Path) -> None:
    places = [(6, 8), (6, 2), (7, 1), (6, 1), (7, 5)]
    write_split(tmp_path, *(emorynlp_row(utterance, Scene_ID=str(scene)) for scene, utterance in places))
    rows = splits_of(tmp_path)["train"].utterances
    assert [(row.utterance_id, row.turn_index) for row in rows] == [("1", 0), ("2", 1), ("8", 2), ("1", 0), ("5", 1)]


def test_scenes_of_one_number_in_two_episodes_are_two_dialogues(tmp_path: Path) -> None:
    write_split(tmp_path, emorynlp_row(1), emorynlp_row(1, Episode="16"), emorynlp_row(1, Season="2"))
    rows = splits_of(tmp_path)["train"].utterances
    assert [row.dialogue_id for row in rows] == ["sea1_ep15_sc1", "sea1_ep16_sc1", "sea2_ep15_sc1"]


@pytest.mark.parametrize(
    ("text", "speaker"),
    [
        ("['Monica Geller']", "Monica Geller"),
        ("['Monica Geller', 'Ross Geller']", "Monica Geller, Ross Geller"),
        ('["Joey\'s Sister"]', "Joey's Sister"),
        ("Monica", "Monica"),
        ("[]", ""),
        ("7", "7"),
        ("['Monica", "['Monica"),
        ("{[]: 1}", "{[]: 1}"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_speakers_are_read_from_their_list(tmp_path: Path, text: str, speaker: str) -> None:
    write_split(tmp_path, emorynlp_row(Speaker=text))
    assert only_row(tmp_path).speaker == speaker


@given(names=st.lists(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)), min_size=1, max_size=4))
def test_any_list_of_names_is_read_back(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("emorynlp")
    write_split(root, emorynlp_row(Speaker=repr(names)))
    assert only_row(root).speaker == ", ".join(names)


def test_a_split_without_a_csv_is_named_missing(tmp_path: Path) -> None:
    write_split(tmp_path, split="test")
    dataset = read_emorynlp(tmp_path)
    assert [split.name for split in dataset.splits] == ["test"]
    assert dataset.missing_splits == ("train", "dev")


def test_an_equal_copy_of_a_csv_is_no_trouble_and_is_named(tmp_path: Path) -> None:
    write_split(tmp_path / "a")
    write_split(tmp_path / "b")
    write_split(tmp_path / "a" / "old", emorynlp_row(Utterance="Older"))
    dataset = read_emorynlp(tmp_path)
    assert dataset.splits[0].csv == "a/emorynlp_train_final.csv"
    assert dataset.other_csvs == ("b/emorynlp_train_final.csv", "a/old/emorynlp_train_final.csv")


# What is refused.


def test_a_folder_without_its_csvs_is_refused_saying_what_was_looked_for(tmp_path: Path) -> None:
    write_table(tmp_path / "train.csv", [emorynlp_row()])
    assert not is_emorynlp(tmp_path)
    assert "looked for emorynlp_train_final.csv" in refusal(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = write_split(tmp_path)
    assert not is_emorynlp(path)
    assert "this is no EmoryNLP folder" in refusal(path)


def test_a_damaged_csv_is_refused_rather_than_taken_for_a_missing_split(tmp_path: Path) -> None:
    write_split(tmp_path)
    path = write_split(tmp_path, split="dev")
    path.write_text(path.read_text("utf-8").replace("Scene_ID", "Scene"), "utf-8")
    assert is_emorynlp(tmp_path)
    message = refusal(tmp_path)
    assert "columns are missing: Scene_ID" in message
    assert f"file: {path}\n" in message


def test_two_different_csvs_at_the_same_depth_are_refused_by_name(tmp_path: Path) -> None:
    write_split(tmp_path / "a")
    write_split(tmp_path / "b", emorynlp_row(Utterance="Another"))
    assert "a/emorynlp_train_final.csv, b/emorynlp_train_final.csv" in refusal(tmp_path)


def test_two_clips_of_one_name_for_one_split_are_refused_by_name(tmp_path: Path) -> None:
    write_split(tmp_path)
    touch(tmp_path, f"train/{CLIP}", f"videos/train/{CLIP}")
    assert f"two clips of one name: train/{CLIP}, videos/train/{CLIP}" in refusal(tmp_path)


BAD_ROWS = {
    "emotion": (emorynlp_row(2, Emotion="Bored"), "line 3: Emotion is 'Bored', not one of joyful, mad"),
    "scene": (emorynlp_row(2, Scene_ID="1.5"), "line 3: Scene_ID must be a whole number, got '1.5'"),
    "season": (emorynlp_row(2, Season="-1"), "line 3: Season must be a whole number, got '-1'"),
    "start": (emorynlp_row(2, Start_Time="soon"), "line 3: 'soon' is no time like"),
    "twice": (emorynlp_row(1, Utterance="Again"), f"line 3: the row of {CLIP} comes twice"),
}


@pytest.mark.parametrize(("row", "what"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_row_that_cannot_be_read_is_refused_with_its_line(tmp_path: Path, row: dict[str, str], what: str) -> None:
    write_split(tmp_path, emorynlp_row(1), row)
    assert what in refusal(tmp_path)
