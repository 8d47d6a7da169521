import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocess.doctor.diagnose import Diagnosis, diagnose, diagnosis_to_json
from preprocess.doctor.findings import DETECTORS, Finding
from tests.support.clips import (
    CLIP_FOLDERS,
    SAMPLE_RATE,
    Row,
    clip_path,
    cut_without_encoding,
    index_pictures,
    tone,
    write_clip,
    write_crashing_clip,
    write_csv,
)
from tests.support.commands import mmsent

pytestmark = pytest.mark.slow

SHARED = Path(__file__).parents[4] / "shared"
MELD_MINI = SHARED / "meld-mini"
MELD_CSV = SHARED / "meld-csv"
needs_meld_mini = pytest.mark.skipif(not MELD_MINI.is_dir(), reason="needs ../shared/meld-mini")
needs_meld_csv = pytest.mark.skipif(not MELD_CSV.is_dir(), reason="needs ../shared/meld-csv, MELD's own annotations")
SUBSET = {"row-count", "clip-count"}
"""What is said of every data set that is not all of MELD."""


def diagnosed(root: Path, *, deep: bool = False) -> Diagnosis:
    return diagnose(root, deep=deep, num_workers=1, on_progress=lambda stage, done, total: None)


def found(diagnosis: Diagnosis) -> dict[str, list[str]]:
    """Return where each detector found something, without what is said of every small data set."""
    groups = diagnosis.by_detector().items()
    return {name: [item.where for item in group] for name, group in groups if name not in SUBSET}


def detail_of(diagnosis: Diagnosis, detector: str) -> str:
    (finding,) = diagnosis.by_detector()[detector]
    return finding.detail


def spaced(number: int) -> Row:
    """Make a row a second long, ten seconds behind the one before."""
    return Row(
        dialogue_id=0, utterance_id=number, start=f"00:00:{10 * number:02},000", end=f"00:00:{10 * number + 1:02},000",
        serial=number + 1,
    )  # fmt: skip


@cache
def clip_bytes(number: int) -> bytes:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        channels = np.stack([tone(SAMPLE_RATE, hertz=200 + 50 * number)] * 2)
        return write_clip(Path(folder) / "clip.mp4", channels=channels).read_bytes()


def write_split(root: Path, *rows: Row, split: str = "train") -> Path:
    """Write a split whose clips fit their rows, no two alike."""
    write_csv(root / f"{split}_sent_emo.csv", rows)
    for number, row in enumerate(rows):
        path = clip_path(root, split, row)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(clip_bytes(number + 3 * len(split)))
    return root


@pytest.fixture
def meld(tmp_path: Path) -> Path:
    """A whole data set of three rows without trouble; dev and test play at another time than train."""
    write_split(tmp_path, spaced(0))
    write_split(tmp_path, spaced(2), split="dev")
    write_split(tmp_path, spaced(4), split="test")
    for split, number in (("dev", 2), ("test", 4)):
        write_split(tmp_path, replace(spaced(number), utterance_id=0), split=split)
        clip_path(tmp_path, split, spaced(number)).unlink(missing_ok=True)
    return tmp_path


def test_a_data_set_without_trouble_has_no_findings_but_its_size(meld: Path) -> None:
    diagnosis = diagnosed(meld)
    assert found(diagnosis) == {}
    assert diagnosis.count("error") == 0
    assert {finding.detector for finding in diagnosis.findings} == SUBSET
    assert found(diagnosed(meld, deep=True)) == {}


@pytest.mark.parametrize(
    ("changes", "detector"),
    [
        ({"emotion": "joy", "sentiment": "negative"}, "label-contradiction"),
        ({"end": "00:00:00,099"}, "no-duration"),
        ({"start": "00:00:05,000"}, "no-duration"),
        ({"end": "00:00:00,199"}, "short-row"),
        ({"end": "00:00:31,000", "text": "word " * 20}, "long"),
        ({"end": "00:00:20,000"}, "few-words"),
        ({"end": "00:00:04,000"}, "duration-mismatch"),
        ({"text": "it\x92s"}, "control-characters"),
        ({"text": "so\x85"}, "line-separator"),
        ({"end": "0:00:01,000"}, "one-digit-hour"),
        ({"end": "00:00:01,00"}, "odd-milliseconds"),
        ({"utterance_id": 1}, "id-gap"),
    ],
)
def test_a_row_that_is_odd_is_found(meld: Path, changes: dict[str, Any], detector: str) -> None:
    write_split(meld, replace(spaced(0), **changes))
    assert detector in found(diagnosed(meld))


