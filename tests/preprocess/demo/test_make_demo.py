import csv
import hashlib
import re
import signal
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from preprocess.config import DemoConfig
from preprocess.demo.clip_writer import write_clip
from preprocess.demo.face_and_voice import draw_pictures, speak
from preprocess.demo.make_demo import DemoSummary, make_demo
from preprocess.demo.rows import DemoRow, make_rows
from preprocess.errors import DatasetError
from shards.schema import EMOTION, SENTIMENT, SPLITS
from tests.support.commands import left_alive, start_mmsent

pytestmark = pytest.mark.slow

_SMALL = DemoConfig(num_utterances=18)
_FRAME_RATE = Fraction(24000, 1001)
_VALUES_PER_FRAME = 2002
_FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
_COLUMNS = [
    *("Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID"),
    *("Season", "Episode", "StartTime", "EndTime"),
]

_Made = tuple[Path, DemoSummary, list[tuple[int, int]]]
"""The folder, what `make_demo` returned, and the calls of `on_progress`."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> _Made:
    directory = tmp_path_factory.mktemp("parent") / "demo"
    directory.mkdir()
    progress: list[tuple[int, int]] = []
    summary = make_demo(directory, _SMALL, on_progress=lambda done, total: progress.append((done, total)))
    return directory, summary, progress


def _read_csv(directory: Path, split: str) -> list[dict[str, str]]:
    with (directory / f"{split}_sent_emo.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _clip(directory: Path, split: str, row: dict[str, str]) -> Path:
    return directory / _FOLDERS[split] / f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}.mp4"


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _rows(config: DemoConfig, split: str) -> list[DemoRow]:
    return [row for row in make_rows(config) if row.split == split]


@pytest.mark.parametrize("split", SPLITS)
def test_a_csv_has_the_columns_line_ends_and_encoding_of_meld(demo: _Made, split: str) -> None:
    raw = (demo[0] / f"{split}_sent_emo.csv").read_bytes()
    text = raw.decode("utf-8")
    assert text.count("\r\n") == text.count("\n") == text.count("\r") == len(_read_csv(demo[0], split)) + 1
    assert text.split("\r\n")[0].split(",") == _COLUMNS


@pytest.mark.parametrize("split", SPLITS)
def test_a_csv_is_sorted_by_ids_that_start_at_zero(demo: _Made, split: str) -> None:
    ids = [(int(row["Dialogue_ID"]), int(row["Utterance_ID"])) for row in _read_csv(demo[0], split)]
    assert ids[0] == (0, 0)
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("split", SPLITS)
def test_times_are_written_as_in_meld_and_go_forward(demo: _Made, split: str) -> None:
    for row in _read_csv(demo[0], split):
        assert re.fullmatch(r"\d\d:\d\d:\d\d,\d\d\d", row["StartTime"])
        assert re.fullmatch(r"\d\d:\d\d:\d\d,\d\d\d", row["EndTime"])
        assert 1 <= _seconds(row["EndTime"]) - _seconds(row["StartTime"]) <= 2.51


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_has_its_clip_and_every_clip_its_row(demo: _Made, split: str) -> None:
    expected = {_clip(demo[0], split, row) for row in _read_csv(demo[0], split)}
    assert set((demo[0] / _FOLDERS[split]).iterdir()) == expected


@pytest.mark.parametrize("split", SPLITS)
def test_a_clip_is_encoded_as_in_meld_and_lasts_as_long_as_its_row_says(demo: _Made, split: str) -> None:
    for row in _read_csv(demo[0], split):
        said = _seconds(row["EndTime"]) - _seconds(row["StartTime"])
        with av.open(_clip(demo[0], split, row)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec.name, video.width, video.height, video.pix_fmt) == ("h264", 320, 180, "yuv420p")
            assert video.average_rate == _FRAME_RATE
            assert (audio.codec.name, audio.sample_rate, audio.channels) == ("aac", 48000, 2)
            assert container.duration is not None
            assert abs(container.duration / av.time_base - said) < 1 / _FRAME_RATE
            assert abs(video.frames / _FRAME_RATE - said) < 1 / _FRAME_RATE


def test_the_summary_counts_what_is_on_disk(demo: _Made) -> None:
    directory, summary, _ = demo
    rows = {split: _read_csv(directory, split) for split in SPLITS}
    lengths = [_seconds(row["EndTime"]) - _seconds(row["StartTime"]) for split in SPLITS for row in rows[split]]
    assert summary.num_rows == {split: len(rows[split]) for split in SPLITS} == {"train": 9, "dev": 3, "test": 6}
    assert summary.num_clips == len(list(directory.rglob("*.mp4")))
    assert summary.total_bytes == sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    assert summary.footage_seconds == pytest.approx(sum(lengths), abs=0.02)


def test_progress_is_reported_after_each_clip(demo: _Made) -> None:
    assert demo[2] == [(done, 18) for done in range(1, 19)]


def test_the_number_of_workers_changes_no_byte(demo: _Made, tmp_path: Path) -> None:
    config = DemoConfig(num_utterances=_SMALL.num_utterances, num_workers=1)
    make_demo(tmp_path / "again", config, on_progress=lambda done, total: None)
    assert _digests(tmp_path / "again") == _digests(demo[0])


def test_clips_of_the_height_of_meld_have_its_width_too(tmp_path: Path) -> None:
    config = DemoConfig(num_utterances=18, height=720, num_workers=1)
    make_demo(tmp_path / "demo", config, on_progress=lambda done, total: None)
    with av.open(next((tmp_path / "demo").rglob("*.mp4"))) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == (720, 1280)


def test_another_seed_gives_other_rows_pictures_and_sound() -> None:
    def footage(seed: int) -> tuple[bytes, bytes]:
        generator = np.random.default_rng(seed)
        pictures = draw_pictures("joy", "Ada", num_frames=2, generator=generator)
        return pictures.tobytes(), speak("joy", "Ada", num_frames=2, generator=generator).tobytes()

    assert [row.text for row in make_rows(_SMALL)] != [row.text for row in make_rows(DemoConfig(seed=1))][:18]
    assert all(one != other for one, other in zip(footage(0), footage(1), strict=True))


def test_nothing_is_left_beside_the_folder(
    demo: _Made,
) -> None:
    assert list(demo[0].parent.iterdir()) == [demo[0]]


def test_a_folder_with_anything_in_it_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(DatasetError, match=re.escape(str(tmp_path))):
        make_demo(tmp_path, _SMALL, on_progress=lambda done, total: None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("keep me", encoding="utf-8")
    with pytest.raises(DatasetError, match="demo"):
        make_demo(tmp_path / "demo", _SMALL, on_progress=lambda done, total: None)


def test_an_interrupted_run_leaves_no_folder(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "demo", _SMALL, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_workers_of_a_killed_run_end_too(tmp_path: Path) -> None:
    process = start_mmsent("make-demo", tmp_path / "demo", "--utterances", "200")
    while not list(tmp_path.rglob("*.mp4")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()  # not read to its end: a worker that lived on would keep it open
    assert left_alive(process.pid) == []


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("split", SPLITS)
def test_every_emotion_comes_several_times_in_every_split_of_the_default_size(split: str, seed: int) -> None:
    counts = Counter(row.emotion for row in _rows(DemoConfig(seed=seed), split))
    assert set(counts) == set(EMOTION.names)
    assert min(counts.values()) >= 10


def test_emotions_are_uneven_as_in_meld_but_less() -> None:
    counts = Counter(row.emotion for row in make_rows(DemoConfig()))
    assert counts["neutral"] / counts.total() == pytest.approx(0.30, abs=0.01)
    assert min(counts.values()) / counts.total() == pytest.approx(0.08, abs=0.01)


def test_the_test_split_is_large_enough_to_tell_five_points_from_nothing() -> None:
    assert len(_rows(DemoConfig(), "test")) >= 250


def test_sentiment_follows_from_the_emotion_except_for_surprise() -> None:
    pairs = {(row.emotion, row.sentiment) for row in make_rows(DemoConfig())}
    assert {sentiment for _, sentiment in pairs} == set(SENTIMENT.names)
    assert {sentiment for emotion, sentiment in pairs if emotion == "surprise"} == {"negative", "positive"}
    assert len(pairs) == len(EMOTION.names) + 1


def _expressed(row: DemoRow) -> dict[str, str | None]:
    return {"text": row.text_emotion, "audio": row.voice_emotion, "video": row.face_emotion}


@pytest.mark.parametrize("modality", ["text", "audio", "video"])
@pytest.mark.parametrize("split", SPLITS)
def test_a_modality_expresses_the_label_in_six_of_ten_rows_and_nothing_in_three(split: str, modality: str) -> None:
    rows = _rows(DemoConfig(), split)
    assert sum(_expressed(row)[modality] == row.emotion for row in rows) == round(0.6 * len(rows))
    assert sum(_expressed(row)[modality] is None for row in rows) == round(0.3 * len(rows))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_modalities_fail_in_different_rows(seed: int) -> None:
    """Were they drawn apart, 6.4 % of the rows would be clear in no modality; 40 % if all failed together."""
    rows = make_rows(DemoConfig(seed=seed))
    lost = sum(row.emotion not in _expressed(row).values() for row in rows)
    assert lost / len(rows) == pytest.approx(0.4**3, abs=0.03)


def test_words_that_express_an_emotion_tell_it_and_no_other() -> None:
    """The first phrase that a word of the cue is in decides, so the emotion can be read from the text alone."""
    words = {
        "anger": "angry|hate", "disgust": "gross|disgusting", "fear": "scared|afraid", "joy": "happy|great|glad",
        "neutral": "table|seven|usual", "sadness": "miss|lonely|cry", "surprise": "god|way|wow",
    }  # fmt: skip
    for row in make_rows(DemoConfig()):
        said = {emotion for emotion, cues in words.items() if re.search(rf"\b({cues})\b", row.text.lower())}
        assert said == ({row.text_emotion} if row.text_emotion else set()), row.text


@pytest.mark.parametrize("num_utterances", range(18, 60))
def test_dialogues_have_three_to_nine_utterances_whatever_the_size(num_utterances: int) -> None:
    rows = make_rows(DemoConfig(num_utterances=num_utterances))
    lengths = Counter((row.split, row.dialogue_id) for row in rows)
    assert len(rows) == num_utterances
    assert all(3 <= length <= 9 for length in lengths.values())


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("num_utterances", {"num_utterances": 17}),
        ("seed", {"seed": -1}),
        ("height", {"height": 0}),
        ("height", {"height": 240}),
        ("num_workers", {"num_workers": 0}),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_name(name: str, config: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=name):
        DemoConfig(**config)


@pytest.mark.parametrize(
    ("name", "scale", "num_values"), [("scale", 3, 2 * _VALUES_PER_FRAME), ("waveform", 2, 2 * _VALUES_PER_FRAME - 1)]
)
def test_arguments_that_make_no_clip_are_refused(tmp_path: Path, name: str, scale: int, num_values: int) -> None:
    with pytest.raises(ValueError, match=name):
        write_clip(
            tmp_path / "clip.mp4",
            pictures=np.zeros((2, 90, 160, 3), np.uint8),
            scale=scale,
            frame_rate=_FRAME_RATE,
            waveform=np.zeros(num_values, np.float32),
            sample_rate=48000,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("emotion", [*EMOTION.names, None])
def test_a_clip_of_any_emotion_is_drawn_and_heard_in_full(emotion: str | None) -> None:
    for seed in range(3):
        generator = np.random.default_rng(seed)
        pictures = draw_pictures(emotion, "Bruno", num_frames=30, generator=generator)
        waveform = speak(emotion, "Bruno", num_frames=30, generator=generator)
        assert pictures.shape == (30, 90, 160, 3)
        assert 16 <= pictures.min() <= pictures.max() <= 235
        assert waveform.shape == (30 * _VALUES_PER_FRAME,)
        assert 0.01 < np.abs(waveform).max() <= 1


def test_a_face_that_is_turned_away_and_a_whisper_say_nothing_of_the_emotion() -> None:
    def footage(emotion: str | None) -> tuple[NDArray[np.float64], float]:
        generator = np.random.default_rng(0)
        pictures = draw_pictures(emotion, "Ada", num_frames=2, generator=generator)
        waveform = speak(emotion, "Ada", num_frames=24, generator=generator)
        power = np.abs(np.fft.rfft(waveform)) ** 2
        return pictures[0, 45, 80, 1:].astype(np.float64), float(power.max() / power.sum())

    colour, peak = footage(None)
    assert colour.tolist() == [128, 128]  # hair before the middle of the picture: grey
    assert peak < footage("neutral")[1] / 3  # no harmonic stands out


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DatasetError, match="cannot be written"):
        make_demo(tmp_path / "file" / "demo", DemoConfig(num_utterances=18), on_progress=lambda done, total: None)
