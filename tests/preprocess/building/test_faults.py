"""`mmsent preprocess` on hundreds of damaged clips: the real command, and what a user finds after it."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shards.reading.split import read_split
from shards.schema import Sample
from tests.support.clips import clip_path, make_rows, write_clip, write_csv, write_numbered_clip, write_sound
from tests.support.commands import digests_of, in_shared_memory, left_alive, left_in_shared_memory, mmsent, start_mmsent
from tests.support.mutants import KINDS, mutants

NUM_MUTANTS = 500
MUTANTS_OF_ROWS = {128: 125, 512: NUM_MUTANTS}
"""How many clips are damaged in a data set of so many rows; the larger one is exhaustive."""
SAMPLES_PER_SHARD = 64
TIMEOUT_SECONDS = 5
SLOW_RUN_SECONDS = 420
"""Several times what the run takes on two cores; a run that hangs does not end at all."""


def good_clips(folder: Path) -> list[bytes]:
    """Make small clips that differ in all that a damage may meet: order of atoms and frames, sound, times of frames."""
    folder.mkdir()
    paths = [
        write_clip(folder / "a.mp4", pictures=24, layout="stereo", b_frames=2, options={"movflags": "faststart"}),
        write_clip(folder / "b.mp4", pictures=12, layout="5.1"),
        write_clip(folder / "c.mp4", pictures=12, layout=None, gaps=[1] * 6 + [4] * 6),
        write_clip(folder / "d.mp4", pictures=10, layout="mono", gaps=[1, 2] * 5, options={"movflags": "faststart"}),
    ]
    return [path.read_bytes() for path in paths]


def is_good(row_number: int) -> bool:
    """Say whether a row has a good clip: 12 rows do, in the first, a middle and the last shards, and side by side."""
    return row_number % 128 in (1, 2, 63)


def write_damaged(root: Path, num_rows: int) -> dict[str, str]:
    """Write a data set of damaged and good clips, and return the kind of each row's clip by the row's key."""
    rows = make_rows(num_rows)
    write_csv(root / "train_sent_emo.csv", rows)
    left = mutants(good_clips(root.with_name("bases")), seed=0, count=MUTANTS_OF_ROWS[num_rows])
    kinds = {}
    for number, row in enumerate(rows):
        path = clip_path(root, "train", row)
        path.parent.mkdir(exist_ok=True)
        key = f"train-dia{row.dialogue_id}-utt{row.utterance_id}"
        if is_good(number):
            write_numbered_clip(path, number)
            kinds[key] = "good"
        else:
            mutant = next(left)
            path.write_bytes(mutant.content)
            kinds[key] = mutant.kind
    assert not list(left)
    return kinds


def preprocess(meld: Path, out: Path, *, workers: int = 2) -> list[str | Path]:
    options = ["--text-encoder", "scratch", "--frames", "4", "--size", "32x32", "--set", "preprocess.num_hops=24"]
    options += [
        "--set",
        f"preprocess.samples_per_shard={SAMPLES_PER_SHARD}",
        "--set",
        "preprocess.max_failed_fraction=1",
        "--workers",
        str(workers),
    ]
    return [
        "preprocess",
        meld,
        "--out",
        out,
        "--set",
        f"preprocess.clip_timeout_seconds={TIMEOUT_SECONDS}",
        *options,
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedRun:
    """A run over damaged clips that ended."""

    meld: Path
    out: Path
    kinds: dict[str, str]
    """What every row's clip is, by key."""
    exit_code: int
    output: str
    processes_left: list[int]
    shared_memory_left: set[str]

    def report(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.out / "report.json").read_bytes())["splits"]["train"]
        return value


@pytest.fixture(scope="module", params=[128, pytest.param(512, marks=pytest.mark.exhaustive)])
def damaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DamagedRun:
    """Damaged clips and some good ones, preprocessed once."""
    folder = tmp_path_factory.mktemp("damaged")
    kinds = write_damaged(folder / "meld", request.param)
    before = in_shared_memory()
    process = start_mmsent(*preprocess(folder / "meld", folder / "out"))
    try:
        output, _ = process.communicate(timeout=SLOW_RUN_SECONDS)
    finally:
        process.kill()
        left = left_alive(process.pid)
    return DamagedRun(
        meld=folder / "meld",
        out=folder / "out",
        kinds=kinds,
        exit_code=process.returncode,
        output=output,
        processes_left=left,
        shared_memory_left=left_in_shared_memory(before),
    )


def outcomes(run: DamagedRun) -> dict[str, Counter[str]]:
    """Count by kind of damage what became of its clips."""
    report = run.report()
    without = {item["key"]: item["reason"] for item in report["absent"] if item["modality"] == "video"}
    second = {item["key"] for item in report["notes"] if item["kind"] == "second_decoder"}
    counts = {kind: Counter[str]() for kind in ("good", *KINDS)}
    for key, kind in run.kinds.items():
        if key not in without:
            what = "picture by the second decoder" if key in second else "picture"
        else:
            what = "decoder died" if "the decoder" in without[key] else "no picture"
        counts[kind][what] += 1
    return counts


