"""The real command on a data set in MELD's real format, whose every quirk is written down beside it."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from shards.reading.split import read_split
from shards.schema import SampleMeta

ROOT = Path(__file__).parents[2]
MELD_MINI = ROOT.parent / "shared" / "meld-mini"
SPLITS = ("train", "dev", "test")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not MELD_MINI.is_dir(), reason="needs ../shared/meld-mini, a data set that may not be published"
    ),
]


@cache
def expected() -> Any:
    """Return EXPECTED.json; without it, a text of its shape, so that the tests can be collected and skipped."""
    path = MELD_MINI / "EXPECTED.json"
    return json.loads(path.read_bytes()) if path.is_file() else {"quirks": [], "clips": {}, "csv": {}, "splits": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run of the command gave."""

    exit_code: int
    report: Any
    metas: dict[str, dict[str, SampleMeta]]
    """By split, then by `dia12_utt3`; in the order of the shards."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("meld-mini") / "shards"
    code = "from cli import main; main()"
    options = ["--out", str(out), "--text-encoder", "scratch", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, "preprocess", str(MELD_MINI), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    metas = {
        split: {
            f"dia{sample.meta.dialogue_id}_utt{sample.meta.utterance_id}": sample.meta
            for sample in read_split(out / split)
        }
        for split in SPLITS
    }
    return Run(exit_code=done.returncode, report=json.loads(done.stdout), metas=metas)


def rows_of(keys: list[str]) -> list[str]:
    """`train-dia12-utt3` -> `dia12_utt3`."""
    return [key.partition("-")[2].replace("-", "_") for key in keys]


def notes_of(meta: SampleMeta) -> dict[str, str]:
    return {note.kind: note.detail for note in meta.notes}


def test_the_command_ends_well(run: Run) -> None:
    assert run.exit_code == 0
    assert run.report["splits"].keys() == set(SPLITS)
    assert run.report["missing_splits"] == []


# The report, by split.


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_a_sample(run: Run, split: str) -> None:
    report, said = run.report["splits"][split], expected()["splits"][split]
    assert report["num_rows"] == report["num_samples"] == len(run.metas[split]) == said["rows"]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("said_name", "report_name"),
    [
        ("rows_without_clip", "rows_without_clip"),
        ("unreadable_clips", "unreadable_clips"),
        ("no_audio", "rows_without_sound"),
    ],
)
def test_rows_that_lack_something_are_listed(run: Run, split: str, said_name: str, report_name: str) -> None:
    assert rows_of(run.report["splits"][split][report_name]) == expected()["splits"][split][said_name]


@pytest.mark.parametrize("split", SPLITS)
def test_files_are_counted_and_those_of_no_row_listed(run: Run, split: str) -> None:
    report, said = run.report["splits"][split], expected()["splits"][split]
    assert report["num_files"] == said["files_in_folder"]
    assert report["orphan_clips"] == said["orphan_clips"]
    assert sorted(report["twins"] + report["ignored_files"]) == sorted(said["foreign_files"])


@pytest.mark.parametrize("split", SPLITS)
def test_usable_rows_are_counted_by_modality_and_label(run: Run, split: str) -> None:
    report, said = run.report["splits"][split], expected()["splits"][split]
    assert report["usable"]["video"] == said["usable_video_rows"]
    assert report["usable"]["audio"] == said["usable_audio_rows"]
    assert report["usable"]["text"] == said["rows"]
    assert report["usable_labels"] == {"emotion": said["usable_emotion"], "sentiment": said["usable_sentiment"]}


@pytest.mark.parametrize("split", SPLITS)
def test_surround_sound_is_listed(run: Run, split: str) -> None:
    noted = [note["key"] for note in run.report["splits"][split]["notes"] if note["kind"] == "surround"]
    assert rows_of(noted) == expected()["splits"][split]["surround"]


# The samples against the annotations.


@pytest.mark.parametrize("split", SPLITS)
def test_samples_have_the_dialogues_labels_and_speakers_of_the_annotations(run: Run, split: str) -> None:
    said = expected()["csv"][split]
    metas = run.metas[split].values()
    assert len(metas) == said["rows"]
    assert Counter(meta.dialogue_id for meta in metas) == said["dialogues"]
    assert Counter(meta.labels["emotion"] for meta in metas) == said["emotion"]
    assert Counter(meta.labels["sentiment"] for meta in metas) == said["sentiment"]
    assert Counter(meta.speaker for meta in metas) == said["speakers"]


@pytest.mark.parametrize("split", SPLITS)
def test_texts_are_repaired_where_and_only_where_they_must_be(run: Run, split: str) -> None:
    said = expected()["csv"][split]["normalised_text"]
    assert {row: run.metas[split][row].text for row in said} == said
    controls = {row for row, meta in run.metas[split].items() if any("\x80" <= c <= "\xa0" for c in meta.text)}
    assert controls == set()
    with (MELD_MINI / expected()["csv"][split]["file"]).open(encoding="utf-8", newline="") as file:
        published = {f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}": row for row in csv.DictReader(file)}
    changed = {row for row, meta in run.metas[split].items() if meta.text != published[row]["Utterance"]}
    assert changed == {row for row, meta in run.metas[split].items() if "text_repaired" in notes_of(meta)}
    if said:
        assert changed <= said.keys()


@pytest.mark.parametrize("split", SPLITS)
def test_samples_come_in_the_order_of_the_rows(run: Run, split: str) -> None:
    with (MELD_MINI / expected()["csv"][split]["file"]).open(encoding="utf-8", newline="") as file:
        rows = [f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}" for row in csv.DictReader(file)]
    assert list(run.metas[split]) == rows


@pytest.mark.parametrize("clip", expected()["clips"])
def test_a_clip_is_used_for_as_long_as_it_lasts_or_is_named(run: Run, clip: str) -> None:
    split, _, name = clip.partition("/")
    said, report = expected()["clips"][clip], run.report["splits"][split]
    used = {meta.source.path.rpartition("/")[2]: meta for meta in run.metas[split].values() if meta.source.path}
    if name in used:
        assert used[name].duration_seconds == pytest.approx(said["dur"] or 0.0, abs=0.05)
    elif f"final_videos_test{name}" in used:
        assert name in notes_of(used[f"final_videos_test{name}"])["corrected_twin_used"]
    elif name.removesuffix(".mp4") in run.metas[split]:
        assert name.removesuffix(".mp4") in rows_of(report["rows_without_clip"])
    else:
        assert name in {*report["orphan_clips"], *report["twins"], *report["ignored_files"]}


@pytest.mark.parametrize("split", SPLITS)
def test_rows_last_as_long_as_their_annotations_say(run: Run, split: str) -> None:
    for name, meta in run.metas[split].items():
        clips = expected()["clips"]
        said = (
            clips.get(f"{split}/final_videos_test{name}.mp4", {}).get("csv_dur")
            or clips[f"{split}/{name}.mp4"]["csv_dur"]
        )
        assert meta.annotated_seconds == pytest.approx(said, abs=0.002)


# Every quirk by its kind.


def row_of(run: Run, quirk: Any) -> SampleMeta:
    return run.metas[quirk["split"]][quirk["file"].removesuffix(".mp4").removeprefix("final_videos_test")]


def check_corrupt_clip(run: Run, quirk: Any) -> None:
    meta = row_of(run, quirk)
    assert meta.source.path.endswith(f"/{quirk['file']}")
    assert meta.presence["video"].reason == meta.presence["audio"].reason
    assert meta.presence["video"].reason == "cannot be opened: the file is cut short, damaged, or no video"
    assert meta.presence["text"].present
    assert meta.key in run.report["splits"][quirk["split"]]["unreadable_clips"]


def check_missing_clip(run: Run, quirk: Any) -> None:
    meta = row_of(run, quirk)
    assert meta.source.path == meta.source.sha256 == ""
    assert quirk["file"] in meta.presence["video"].reason
    assert not meta.presence["audio"].present
    others = [other for other in run.metas[quirk["split"]].values() if other.dialogue_id == meta.dialogue_id]
    assert [other.turn_index for other in others] == list(range(len(others)))
    assert all(other.presence["video"].present for other in others if other is not meta)


def check_orphan_clip(run: Run, quirk: Any) -> None:
    assert quirk["file"] in run.report["splits"][quirk["split"]]["orphan_clips"]
    assert quirk["file"].removesuffix(".mp4") not in run.metas[quirk["split"]]


def check_miscut_clip(run: Run, quirk: Any) -> None:
    meta, facts = row_of(run, quirk), quirk["facts"]
    assert meta.presence["video"].present
    assert f"{facts['csv_dur']:.2f} s" in notes_of(meta)["duration_mismatch"]
    assert {"long_clip", "audio_cut"} <= notes_of(meta).keys()


def check_long_clip(run: Run, quirk: Any) -> None:
    notes = notes_of(row_of(run, quirk))
    assert "duration_mismatch" not in notes
    assert {"long_clip", "audio_cut"} <= notes.keys()


def check_apple_double(run: Run, quirk: Any) -> None:
    assert quirk["file"] in run.report["splits"][quirk["split"]]["ignored_files"]
    assert all(not meta.source.path.endswith(quirk["file"]) for meta in run.metas[quirk["split"]].values())


def check_twin_not_used(run: Run, quirk: Any) -> None:
    meta = row_of(run, quirk)
    assert quirk["file"] in run.report["splits"][quirk["split"]]["twins"]
    assert not meta.source.path.endswith(quirk["file"])
    assert quirk["file"] in notes_of(meta)["corrected_twin_not_used"]
    assert meta.duration_seconds == pytest.approx(quirk["facts"]["right_clip"]["dur"], abs=0.05)


def check_twin_used(run: Run, quirk: Any) -> None:
    meta = row_of(run, quirk)
    assert meta.source.path.endswith(f"/{quirk['file']}")
    assert quirk["file"] in notes_of(meta)["corrected_twin_used"]
    assert meta.duration_seconds == pytest.approx(quirk["facts"]["dur_twin"], abs=0.05)


def check_no_audio(run: Run, quirk: Any) -> None:
    meta = row_of(run, quirk)
    assert meta.presence["video"].present
    assert meta.presence["text"].present
    assert meta.presence["audio"].reason == "there is no audio stream"
    assert meta.num_hops == 0


def check_one_frame(run: Run, quirk: Any) -> None:
    meta = row_of(run, quirk)
    assert meta.presence["video"].present
    assert meta.num_frames == 1
    assert "one_frame" in notes_of(meta)


def check_variable_frame_rate(run: Run, quirk: Any) -> None:
    assert f"{quirk['facts']['frames_decoded']} frames" in notes_of(row_of(run, quirk))["variable_frame_rate"]
    noted = [
        meta.key for metas in run.metas.values() for meta in metas.values() if "variable_frame_rate" in notes_of(meta)
    ]
    assert noted == [row_of(run, quirk).key]


def check_surround(run: Run, quirk: Any) -> None:
    meta = row_of(run, quirk)
    assert meta.presence["audio"].present
    assert notes_of(meta)["surround"].startswith("6 channels")


def check_two_digit_milliseconds(run: Run, quirk: Any) -> None:
    meta = row_of(run, quirk)
    assert meta.annotated_seconds == pytest.approx(quirk["facts"]["csv_dur"], abs=5e-4)
    assert "duration_mismatch" not in notes_of(meta)


def check_short_row(run: Run, quirk: Any) -> None:
    meta, facts = row_of(run, quirk), quirk["facts"]
    assert f"{facts['csv_dur']:.3f} s" in notes_of(meta)["short_row"]
    assert meta.num_frames == facts["frames_decoded"]
    assert meta.num_hops >= 1


def check_capped(run: Run, quirk: Any) -> None:
    meta, facts = row_of(run, quirk), quirk["facts"]
    assert meta.presence["video"].present
    assert f"{facts['csv_dur']:.2f} s" in notes_of(meta)["duration_mismatch"]


def check_one_digit_hour(run: Run, quirk: Any) -> None:
    with (MELD_MINI / quirk["file"]).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if re.match(r"\d:", row["StartTime"])]
    assert len(rows) == quirk["facts"]["rows"]
    for row in rows:
        meta = run.metas[quirk["split"]][f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"]
        assert 0 <= meta.annotated_seconds < 400
    for example in quirk["facts"]["example"]:
        assert example in run.metas[quirk["split"]]


def check_id_gap(run: Run, quirk: Any) -> None:
    metas = [meta for meta in run.metas[quirk["split"]].values() if meta.dialogue_id == quirk["facts"]["dialogue"]]
    assert [meta.turn_index for meta in metas] == list(range(len(metas)))
    assert [int(meta.utterance_id) for meta in metas] != list(range(len(metas)))


def check_serial_numbers(run: Run, quirk: Any) -> None:
    with (MELD_MINI / quirk["file"]).open(encoding="utf-8", newline="") as file:
        serials = Counter(row["Sr No."] for row in csv.DictReader(file))
    assert [serial for serial, count in serials.items() if count > 1] == quirk["facts"]["values"]
    assert len(run.metas[quirk["split"]]) == serials.total()


def check_next_line(run: Run, quirk: Any) -> None:
    for row in quirk["facts"]["rows"]:
        assert run.metas[quirk["split"]][row].text == expected()["csv"][quirk["split"]]["normalised_text"][row]
    assert len(run.metas[quirk["split"]]) == expected()["csv"][quirk["split"]]["rows"]


def check_c1_characters(run: Run, quirk: Any) -> None:
    metas = run.metas[quirk["split"]].values()
    assert any("text_repaired" in notes_of(meta) for meta in metas)
    assert not any("\x80" <= letter <= "\x9f" for meta in metas for letter in meta.text + meta.speaker)


def check_sentiment(run: Run, quirk: Any) -> None:
    sentiments: dict[str, set[str]] = {}
    for metas in run.metas.values():
        for meta in metas.values():
            sentiments.setdefault(meta.labels["emotion"], set()).add(meta.labels["sentiment"])
    assert [emotion for emotion, found in sentiments.items() if len(found) > 1] == quirk["facts"]["emotions"]


CHECKS: dict[str, Callable[[Run, Any], None]] = {
    "corrupt_clip": check_corrupt_clip,
    "missing_clip": check_missing_clip,
    "orphan_clip": check_orphan_clip,
    "miscut_clip": check_miscut_clip,
    "long_clip_agreeing_with_csv": check_long_clip,
    "appledouble": check_apple_double,
    "final_videos_extra": check_twin_not_used,
    "corrected_twin": check_twin_used,
    "no_audio_stream": check_no_audio,
    "one_frame": check_one_frame,
    "variable_frame_rate": check_variable_frame_rate,
    "audio_5.1": check_surround,
    "two_digit_milliseconds": check_two_digit_milliseconds,
    "very_short_row": check_short_row,
    "capped_by_us": check_capped,
    "one_digit_hour": check_one_digit_hour,
    "utterance_id_gap": check_id_gap,
    "sr_no_not_unique": check_serial_numbers,
    "U+0085_in_text": check_next_line,
    "c1_characters": check_c1_characters,
    "sentiment_not_a_function_of_emotion": check_sentiment,
}


@pytest.mark.parametrize("quirk", expected()["quirks"], ids=lambda quirk: f"{quirk['kind']}-{quirk['file']}")
def test_every_quirk_is_met_with_what_it_calls_for(run: Run, quirk: Any) -> None:
    CHECKS[quirk["kind"]](run, quirk)  # a kind without a check fails: it is to be written


def test_nothing_else_is_called_odd(run: Run) -> None:
    """Who is warned of ordinary clips stops reading warnings."""
    kinds = {
        "duration_mismatch": {"miscut_clip", "capped_by_us"},
        "long_clip": {"miscut_clip", "long_clip_agreeing_with_csv"},
        "one_frame": {"one_frame"},
        "short_row": {"very_short_row"},
        "surround": {"audio_5.1"},
    }
    for kind, causes in kinds.items():
        noted = {meta.key for metas in run.metas.values() for meta in metas.values() if kind in notes_of(meta)}
        assert noted == {row_of(run, quirk).key for quirk in expected()["quirks"] if quirk["kind"] in causes}, kind
