import hashlib
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocess.building.build import build_shards
from preprocess.building.feature_spec import build_tokenizer, feature_spec
from preprocess.building.manifest import MANIFEST_NAME
from preprocess.building.report import REPORT_NAME, report_splits, report_to_json
from preprocess.building.split_maker import SplitMade
from preprocess.clips.extract import MEDIA, Extract, Medium, absent_feature, extract
from preprocess.clips.extract_all import Request
from preprocess.config import Part
from preprocess.datasets.annotations import DatasetSplit
from preprocess.datasets.meld import read_meld
from preprocess.errors import DatasetError
from preprocess.text.tokenizer import TextTokenizer, learn_tokenizer
from shards.errors import ShardError, SpecMismatchError
from shards.files import publish
from shards.format.index import read_index
from shards.reading.split import Split, read_split
from shards.schema import Sample
from shards.writing.verify import verify_split
from tests.support.clips import (
    CLIP_FOLDERS,
    SAMPLE_RATE,
    Row,
    clip_path,
    make_rows,
    small_config,
    write_clip,
    write_crashing_clip,
    write_csv,
    write_meld,
    write_numbered_clip,
)
from tests.support.commands import left_alive

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
WHOLE = Part()
TOKENIZER = learn_tokenizer([row.text for row in make_rows(7)])
"""One that does not follow the csv files, so that rows may change while the spec stays."""


def ignore_progress(split: str, done: int, total: int) -> None:
    """Draw nothing."""


def build(
    meld: Path,
    out: Path,
    *,
    tokenizer: TextTokenizer = TOKENIZER,
    num_workers: int = 1,
    part: Part = WHOLE,
    remake: bool = False,
    on_progress: Callable[[str, int, int], None] = ignore_progress,
    **changes: Any,
) -> dict[str, int]:
    config = small_config(**changes)
    made = build_shards(
        read_meld(meld),
        out,
        config=config,
        tokenizer=tokenizer,
        num_workers=num_workers,
        part=part,
        remake=remake,
        on_progress=on_progress,
    )
    return {split: item.shards_made for split, item in made.items()}


def made_of(split: DatasetSplit, shards: int = 1) -> SplitMade:
    """Return what a run says that made so many shards of a split."""
    counts: dict[Medium, int] = {"video": len(split.utterances), "audio": 0}
    return SplitMade(finished=True, shards_made=shards, shards_missing=(), decoded=counts, reused=counts)


def content_of(out: Path) -> dict[str, str]:
    """Digest every file but the bookkeeping."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".work" not in path.parts and not path.name.startswith(".lock")
    }


def samples_of(out: Path, split: str = "train") -> list[Sample]:
    return list(read_split(out / split))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 7, 2 and 2 rows that no test changes."""
    return write_meld(tmp_path_factory.mktemp("original") / "meld")


