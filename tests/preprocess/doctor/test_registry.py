import re
from pathlib import Path

import pytest

from preprocess.datasets.annotations import Dataset
from preprocess.datasets.meld import read_meld
from preprocess.doctor.findings import Finding
from preprocess.doctor.registry import GENERATIONS, Issue, compare, load_registry, parse_registry
from shards.files import sha256_file
from tests.support.clips import CLIP_FOLDERS, Row, write_csv

MELD_CSV = Path(__file__).parents[4] / "shared" / "meld-csv"
needs_meld_csv = pytest.mark.skipif(not MELD_CSV.is_dir(), reason="needs ../shared/meld-csv, MELD's own annotations")


def make_dataset(root: Path, *rows: Row, split: str = "train", files: tuple[str, ...] = ()) -> Dataset:
    write_csv(root / f"{split}_sent_emo.csv", rows)
    folder = root / CLIP_FOLDERS[split]
    folder.mkdir()
    for name in files:
        (folder / name).touch()
    return read_meld(root)


def make_issue(**changes: object) -> Issue:
    values: dict[str, object] = {
        "split": "train", "clips": ("dia1_utt2",), "problem": "none", "links": ("https://example.org/1",),
        "detectable_by": ("long",),
    }  # fmt: skip
    return Issue(**{**values, **changes})  # type: ignore[arg-type]


def test_the_official_counts_are_those_of_the_package() -> None:
    counts = {name: (split.rows, split.clips) for name, split in load_registry().splits.items()}
    assert counts == {"train": (9989, 9989), "dev": (1109, 1112), "test": (2610, 2747)}


def test_every_issue_says_where_it_is_said_and_names_clips_of_meld() -> None:
    for issue in load_registry().issues:
        assert all(re.fullmatch(r"https://github\.com/declare-lab/MELD/issues/\d+", link) for link in issue.links)
        assert all(re.match(r"(final_videos_test)?dia(\d+|\*)_utt", clip) for clip in issue.clips)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": "training"}, "split is 'training'"),
        ({"clips": ()}, "lacks its clips"),
        ({"links": ()}, "lacks its clips, its problem or its links"),
        ({"links": ("MELD#9",)}, "no links: MELD#9"),
        ({"detectable_by": ("guess",)}, "there is no detector guess"),
    ],
)
def test_an_issue_that_cannot_be_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_issue(**changes)


@pytest.mark.parametrize(
    "text", ["splits = 1", "[[splits]]\nname = 'train'\n", "[[splits", "tables = []\nissues = []\n"]
)
def test_a_registry_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"field|Expected|TOML|Unclosed|array"):
        parse_registry(text)


def test_what_is_no_row_of_the_data_set_is_not_reported(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, Row(dialogue_id=0, utterance_id=0))
    assert compare(load_registry(), dataset, []) == []


def test_a_listed_row_is_confirmed_by_the_detector_that_found_it(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, Row(dialogue_id=125, utterance_id=3), files=("dia125_utt3.mp4",))
    finding = Finding(detector="unreadable-clip", split="train", key="train-dia125-utt3", detail="no header")
    (entry,) = compare(load_registry(), dataset, [finding])
    assert entry.verdict == "confirmed by unreadable-clip"
    assert entry.links[0].endswith("/issues/39")


@pytest.mark.parametrize(
    ("detector", "split", "key"),
    [
        ("same-time", "train", "train-dia125-utt3"),
        ("unreadable-clip", "train", "train-dia125-utt33"),
        ("unreadable-clip", "dev", "dev-dia125-utt3"),
    ],
)
def test_another_detector_or_another_row_confirms_nothing(tmp_path: Path, detector: str, split: str, key: str) -> None:
    dataset = make_dataset(tmp_path, Row(dialogue_id=125, utterance_id=3), files=("dia125_utt3.mp4",))
    (entry,) = compare(load_registry(), dataset, [Finding(detector=detector, split=split, key=key, detail="")])
    assert entry.verdict == "listed, not seen here"


def test_without_clips_it_is_said_that_there_was_nothing_to_see(tmp_path: Path) -> None:
    (entry,) = compare(load_registry(), make_dataset(tmp_path, Row(dialogue_id=125, utterance_id=3)), [])
    assert entry.verdict == "listed; there are no clips to look at"


def test_what_no_detector_can_find_is_reported_as_such(tmp_path: Path) -> None:
    rows = [Row(dialogue_id=241, utterance_id=number) for number in (0, 1, 12)]
    entries = compare(load_registry(), make_dataset(tmp_path, *rows), [])
    assert [entry.clip for entry in entries] == ["dia241_utt1", "dia241_utt12"]
    assert {entry.verdict for entry in entries} == {"listed; no detector can tell"}


def test_a_clip_without_a_row_and_a_twin_are_found_by_their_files(tmp_path: Path) -> None:
    files = ("dia0_utt0.mp4", "dia108_utt2.mp4", "final_videos_testdia0_utt0.mp4")
    dataset = make_dataset(tmp_path, Row(), split="test", files=files)
    entries = compare(load_registry(), dataset, [])
    assert [entry.clip for entry in entries] == ["dia108_utt2", "final_videos_testdia0_utt0"]


@needs_meld_csv
@pytest.mark.parametrize(("folder", "generation"), [("", "present"), ("first-published", "first")])
def test_the_published_tables_are_known_by_their_digests(folder: str, generation: str) -> None:
    for split in ("train", "dev", "test"):
        digest = sha256_file(MELD_CSV / folder / f"{split}_sent_emo.csv")
        assert load_registry().generation_of(split, digest) == generation
    assert generation in GENERATIONS


def test_another_table_is_none_of_the_published_ones() -> None:
    assert load_registry().generation_of("train", "0" * 64) is None


@needs_meld_csv
def test_every_listed_row_is_a_row_of_meld() -> None:
    dataset = read_meld(MELD_CSV)
    rows = {
        (split.name, f"dia{row.dialogue_id}_utt{row.utterance_id}")
        for split in dataset.splits
        for row in split.utterances
    }
    without_row = {"dia49_utt4", "dia49_utt5", "dia66_utt9", "dia66_utt10", "dia108_utt2"}
    for issue in load_registry().issues:
        for clip in issue.clips:
            if "*" not in clip:
                assert ((issue.split, clip) in rows) is (clip not in without_row)