@pytest.mark.parametrize(
    ("emotion", "sentiment"),
    [("joy", "positive"), ("fear", "negative"), ("surprise", "positive"), ("surprise", "negative")],
)
def test_labels_that_agree_are_no_finding(meld: Path, emotion: str, sentiment: str) -> None:
    write_split(meld, replace(spaced(0), emotion=emotion, sentiment=sentiment))
    assert found(diagnosed(meld)) == {}


def test_rows_at_one_time_and_numbers_that_repeat_are_found(meld: Path) -> None:
    write_split(meld, spaced(0), replace(spaced(0), utterance_id=1))
    assert found(diagnosed(meld)) == {"same-time": ["train-dia0-utt0"], "repeated-number": ["train_sent_emo.csv"]}


@pytest.mark.parametrize(("start", "leaks"), [("00:00:00,400", True), ("00:00:00,600", False)])
def test_a_test_row_more_than_half_inside_a_train_row_is_leakage(meld: Path, start: str, leaks: bool) -> None:
    end = re.sub(r"00,", "01,", start)
    write_split(meld, replace(spaced(0), start=start, end=end), split="test")
    assert ("leakage" in found(diagnosed(meld))) is leaks


def test_a_row_within_the_one_long_row_before_many_short_ones_is_leakage(meld: Path) -> None:
    rows = [replace(spaced(0), end="00:00:29,000", text="word " * 20), *(spaced(number) for number in (1, 2))]
    write_split(meld, *rows)
    write_split(meld, replace(spaced(0), start="00:00:27,000", end="00:00:28,000"), split="test")
    assert "test-dia0-utt0" in found(diagnosed(meld))["leakage"]


def lose(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    write_clip(path, options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-3000])


def cut_off_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])


def mute(path: Path) -> None:
    write_clip(path, layout=None)


def hide(path: Path) -> None:
    whole = write_clip(path.with_name("whole"))
    cut_without_encoding(path, whole, hidden=5)
    whole.unlink()