@pytest.fixture(scope="module")
def fresh(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its shards, which no test changes."""
    out = tmp_path_factory.mktemp("fresh") / "shards"
    build(original, out)
    return out


@pytest.fixture
def meld(original: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(original, tmp_path / "meld"))


@pytest.fixture
def out(fresh: Path, tmp_path: Path) -> Path:
    """A copy of the shards, to go on with."""
    return Path(shutil.copytree(fresh, tmp_path / "shards"))


def assert_like_fresh(meld: Path, out: Path, tmp_path: Path, **changes: Any) -> None:
    """Check that shards are, byte by byte, what a run into a new folder makes."""
    build(meld, tmp_path / "from scratch", **changes)
    assert content_of(out) == content_of(tmp_path / "from scratch")


# What is made.


def test_every_row_becomes_a_sample_in_its_place(original: Path, fresh: Path) -> None:
    for split in read_meld(original).splits:
        metas = [sample.meta for sample in samples_of(fresh, split.name)]
        assert [meta.key for meta in metas] == [row.key for row in split.utterances]
        for meta, row in zip(metas, split.utterances, strict=True):
            for name in ("split", "dialogue_id", "utterance_id", "turn_index", "speaker", "text", "annotated_seconds"):
                assert getattr(meta, name) == getattr(row, name)
            assert dict(meta.labels) == row.labels
            assert meta.source.path == row.clip
            assert meta.source.sha256 == hashlib.sha256((original / row.clip).read_bytes()).hexdigest()


def test_a_sample_holds_what_its_clip_and_its_text_give(original: Path, fresh: Path) -> None:
    config = small_config()
    spec = feature_spec(config, TOKENIZER)
    rows = read_meld(original).splits[0].utterances
    for sample, row in zip(samples_of(fresh), rows, strict=True):
        extracted = extract(original, row, media=MEDIA, decoder="decord", spec=spec, test_clips="auto")
        np.testing.assert_array_equal(sample.frames, extracted.video.array)
        np.testing.assert_array_equal(sample.logmel, extracted.audio.array)
        np.testing.assert_array_equal(sample.tokens, TOKENIZER.encode(row.text, max_tokens=16).ids)
        assert (sample.meta.num_frames, sample.meta.num_hops) == (extracted.video.length, extracted.audio.length)
        assert all(presence.present for presence in sample.meta.presence.values())


def test_shards_have_the_size_asked_for_and_pass_verification(fresh: Path) -> None:
    for split, sizes in {"train": [3, 3, 1], "dev": [2], "test": [2]}.items():
        assert [shard.num_samples for shard in read_index(fresh / split).shards] == sizes
        assert verify_split(fresh / split, on_progress=lambda done, total: None).problems == ()


def test_the_tokenizer_is_saved_with_the_shards(fresh: Path) -> None:
    content = (fresh / "tokenizer" / "tokenizer.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == read_index(fresh / "train").spec.text.tokenizer_sha256


def test_progress_counts_the_rows_of_each_split(original: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    build(original, tmp_path / "out", on_progress=lambda *call: calls.append(call))
    assert calls == [
        (split, done, total) for split, total in (("train", 7), ("dev", 2), ("test", 2)) for done in range(1, total + 1)
    ]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in which every clip of train is odd in its own way."""
    root = write_meld(tmp_path_factory.mktemp("odd") / "meld", train=9, dev=1, test=2)
    rows = make_rows(9)
    paths = [clip_path(root, "train", row) for row in rows]
    paths[0].unlink()
    paths[1].write_bytes(b"no video" * 500)
    write_clip(paths[2], layout=None)
    write_clip(paths[3], channels=np.zeros((2, SAMPLE_RATE), np.float32))
    write_clip(paths[4], pictures=1)
    write_crashing_clip(paths[5])
    texts = {6: "", 7: "It\x92s a cut\x85 " + "of many words " * 20, 8: " "}
    write_csv(
        root / "train_sent_emo.csv",
        [Row(dialogue_id=row.dialogue_id, utterance_id=row.utterance_id, text=texts.get(number, row.text))
         for number, row in enumerate(rows)],
    )  # fmt: skip
    for row in make_rows(2):
        twin = clip_path(root, "test", row).with_name(f"final_videos_test{row.clip_name}")
        write_numbered_clip(twin, 77 + row.utterance_id)
    clip_path(root, "test", make_rows(1)[0]).unlink()
    write_numbered_clip(root / CLIP_FOLDERS["dev"] / "dia66_utt9.mp4", 9)
    (root / CLIP_FOLDERS["dev"] / "._dia0_utt0.mp4").write_bytes(bytes(4096))
    return root


@pytest.fixture(scope="module")
def odd_out(odd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("odd") / "shards"
    build(odd, out, num_workers=2)
    return out


def test_no_row_is_dropped_whatever_its_clip_is_like(odd_out: Path) -> None:
    assert {split: len(samples_of(odd_out, split)) for split in ("train", "dev", "test")} == {
        "train": 9, "dev": 1, "test": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "video", "audio"),
    [
        (0, r"the clip is missing: there is no train_splits/dia0_utt0\.mp4", "same"),
        (1, r"cannot be opened: the file is cut short, damaged, or no video", "same"),
        (2, "", r"there is no audio stream"),
        (3, "", r"the sound is digital silence"),
        (4, "", ""),
        (5, "", ""),
        (6, "", ""),
    ],
    ids=["missing", "garbage", "no sound", "silent", "one frame", "crashes Decord", "ordinary"],
)
def test_what_a_clip_lacks_is_zeros_with_a_reason(odd_out: Path, number: int, video: str, audio: str) -> None:
    sample = samples_of(odd_out)[number]
    audio = video if audio == "same" else audio
    for name, reason, array, length in (
        ("video", video, sample.frames, sample.meta.num_frames),
        ("audio", audio, sample.logmel, sample.meta.num_hops),
    ):
        presence = {str(key): value for key, value in sample.meta.presence.items()}[name]
        assert re.fullmatch(reason, presence.reason)
        assert presence.present == (not reason)
        assert (length > 0) == array.any() == presence.present


def test_a_row_without_a_usable_clip_keeps_its_text_labels_and_tokens(odd_out: Path) -> None:
    for sample in samples_of(odd_out)[:2]:
        assert sample.meta.text.startswith("Line ")
        assert sample.meta.presence["text"].present
        assert sample.meta.labels == {"emotion": "neutral", "sentiment": "neutral"}
        assert sample.meta.num_tokens > 2


def test_a_missing_clip_has_no_source_and_a_broken_one_has(odd: Path, odd_out: Path) -> None:
    missing, broken, *_ = (sample.meta.source for sample in samples_of(odd_out))
    assert (missing.path, missing.sha256) == ("", "")
    assert broken.path == "train_splits/dia0_utt1.mp4"
    assert broken.sha256 == hashlib.sha256((odd / broken.path).read_bytes()).hexdigest()


@pytest.mark.parametrize("number", [6, 8], ids=["empty", "blank"])
def test_an_empty_transcript_is_an_absent_text(odd_out: Path, number: int) -> None:
    meta = samples_of(odd_out)[number].meta
    assert meta.presence["text"].reason == "the transcript is empty"
    assert meta.num_tokens == 2


def test_a_repaired_and_a_cut_text_are_noted(odd_out: Path) -> None:
    meta = samples_of(odd_out)[7].meta
    notes = {note.kind: note.detail for note in meta.notes}
    assert meta.text.startswith("It’s a cut… ")
    assert "text_repaired" in notes
    assert re.fullmatch(r"the first 16 of \d+ tokens are kept", notes["text_cut"])
    assert not any(note.kind.startswith("text_") for note in samples_of(odd_out)[2].meta.notes)


def test_a_clip_of_one_frame_is_used_and_noted(odd_out: Path) -> None:
    sample = samples_of(odd_out)[4]
    assert sample.meta.num_frames == 1
    assert (sample.frames == sample.frames[0]).all()
    assert "one_frame" in {note.kind for note in sample.meta.notes}


def test_a_sample_says_which_of_two_clips_it_is_made_from(odd: Path, odd_out: Path) -> None:
    folder = odd / CLIP_FOLDERS["test"]
    for sample in samples_of(odd_out, "test"):
        assert sample.meta.source.sha256 == hashlib.sha256((odd / sample.meta.source.path).read_bytes()).hexdigest()
        assert any(note.kind.startswith("corrected_twin") for note in sample.meta.notes)
    assert samples_of(odd_out, "test")[0].meta.source.path == f"{folder.name}/final_videos_testdia0_utt0.mp4"


def test_what_is_lost_is_logged_as_it_happens(odd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="preprocess.building.split_maker"):
        build(odd, tmp_path / "out", num_workers=2)
    assert len(caplog.messages) == 4
    assert caplog.messages[0].startswith("no picture, row kept: train-dia0-utt0, the clip is missing")
    assert caplog.messages[2] == "no sound, row kept: train-dia0-utt2, there is no audio stream"


def test_of_rows_without_a_clip_some_are_logged_and_the_rest_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Annotations alone are a data set too, of text."""
    write_csv(tmp_path / "meld" / "train_sent_emo.csv", make_rows(24))
    with caplog.at_level(logging.WARNING, logger="preprocess.building.split_maker"):
        build(tmp_path / "meld", tmp_path / "out")
    assert len(caplog.messages) == 21
    assert caplog.messages[19].startswith("no picture, row kept: train-dia6-utt1, the clip is missing")
    assert caplog.messages[20] == "no picture or no sound, rows kept: 4 more of train, all in the report"


def test_the_report_says_what_became_of_every_row(odd: Path, odd_out: Path) -> None:
    dataset = read_meld(odd)
    made = {split.name: made_of(split) for split in dataset.splits}
    report = report_to_json(dataset, report_splits(dataset, odd_out, made=made))
    train, dev, test = (report["splits"][split] for split in ("train", "dev", "test"))
    json.dumps(report)
    assert (train["num_rows"], train["num_samples"], train["num_dialogues"]) == (9, 9, 3)
    assert (train["num_shards"], train["num_shards_made"], train["num_files"]) == (3, 1, 8)
    assert train["num_bytes"] == sum(path.stat().st_size for path in (odd_out / "train").glob("*.tar"))
    assert train["usable"] == {"video": 7, "audio": 5, "text": 7}
    assert train["usable_labels"] == {"emotion": {"neutral": 7}, "sentiment": {"neutral": 7}}
    assert train["rows_without_clip"] == ["train-dia0-utt0"]
    assert train["unreadable_clips"] == ["train-dia0-utt1"]
    assert train["rows_without_sound"] == ["train-dia0-utt2", "train-dia1-utt0"]
    assert [(item["key"], item["modality"]) for item in train["absent"]] == [
        ("train-dia0-utt0", "video"), ("train-dia0-utt0", "audio"),
        ("train-dia0-utt1", "video"), ("train-dia0-utt1", "audio"),
        ("train-dia0-utt2", "audio"), ("train-dia1-utt0", "audio"),
        ("train-dia2-utt0", "text"), ("train-dia2-utt2", "text"),
    ]  # fmt: skip
    assert all(item["reason"] for item in train["absent"])
    assert {"train-dia1-utt2"} == {note["key"] for note in train["notes"] if note["kind"] == "second_decoder"}
    assert {"train-dia2-utt1"} == {note["key"] for note in train["notes"] if note["kind"] == "text_cut"}
    assert (dev["orphan_clips"], dev["ignored_files"]) == (["dia66_utt9.mp4"], ["._dia0_utt0.mp4"])
    assert len(test["twins"]) == 2
    assert report["missing_splits"] == []


def test_the_report_is_the_same_whether_shards_were_made_or_kept(odd: Path, odd_out: Path) -> None:
    dataset = read_meld(odd)
    made, kept = (
        report_splits(dataset, odd_out, made={split.name: made_of(split, shards) for split in dataset.splits})
        for shards in (1, 0)
    )
    assert [report.num_shards_made for report in kept] == [0, 0, 0]
    assert [report.absent for report in made] == [report.absent for report in kept]


# The same bytes.


def test_workers_and_folders_do_not_change_a_byte(
    odd: Path, odd_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "a, b" / "meld"
    shutil.copytree(odd, elsewhere)
    build(elsewhere, tmp_path / "elsewhere", num_workers=1)
    assert content_of(tmp_path / "elsewhere") == content_of(odd_out)
    monkeypatch.chdir(elsewhere.parent)
    build(Path("meld"), tmp_path / "relative", num_workers=1)
    assert content_of(tmp_path / "relative") == content_of(odd_out)


def test_a_second_run_makes_nothing_and_leaves_every_file_alone(original: Path, out: Path) -> None:
    before = {name: (out / name).stat().st_mtime_ns for name in content_of(out)}
    assert build(original, out) == {"train": 0, "dev": 0, "test": 0}
    after = {name: (out / name).stat().st_mtime_ns for name in content_of(out)}
    del before["tokenizer/tokenizer.json"], after["tokenizer/tokenizer.json"]  # written every time, the same
    assert after == before


def test_a_second_run_does_not_read_the_clips(original: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.building.digests.sha256_file", lambda path: pytest.fail(f"{path} was read"))
    build(original, out)


def test_clips_that_were_only_touched_are_read_once_more_and_not_for_ever(
    meld: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in meld.glob("*/*.mp4"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    assert build(meld, out) == {"train": 0, "dev": 0, "test": 0}
    monkeypatch.setattr("preprocess.building.digests.sha256_file", lambda path: pytest.fail(f"{path} was read"))
    assert build(meld, out) == {"train": 0, "dev": 0, "test": 0}


def test_a_replaced_clip_costs_its_shard_alone(meld: Path, out: Path, tmp_path: Path) -> None:
    write_numbered_clip(clip_path(meld, "train", make_rows(5)[4]), 99)
    assert build(meld, out) == {"train": 1, "dev": 0, "test": 0}
    assert_like_fresh(meld, out, tmp_path)


def test_a_clip_that_appears_or_goes_costs_its_shard_alone(meld: Path, out: Path, tmp_path: Path) -> None:
    clip_path(meld, "test", make_rows(1)[0]).unlink()
    assert build(meld, out) == {"train": 0, "dev": 0, "test": 1}
    write_numbered_clip(clip_path(meld, "dev", make_rows(1)[0]), 50)
    assert build(meld, out) == {"train": 0, "dev": 1, "test": 0}
    assert_like_fresh(meld, out, tmp_path)


def test_a_changed_row_costs_its_shard_alone(meld: Path, out: Path, tmp_path: Path) -> None:
    rows = make_rows(7)
    rows[6] = Row(dialogue_id=2, utterance_id=0, text="Another line")
    write_csv(meld / "train_sent_emo.csv", rows)
    assert build(meld, out) == {"train": 1, "dev": 0, "test": 0}
    assert_like_fresh(meld, out, tmp_path)


@pytest.mark.parametrize(("num_rows", "made"), [(6, 0), (4, 1), (3, 0), (1, 1)])
def test_shards_of_rows_that_are_gone_disappear(
    meld: Path, out: Path, tmp_path: Path, num_rows: int, made: int
) -> None:
    write_csv(meld / "train_sent_emo.csv", make_rows(num_rows))
    assert build(meld, out) == {"train": made, "dev": 0, "test": 0}
    assert_like_fresh(meld, out, tmp_path)
    names = {path.stem for path in (out / "train").glob("*.tar")}
    assert {path.stem for path in (out / "train" / ".work").glob("train-*.json")} == names


def test_rows_at_the_end_cost_the_shards_that_grow(meld: Path, out: Path, tmp_path: Path) -> None:
    rows = make_rows(10)
    write_csv(meld / "train_sent_emo.csv", rows)
    for number, row in enumerate(rows[7:]):
        write_numbered_clip(clip_path(meld, "train", row), 40 + number)
    assert build(meld, out) == {"train": 2, "dev": 0, "test": 0}
    assert_like_fresh(meld, out, tmp_path)


def test_another_choice_of_twins_costs_the_shards_that_have_one(odd: Path, odd_out: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    shutil.copytree(odd_out, out)
    assert build(odd, out, test_clips="plain") == {"train": 0, "dev": 0, "test": 1}
    assert [sample.meta.source.path for sample in samples_of(out, "test")] == [
        f"{CLIP_FOLDERS['test']}/final_videos_testdia0_utt0.mp4",
        f"{CLIP_FOLDERS['test']}/dia0_utt1.mp4",
    ]


@pytest.mark.parametrize("name", ["train-00001.tar", ".work/train-00001.npy", ".work/train-00001.json"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_shard_that_is_not_whole_is_made_again(
    original: Path, fresh: Path, out: Path, name: str, damage: str
) -> None:
    path = out / "train" / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-30])
    assert build(original, out) == {"train": 1, "dev": 0, "test": 0}
    assert content_of(out) == content_of(fresh)


@pytest.mark.parametrize("name", ["index.json", "samples.npy"])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_what_belongs_to_a_whole_split_is_written_again_without_making_shards(
    original: Path, fresh: Path, out: Path, name: str, damage: str
) -> None:
    path = out / "train" / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 100 if damage == "cut" else 0])
    assert build(original, out) == {"train": 0, "dev": 0, "test": 0}
    assert content_of(out) == content_of(fresh)


# A run that ends early.


class StopError(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize(("split", "row"), [("train", 1), ("train", 3), ("train", 5), ("dev", 1), ("test", 2)])
def test_a_run_that_was_stopped_goes_on_where_it_was(
    original: Path, fresh: Path, tmp_path: Path, split: str, row: int
) -> None:
    def stop(at_split: str, done: int, total: int) -> None:
        if (at_split, done) == (split, row):
            raise StopError

    out = tmp_path / "shards"
    with pytest.raises(StopError):
        build(original, out, on_progress=stop)
    assert multiprocessing.active_children() == []
    assert list(out.rglob("*.tmp")) == []
    assert not (out / split / "index.json").exists()
    finished = {name: len(list((out / name / ".work").glob("train-*.json"))) for name in ("train",)}
    assert build(original, out)["train"] == 3 - finished["train"]
    assert content_of(out) == content_of(fresh)


def test_a_split_is_unfinished_from_the_moment_that_a_shard_of_it_is_made_again(meld: Path, out: Path) -> None:
    def stop(split: str, done: int, total: int) -> None:
        raise StopError

    write_numbered_clip(clip_path(meld, "train", make_rows(5)[4]), 99)
    with pytest.raises(StopError):
        build(meld, out, on_progress=stop)
    with pytest.raises(ShardError, match="it is not finished"):
        Split(out / "train")
    assert len(Split(out / "dev")) == 2


def test_a_shard_without_its_new_record_is_not_taken_for_the_old_one(
    meld: Path, fresh: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip is replaced, the run dies between the shard and its record, and the old clip comes back."""
    path = clip_path(meld, "train", make_rows(5)[4])
    shutil.copy2(path, tmp_path / "kept.mp4")
    write_numbered_clip(path, 99)

    def dying(target: Path, content: bytes) -> None:
        if target.parent.name == ".work":
            raise StopError
        publish(target, content)

    with monkeypatch.context() as patched:
        patched.setattr("shards.writing.shard_writer.publish", dying)
        with pytest.raises(StopError):
            build(meld, out)
    shutil.copy2(tmp_path / "kept.mp4", path)
    build(meld, out)
    assert content_of(out) == content_of(fresh)


def test_a_run_that_died_while_it_claimed_its_folder_can_be_repeated(
    original: Path, fresh: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    out.mkdir()
    (out / f".{MANIFEST_NAME}.host-1.tmp").write_bytes((fresh / MANIFEST_NAME).read_bytes()[:50])
    build(original, out)
    assert content_of(out) == content_of(fresh)


def command(meld: Path, out: Path, *options: str) -> list[str]:
    arguments = [str(meld), "--out", str(out), "--text-encoder", "scratch", "--frames", "4", "--size", "32x64"]
    arguments += [
        "--set",
        "preprocess.num_hops=24",
        "--set",
        "preprocess.samples_per_shard=3",
        "--set",
        "preprocess.max_failed_fraction=1",
        "--workers",
        "2",
    ]
    return [sys.executable, "-c", "from cli import main; main()", "preprocess", *arguments, *options]


def start(arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def test_a_run_that_is_killed_again_and_again_gives_the_same_bytes(original: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(original, whole), cwd=ROOT, check=True, capture_output=True, timeout=120)
    rng = np.random.default_rng()
    num_kills = 0
    for num_shards in (0, 1, 2, 3, 4):
        process = start(command(original, out))
        # Killed a random while after so many shards are there; at 0, after it has claimed the folder.
        while process.poll() is None and (
            not (out / MANIFEST_NAME).exists() or len(list(out.glob("*/*.tar"))) < num_shards
        ):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        num_kills += process.wait() == -signal.SIGKILL
        for path in out.glob("*/index.json"):
            assert len(Split(path.parent)) == len(Split(whole / path.parent.name))
    assert num_kills >= 3
    subprocess.run(command(original, out), cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert {name: digest for name, digest in content_of(out).items() if name != "report.json"} == {
        name: digest for name, digest in content_of(whole).items() if name != "report.json"
    }


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_the_workers_of_a_killed_run_end_too(original: Path, tmp_path: Path) -> None:
    process = start(command(original, tmp_path / "out"))
    while not list((tmp_path / "out").glob("*/*.tar")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert left_alive(process.pid) == []


# What is refused.


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_frames": 5}, "video.num_frames: 4 against 5"),
        ({"height": 64}, "video.height: 32 against 64"),
        ({"storage": "jpeg"}, "video.storage: 'raw' against 'jpeg'"),
        ({"decoder": "pyav"}, "video.decoder: 'decord' against 'pyav'"),
        ({"samples_per_shard": 4}, "samples_per_shard: 3 against 4"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_would_decode_every_picture_again_is_refused_by_field_and_nothing_is_touched(
    original: Path, fresh: Path, out: Path, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(SpecMismatchError, match=re.escape(field)) as caught:
        build(original, out, **changes)
    assert "choose another --out" in str(caught.value)
    assert "--remake" in str(caught.value)
    assert content_of(out) == content_of(fresh)


def test_shards_of_another_decoder_version_are_refused(
    original: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.clips.clip.decoder_version", lambda decoder: "99.0")
    with pytest.raises(SpecMismatchError, match=r"video\.decoder_version: 'decord2 .*' against '99\.0'"):
        build(original, out)


def test_changes_that_decide_no_byte_are_no_other_spec(original: Path, fresh: Path, out: Path) -> None:
    made = build(original, out, num_workers=2, clip_timeout_seconds=9.0, max_failed_fraction=0.0)
    assert made == {"train": 0, "dev": 0, "test": 0}
    assert content_of(out) == content_of(fresh)


def test_a_foreign_folder_is_refused_and_left_alone(original: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious", "utf-8")
    with pytest.raises(ShardError, match="not empty and holds no shards of `mmsent preprocess`") as caught:
        build(original, tmp_path)
    assert f"file: {tmp_path}" in str(caught.value)
    assert content_of(tmp_path).keys() == {"thesis.txt"}


def test_a_file_in_place_of_the_folder_is_refused(original: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious", "utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "shards"):
        with pytest.raises(ShardError, match=r"next: choose another"):
            build(original, out)
    assert (tmp_path / "file").read_text("utf-8") == "precious"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"video": {}, "audio": {}, "text": {}}'])
def test_a_damaged_spec_is_refused_and_left_alone(original: Path, out: Path, content: str) -> None:
    (out / MANIFEST_NAME).write_text(content, "utf-8")
    with pytest.raises(ShardError, match="how the shards were made cannot be read"):
        build(original, out)
    assert (out / MANIFEST_NAME).read_text("utf-8") == content


def test_too_many_missing_clips_are_refused_before_anything_is_made(meld: Path, tmp_path: Path) -> None:
    for row in make_rows(3):
        clip_path(meld, "train", row).unlink()
    for _ in range(2):
        with pytest.raises(DatasetError, match=r"3 of 7 rows of train have no clip .*allowed are 10%") as caught:
            build(meld, tmp_path / "out", max_failed_fraction=0.1)
        assert "--set preprocess.max_failed_fraction=" in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_too_many_broken_clips_are_refused_and_no_index_is_written(meld: Path, tmp_path: Path) -> None:
    for row in make_rows(2):
        clip_path(meld, "dev", row).write_bytes(b"hello" * 100)
    out = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(
            DatasetError, match=r"2 of 2 rows of dev have no picture \(100%, allowed are 10%\)"
        ) as caught:
            build(meld, out, max_failed_fraction=0.1)
        assert "train" not in str(caught.value)
        assert not (out / "dev" / "index.json").exists()
        assert (out / "train" / "index.json").exists()


def test_what_the_refusal_advises_is_accepted_and_costs_no_decoding_again(meld: Path, tmp_path: Path) -> None:
    for row in make_rows(2):
        clip_path(meld, "train", row).write_bytes(b"hello" * 100)
    out = tmp_path / "out"
    with pytest.raises(DatasetError) as caught:
        build(meld, out, max_failed_fraction=0.1)
    advised = re.search(r"max_failed_fraction=([\d.]+)", str(caught.value))
    assert advised is not None
    assert build(meld, out, max_failed_fraction=float(advised[1]))["train"] == 0
    assert len(Split(out / "train")) == 7


def test_missing_and_broken_clips_count_together(meld: Path, tmp_path: Path) -> None:
    first, second, *_ = make_rows(7)
    clip_path(meld, "train", first).unlink()
    clip_path(meld, "train", second).write_bytes(b"hello" * 100)
    with pytest.raises(DatasetError, match="2 of 7 rows of train have no picture"):
        build(meld, tmp_path / "out", max_failed_fraction=0.2)


def test_a_row_that_has_only_a_twin_is_not_without_a_clip(tmp_path: Path) -> None:
    meld = write_meld(tmp_path / "meld", train=0, dev=0, test=2)
    for row in make_rows(2):
        path = clip_path(meld, "test", row)
        path.rename(path.with_name(f"final_videos_test{path.name}"))
    assert build(meld, tmp_path / "out", max_failed_fraction=0.0) == {"test": 1}


# The tokenizer of a run.


def test_without_training_texts_no_tokenizer_can_be_learned(tmp_path: Path) -> None:
    dataset = read_meld(write_meld(tmp_path, train=0, dev=1, test=0))
    with pytest.raises(DatasetError, match="there are no rows of train") as caught:
        build_tokenizer(dataset, small_config())
    assert "--text-encoder" in str(caught.value)


def test_a_learned_tokenizer_sees_the_training_texts_alone(meld: Path) -> None:
    before = build_tokenizer(read_meld(meld), small_config()).sha256
    write_csv(meld / "dev_sent_emo.csv", [Row(text="Words of no other split")])
    assert build_tokenizer(read_meld(meld), small_config()).sha256 == before


def test_a_tokenizer_is_loaded_by_its_folder(original: Path, fresh: Path) -> None:
    folder = str(fresh / "tokenizer")
    tokenizer = build_tokenizer(read_meld(original), small_config(text_encoder=folder))
    assert (tokenizer.name, tokenizer.sha256) == ("tokenizer", TOKENIZER.sha256)


def test_a_clip_that_was_killed_for_want_of_time_gets_another_chance(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How a worker is killed is tested with the pool; here every row of one run is."""
    row_count = len(read_meld(original).splits[0].utterances)

    def all_killed(root: Path, requests: Iterable[Request], **_: object) -> Iterator[Extract]:
        hung = absent_feature("the decoder hung", killed=True)
        yield from (
            Extract(path=request.row.clip, notes=(), features=dict.fromkeys(MEDIA, hung)) for request in requests
        )

    with monkeypatch.context() as patch:
        patch.setattr("preprocess.building.build.extract_all", all_killed)
        build(original, tmp_path / "out", max_failed_fraction=1.0)
    assert not any(sample.meta.presence["video"].present for sample in samples_of(tmp_path / "out"))
    build(original, tmp_path / "out")
    assert sum(sample.meta.presence["video"].present for sample in samples_of(tmp_path / "out")) == row_count


# Two runs on one folder.


def test_a_second_run_on_the_same_folder_is_refused_while_the_first_goes_on(original: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def meanwhile(split: str, done: int, total: int) -> None:
        if not refused:
            code = (
                "import sys; from pathlib import Path; from shards.lock import locked\n"
                "from shards.errors import OutputBusyError\n"
                "try:\n    with locked(Path(sys.argv[1])): pass\n"
                "except OutputBusyError as exc: sys.stdout.write(str(exc))"
            )
            command = [sys.executable, "-c", code, str(tmp_path / "out")]
            done_ = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
            refused.append(done_.stdout)

    build(original, tmp_path / "out", on_progress=meanwhile)
    assert refused[0].startswith(f"another run is writing here (process {os.getpid()})")
    assert "\n  next: " in refused[0]
    build(original, tmp_path / "out")  # the lock went with the run


# The report of a run that made nothing.


def test_parts_that_overtake_each_other_say_in_the_end_that_all_is_done(
    original: Path, fresh: Path, tmp_path: Path
) -> None:
    """The other part finishes train while this one is at dev, and leaves dev to it: only the last to end knows all."""
    out = tmp_path / "out"
    other: dict[str, SplitMade] = {}

    def overtaken(split: str, done: int, total: int) -> None:
        if split == "dev" and done == 1:
            other.update(build_part(original, out, Part(number=2, count=2)))

    made = build_part(original, out, Part(number=1, count=2), on_progress=overtaken)
    assert {split: item.finished for split, item in other.items()} == {"train": True, "dev": False, "test": False}
    assert {split: item.shards_missing for split, item in made.items()} == {"train": (), "dev": (), "test": ()}
    assert all(item.finished for item in made.values())
    assert content_of(out) == content_of(fresh)


def build_part(
    meld: Path, out: Path, part: Part, *, on_progress: Callable[[str, int, int], None] = ignore_progress
) -> dict[str, SplitMade]:
    return build_shards(
        read_meld(meld), out, config=small_config(), tokenizer=TOKENIZER, num_workers=1, part=part, remake=False,
        on_progress=on_progress,
    )  # fmt: skip


@pytest.fixture
def reported(odd: Path, odd_out: Path, tmp_path: Path) -> Path:
    """Shards with the report of the run that made them beside them."""
    out = Path(shutil.copytree(odd_out, tmp_path / "reported"))
    dataset = read_meld(odd)
    made = {split.name: made_of(split) for split in dataset.splits}
    report = report_to_json(dataset, report_splits(dataset, out, made=made))
    (out / REPORT_NAME).write_text(json.dumps(report), "utf-8")
    return out


def test_it_is_taken_from_the_one_before_and_says_the_same(
    odd: Path, reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_meld(odd)
    made = {split.name: made_of(split, 0) for split in dataset.splits}
    (reported / REPORT_NAME).rename(reported / "aside.json")
    anew = report_splits(dataset, reported, made=made)
    (reported / "aside.json").rename(reported / REPORT_NAME)
    monkeypatch.setattr(Split, "metas", lambda split: pytest.fail("the samples were read"))
    assert report_splits(dataset, reported, made=made) == anew


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"splits": []}', '{"splits": {"train": {"absent": 3}}}'])
def test_it_is_made_anew_where_the_one_before_is_of_no_use(odd: Path, reported: Path, content: str | None) -> None:
    dataset = read_meld(odd)
    made = {split.name: made_of(split, 0) for split in dataset.splits}
    expected = report_splits(dataset, reported, made=made)
    if content is None:  # of other samples
        value = json.loads((reported / REPORT_NAME).read_bytes())
        for split in value["splits"].values():
            split["index_sha256"], split["num_samples"] = "0" * 64, 999
        content = json.dumps(value)
    (reported / REPORT_NAME).write_text(content, "utf-8")
    assert report_splits(dataset, reported, made=made) == expected