def array_bytes(sample: Sample) -> tuple[bytes, bytes, bytes]:
    return sample.frames.tobytes(), sample.logmel.tobytes(), sample.tokens.tobytes()


# The damages themselves.


def test_the_same_seed_gives_the_same_damaged_clips_and_another_seed_others(tmp_path: Path) -> None:
    bases = good_clips(tmp_path / "bases")
    first = list(mutants(bases, seed=3, count=2 * len(KINDS)))
    assert first == list(mutants(bases, seed=3, count=2 * len(KINDS)))
    assert first[: len(KINDS)] == list(mutants(bases, seed=3, count=len(KINDS)))
    assert [one.content for one in first] != [one.content for one in mutants(bases, seed=4, count=2 * len(KINDS))]


def test_a_damaged_clip_is_never_a_good_one(tmp_path: Path) -> None:
    bases = good_clips(tmp_path / "bases")
    assert [one.name for one in mutants(bases, seed=0, count=NUM_MUTANTS) if one.content in bases] == []


def test_every_kind_of_damage_comes_equally_often(tmp_path: Path) -> None:
    counts = Counter(one.kind for one in mutants(good_clips(tmp_path / "bases"), seed=0, count=NUM_MUTANTS))
    assert set(counts) == set(KINDS)
    assert max(counts.values()) - min(counts.values()) <= 1


# A run over them.


@pytest.mark.slow
def test_a_run_over_damaged_clips_ends_well_and_says_so(damaged: DamagedRun) -> None:
    assert damaged.exit_code == 0, damaged.output[-3000:]
    assert "Traceback" not in damaged.output


@pytest.mark.slow
def test_every_damaged_clip_has_an_outcome_picture_or_reason(damaged: DamagedRun) -> None:
    report = damaged.report()
    assert report["num_rows"] == report["num_samples"] == len(damaged.kinds)
    reasons = {item["key"]: item["reason"] for item in report["absent"] if item["modality"] == "video"}
    found = {sample.meta.key: sample for sample in read_split(damaged.out / "train")}
    assert list(found) == list(damaged.kinds)
    for key, sample in found.items():
        presence = sample.meta.presence["video"]
        assert presence.present == (key not in reasons), outcomes(damaged)
        assert presence.present == bool(sample.frames.any()), (key, damaged.kinds[key], outcomes(damaged))
        assert presence.present or reasons[key].strip(), (key, outcomes(damaged))


@pytest.mark.slow
def test_the_first_rows_that_have_no_picture_are_named_while_the_run_goes_on(damaged: DamagedRun) -> None:
    """The report names all of them."""
    lines = [f"{item['key']}, {item['reason']}" for item in damaged.report()["absent"] if item["modality"] == "video"]
    assert len(lines) > 20
    assert sum(line in damaged.output for line in lines) in range(15, 21)


@pytest.mark.slow
def test_the_damage_was_of_all_strengths(damaged: DamagedRun) -> None:
    """Else the other tests would prove nothing: some clips still show a picture, some need PyAV, some show none.

    None kills Decord: what would is known by its header, and never given to it.
    """
    total = sum(outcomes(damaged).values(), Counter[str]())
    assert total["picture"] > len(damaged.kinds) / 5, total
    assert total["picture by the second decoder"] > 0, total
    assert total["no picture"] > len(damaged.kinds) / 5, total
    assert not any("the decoder crashed" in note["detail"] for note in damaged.report()["notes"]), total


@pytest.mark.slow
def test_damaged_clips_give_the_same_bytes_in_another_folder_with_another_number_of_workers(
    damaged: DamagedRun, tmp_path: Path
) -> None:
    shutil.copytree(damaged.meld, tmp_path / "elsewhere" / "meld")
    done = mmsent(
        *preprocess(tmp_path / "elsewhere" / "meld", tmp_path / "out", workers=1), timeout=SLOW_RUN_SECONDS, fresh=True
    )
    assert done.returncode == 0, done.stderr
    assert digests_of(tmp_path / "out") == digests_of(damaged.out)


@pytest.mark.slow
def test_no_reason_and_no_note_tells_where_the_data_set_lies(damaged: DamagedRun) -> None:
    report = damaged.report()
    told = [item["reason"] for item in report["absent"]] + [item["detail"] for item in report["notes"]]
    assert [words for words in told if str(damaged.meld) in words] == []