DAMAGES: Mapping[str, Callable[[Path], object]] = {
    "empty-clip": empty,
    "truncated-clip": cut,
    "unreadable-clip": cut_off_header,
    "no-audio": mute,
    "surround": lambda path: write_clip(path, layout="5.1"),
    "variable-frame-rate": lambda path: write_clip(path, pictures=12, gaps=[1] * 8 + [4] * 4),
    "odd-size": lambda path: write_clip(path, pictures=index_pictures(24, height=32, width=32)),
    "one-frame": lambda path: write_clip(path, pictures=1),
    "sound-mismatch": lambda path: write_clip(path, channels=np.stack([tone(SAMPLE_RATE // 4)] * 2)),
    "hidden-frames": hide,
    "large-file": lambda path: path.write_bytes(path.read_bytes() + b"\0\0\0\0free" + bytes(3_000_000)),
    "fragmented": lambda path: write_clip(path, options={"movflags": "frag_keyframe+empty_moov"}),
}


@pytest.mark.parametrize("detector", DAMAGES)
def test_a_clip_that_is_odd_is_found_without_opening_it(meld: Path, detector: str) -> None:
    DAMAGES[detector](clip_path(meld, "dev", Row()))
    assert found(diagnosed(meld))[detector] == ["dev-dia0-utt0"]


@pytest.mark.parametrize("detector", ["truncated-clip", "empty-clip", "unreadable-clip", "no-audio"])
def test_what_costs_a_row_a_modality_is_an_error(detector: str) -> None:
    assert DETECTORS[detector].severity == "error"


def test_a_missing_clip_is_found_by_its_row(meld: Path) -> None:
    write_split(meld, spaced(0), spaced(1))
    lose(clip_path(meld, "train", spaced(1)))
    diagnosis = diagnosed(meld)
    assert found(diagnosis) == {"missing-clip": ["train-dia0-utt1"]}
    assert "dia0_utt1.mp4" in detail_of(diagnosis, "missing-clip")


def test_a_split_without_a_clip_folder_is_one_finding(meld: Path) -> None:
    write_split(meld, *(spaced(number) for number in range(5)))
    shutil.rmtree(meld / CLIP_FOLDERS["train"])
    assert found(diagnosed(meld))["no-clips"] == ["train"]
    assert "missing-clip" not in found(diagnosed(meld))


def test_a_split_without_annotations_is_said(meld: Path) -> None:
    (meld / "dev_sent_emo.csv").unlink()
    assert found(diagnosed(meld)) == {"missing-split": ["dev"]}


def test_files_of_no_row_are_found(meld: Path) -> None:
    folder = meld / CLIP_FOLDERS["dev"]
    for name in ("dia7_utt7.mp4", "._dia0_utt0.mp4", "notes.txt"):
        (folder / name).write_bytes(b"x")
    where = found(diagnosed(meld))
    assert where["extra-clip"] == [f"{CLIP_FOLDERS['dev']}/dia7_utt7.mp4"]
    assert [path.rpartition("/")[2] for path in where["no-clip-file"]] == ["._dia0_utt0.mp4", "notes.txt"]


def test_equal_bytes_under_two_rows_are_found_across_splits(meld: Path) -> None:
    shutil.copy(clip_path(meld, "train", Row()), clip_path(meld, "test", Row()))
    assert found(diagnosed(meld)) == {"same-content": ["train-dia0-utt0"]}


def test_files_of_one_size_and_other_bytes_are_not_the_same(meld: Path) -> None:
    path = clip_path(meld, "test", Row())
    path.write_bytes(clip_path(meld, "train", Row()).read_bytes().replace(b"isom", b"isoM"))
    assert found(diagnosed(meld)) == {}


@pytest.mark.parametrize(("frames", "detector"), [(24, "twin-fits"), (72, "twin-does-not-fit")])
def test_both_durations_of_a_twin_are_measured(meld: Path, frames: int, detector: str) -> None:
    plain = clip_path(meld, "test", Row())
    write_clip(plain.with_name(f"final_videos_test{plain.name}"), pictures=np.zeros((frames, 48, 64, 3), np.uint8))
    write_clip(plain, pictures=np.zeros((48, 48, 64, 3), np.uint8))
    diagnosis = diagnosed(meld)
    assert detail_of(diagnosis, detector) == (
        f"the twin lasts {frames / 24:.2f} s, the plain clip 2.00 s, the annotation 1.00 s"
    )
    assert ("duration-mismatch" in found(diagnosis)) is (frames != 24)


def test_deep_finds_silence_and_sound_at_its_limit(meld: Path) -> None:
    write_clip(clip_path(meld, "dev", Row()), channels=np.zeros((2, SAMPLE_RATE), np.float32))
    loud = np.clip(tone(SAMPLE_RATE, amplitude=4.0), -1, 1)
    write_clip(clip_path(meld, "test", Row()), channels=np.stack([loud, loud]))
    assert found(diagnosed(meld)) == {}
    assert found(diagnosed(meld, deep=True)) == {"silent": ["dev-dia0-utt0"], "clipped": ["test-dia0-utt0"]}


def test_deep_opens_a_clip_whose_header_is_not_believed(meld: Path) -> None:
    write_crashing_clip(clip_path(meld, "dev", Row()))
    assert "unreadable-clip" in found(diagnosed(meld))
    assert {"odd-header", "unreadable-clip"} & set(found(diagnosed(meld, deep=True)))


def test_json_holds_every_finding_with_its_severity(meld: Path) -> None:
    mute(clip_path(meld, "dev", Row()))
    value = json.loads(json.dumps(diagnosis_to_json(diagnosed(meld))))
    assert value["errors"] == 1
    errors = [item for item in value["findings"] if item["severity"] == "error"]
    assert [(item["detector"], item["key"]) for item in errors] == [("no-audio", "dev-dia0-utt0")]


@pytest.mark.parametrize(("damage", "code"), [(None, 0), (mute, 1)])
def test_the_command_ends_with_1_for_errors_and_0_for_less(
    meld: Path, damage: Callable[[Path], None] | None, code: int
) -> None:
    if damage is not None:
        damage(clip_path(meld, "dev", Row()))
    result = mmsent("doctor", meld, "--html", meld / "report.html")
    assert result.returncode == code, result.stderr
    assert "1 of 9,989" in result.stdout
    assert ("error no-audio" in result.stdout) is (code == 1)
    assert (meld / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_names_of_files_are_shown_as_they_are(meld: Path) -> None:
    (meld / CLIP_FOLDERS["dev"] / "[red]x.txt").touch()
    assert "[red]x.txt: not named like a clip" in mmsent("doctor", meld).stdout


def test_every_detector_says_what_it_means() -> None:
    assert all(detector.title and detector.meaning.endswith((".", ")")) for detector in DETECTORS.values())


# MELD's own annotations, and a data set in its format whose every quirk is written down beside it.


@needs_meld_csv
@pytest.mark.parametrize("folder", ["", "first-published"])
def test_the_annotations_of_meld_give_what_is_known_of_them(folder: str) -> None:
    diagnosis = diagnosed(MELD_CSV / folder)
    where = found(diagnosis)
    assert where["no-clips"] == ["train", "dev", "test"]
    assert "missing-clip" not in where
    assert {"test-dia38-utt4", "test-dia220-utt0"} <= set(where["long"])
    assert by_split(where["no-duration"]) == {"train": 8, "dev": 2, "test": 1}
    assert by_split(where["leakage"]) == {"dev": 5, "test": 26}
    assert ("control-characters" in where) is (folder != "")
    words = "first published" if folder else "GitHub's present form"
    assert all(split.text_form.startswith(words) and split.table == split.text_form for split in diagnosis.splits)
    assert "label-contradiction" not in where


def by_split(keys: list[str]) -> dict[str, int]:
    splits = [key.partition("-")[0] for key in keys]
    return {split: splits.count(split) for split in dict.fromkeys(splits)}


QUIRKS: Mapping[str, str] = {
    "corrupt_clip": "unreadable-clip",
    "missing_clip": "missing-clip",
    "orphan_clip": "extra-clip",
    "miscut_clip": "duration-mismatch",
    "long_clip_agreeing_with_csv": "long",
    "appledouble": "no-clip-file",
    "final_videos_extra": "twin-does-not-fit",
    "corrected_twin": "twin-fits",
    "no_audio_stream": "no-audio",
    "one_frame": "one-frame",
    "variable_frame_rate": "variable-frame-rate",
    "audio_5.1": "surround",
    "two_digit_milliseconds": "odd-milliseconds",
    "very_short_row": "short-row",
    "capped_by_us": "duration-mismatch",
    "one_digit_hour": "one-digit-hour",
    "utterance_id_gap": "id-gap",
    "sr_no_not_unique": "repeated-number",
    "U+0085_in_text": "line-separator",
    "c1_characters": "control-characters",
    "sentiment_not_a_function_of_emotion": "ambiguous-sentiment",
}
FLAGS: Mapping[str, str] = {
    "6ch": "surround",
    "UNREADABLE": "unreadable-clip",
    "NOAUDIO": "no-audio",
    "VFR": "variable-frame-rate",
    "DUR!=CSV": "duration-mismatch",
    "ORPHAN": "extra-clip",
    "MISSING": "missing-clip",
    "1FRAME": "one-frame",
}


@cache
def expected() -> Any:
    """Return EXPECTED.json; without it, a text of its shape, so that the tests can be collected and skipped."""
    path = MELD_MINI / "EXPECTED.json"
    return json.loads(path.read_bytes()) if path.is_file() else {"quirks": [], "clips": {}}


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["headers", "deep"])
def mini(request: pytest.FixtureRequest) -> Diagnosis:
    return diagnosed(MELD_MINI, deep=request.param)


def names(finding: Finding, split: str, file: str) -> bool:
    """Say whether a finding is about a file, or lists the row of it."""
    if split not in ("all", finding.split):
        return False
    row = f"{split}-{file.removesuffix('.mp4').replace('_', '-')}"
    return Path(finding.file).match(file) or row in re.split(r"[ ,]+", finding.detail)


@needs_meld_mini
@pytest.mark.parametrize("quirk", expected()["quirks"], ids=lambda quirk: f"{quirk['kind']}-{quirk['file']}")
def test_every_quirk_is_named(mini: Diagnosis, quirk: Any) -> None:
    detectors = [QUIRKS[quirk["kind"]]]  # a kind without a detector fails: it is to be written
    if quirk["kind"] == "very_short_row" and quirk["facts"]["csv_dur"] < 0.1:
        detectors = ["no-duration"]
    if quirk["kind"] == "miscut_clip":
        detectors.append("long")
    for detector in detectors:
        assert any(names(finding, quirk["split"], quirk["file"]) for finding in mini.by_detector()[detector]), detector


@needs_meld_mini
def test_every_flag_of_a_clip_is_found_and_no_other_clip_has_it(mini: Diagnosis) -> None:
    for flag, detector in FLAGS.items():
        said = {
            name
            for name, clip in expected()["clips"].items()
            if flag in clip.get("flags", []) and "NAME" not in clip["flags"]
        }
        files = {f"{item.split}/{item.file.rpartition('/')[2]}" for item in mini.by_detector().get(detector, [])}
        assert files == said, flag


@needs_meld_mini
def test_what_is_known_of_meld_is_confirmed_where_it_is_here(mini: Diagnosis) -> None:
    verdicts = {entry.clip: entry.verdict for entry in mini.listed}
    assert verdicts["dia125_utt3"] == "confirmed by unreadable-clip"
    assert verdicts["dia220_utt0"] == "confirmed by long"
    assert verdicts["dia66_utt9"] == "confirmed by extra-clip"
    assert verdicts["final_videos_testdia155_utt8"] == "confirmed by twin-fits"
    assert verdicts["final_videos_testdia245_utt2"] == "confirmed by twin-does-not-fit"
    assert "dia38_utt4" not in verdicts  # no row of this data set