@pytest.mark.slow
def test_good_clips_among_damaged_ones_give_what_they_give_alone(damaged: DamagedRun, tmp_path: Path) -> None:
    good = {key for key, kind in damaged.kinds.items() if kind == "good"}
    (tmp_path / "meld").mkdir()
    shutil.copy2(damaged.meld / "train_sent_emo.csv", tmp_path / "meld")
    for number, row in enumerate(make_rows(len(damaged.kinds))):
        if is_good(number):
            path = clip_path(tmp_path / "meld", "train", row)
            path.parent.mkdir(exist_ok=True)
            shutil.copy2(clip_path(damaged.meld, "train", row), path)
    done = mmsent(*preprocess(tmp_path / "meld", tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    alone, among = (
        [sample for sample in read_split(out / "train") if sample.meta.key in good]
        for out in (tmp_path / "out", damaged.out)
    )
    assert [sample.meta for sample in among] == [sample.meta for sample in alone]
    assert list(map(array_bytes, among)) == list(map(array_bytes, alone))
    assert len(among) == len(good) == len(damaged.kinds) - MUTANTS_OF_ROWS[len(damaged.kinds)]
    assert all(sample.meta.presence["video"].present for sample in among)


@pytest.mark.slow
def test_shards_of_damaged_clips_are_good_shards(damaged: DamagedRun) -> None:
    done = mmsent("verify", damaged.out)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_decoders_that_crashed_or_hung_leave_nothing_behind(damaged: DamagedRun) -> None:
    assert damaged.processes_left == []
    assert damaged.shared_memory_left == set()
    assert list(damaged.out.rglob("*.tmp")) == []


@pytest.mark.slow
def test_a_second_run_over_damaged_clips_makes_nothing_again(damaged: DamagedRun, tmp_path: Path) -> None:
    """None of them is killed for want of time, which would be tried again."""
    assert [item for item in damaged.report()["absent"] if "killed after" in item["reason"]] == []
    out = Path(shutil.copytree(damaged.out, tmp_path / "out"))
    done = mmsent(*preprocess(damaged.meld, out), "--json", timeout=SLOW_RUN_SECONDS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["splits"]["train"]["num_shards_made"] == 0


# Files that a decoder trips over in a way of its own.


def unknown_picture(good: bytes, folder: Path) -> bytes:
    """Name a codec of the picture that does not exist."""
    return replaced(good, b"avc1", b"zzzz")


def unknown_sound(good: bytes, folder: Path) -> bytes:
    """Name a codec of the sound that does not exist, in both places that name it."""
    tagged = replaced(good, b"mp4a", b"zzzz")
    description = tagged.index(b"\x04\x80\x80\x80", tagged.index(b"esds"))  # tag and length, then the type
    return tagged[: description + 5] + b"\xfe" + tagged[description + 6 :]


def title_in_latin_1(good: bytes, folder: Path) -> bytes:
    """Name a track in another encoding than UTF-8, as old recorders do."""
    return replaced(good, b"VideoHandler", "Vidéo-Gerät ".encode("latin-1"))


def sound_that_changes(good: bytes, folder: Path) -> bytes:
    """Be sound alone that is mono first and stereo then, as joined recordings are."""
    parts = [write_sound(folder / f"{layout}.aac", layout=layout, seconds=0.5) for layout in ("mono", "stereo")]
    return b"".join(part.read_bytes() for part in parts)


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    start = content.index(old, content.index(b"moov"))
    return content[:start] + new + content[start + len(old) :]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (unknown_picture, {"video": False, "audio": True, "text": True}),
        (unknown_sound, {"video": True, "audio": False, "text": True}),
        (title_in_latin_1, {"video": True, "audio": True, "text": True}),
        (sound_that_changes, {"video": False, "audio": True, "text": True}),
    ],
)
def test_an_odd_clip_costs_only_what_cannot_be_read(
    change: Callable[[bytes, Path], bytes], expected: dict[str, bool], tmp_path: Path
) -> None:
    write_csv(tmp_path / "meld" / "train_sent_emo.csv", make_rows(2))
    odd, good = (clip_path(tmp_path / "meld", "train", row) for row in make_rows(2))
    write_numbered_clip(good, 0)
    odd.write_bytes(change(good.read_bytes(), tmp_path))
    done = mmsent(*preprocess(tmp_path / "meld", tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    ours, theirs = (sample.meta.presence for sample in read_split(tmp_path / "out" / "train"))
    assert {name: presence.present for name, presence in ours.items()} == expected
    assert all(presence.present for presence in theirs.values())


@pytest.mark.slow
def test_a_list_of_other_files_is_no_clip(tmp_path: Path) -> None:
    """FFmpeg follows such a list to the clip of another row, whose picture and sound would be taken for this one's."""
    write_csv(tmp_path / "meld" / "train_sent_emo.csv", make_rows(2))
    listing, good = (clip_path(tmp_path / "meld", "train", row) for row in make_rows(2))
    write_numbered_clip(good, 0)
    listing.write_text(f"ffconcat version 1.0\nfile {good.name}\n", "ascii")
    done = mmsent(*preprocess(tmp_path / "meld", tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    ours, theirs = (sample.meta.presence for sample in read_split(tmp_path / "out" / "train"))
    assert (ours["video"].present, ours["audio"].present) == (False, False)
    assert theirs["video"].present
