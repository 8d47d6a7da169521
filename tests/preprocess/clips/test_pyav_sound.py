"""The sound on the file's clock: what is late, missing, changing or damaged."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from preprocess.clips.clip import Sound, downmix
from preprocess.clips.pyav_clip import PyavClip
from preprocess.datasets.annotations import Span
from preprocess.errors import ClipError
from tests.support.clips import SAMPLE_RATE, tone, write_clip
from tests.support.matrix import edits
from tests.support.matrix.codecs import picture, sound
from tests.support.matrix.studio import Studio

RATE = 16_000
VIDEO, AAC = picture("h264", "no-b"), sound("aac")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"))


def heard(path: Path, *, start: float | None = None, end: float = 0.0, max_values: int = 10**6) -> Sound:
    part = None if start is None else Span(start_seconds=start, end_seconds=end)
    return PyavClip(path).read_sound(sample_rate=RATE, max_values=max_values, part=part)


def beep_starts(waveform: np.ndarray, *, threshold: float = 0.2) -> list[float]:
    """Return when each loud stretch begins, in seconds; shorter pauses than 50 ms are none."""
    loud = np.flatnonzero(np.abs(waveform) > threshold)
    begins = loud[np.append(True, np.diff(loud) > RATE // 20)]
    return [round(float(place) / RATE, 2) for place in begins]


def test_sound_that_begins_late_has_silence_before_it(tmp_path: Path, studio: Studio) -> None:
    edits.shifted(VIDEO, AAC, studio, tmp_path / "a.mp4", sound_seconds=0.78)
    found = heard(tmp_path / "a.mp4")
    assert beep_starts(found.waveform) == pytest.approx([1.18, 1.78, 2.38], abs=0.015)
    assert not found.waveform[: round(0.75 * RATE)].any()  # AAC begins 21 ms early
    assert found.duration_seconds == pytest.approx(2.78, abs=0.03)
    assert "sound_gap" in found.remarks


def test_a_part_is_cut_by_the_clock_of_the_file_and_not_by_that_of_the_sound(tmp_path: Path, studio: Studio) -> None:
    edits.shifted(VIDEO, AAC, studio, tmp_path / "a.mp4", sound_seconds=0.778)
    found = heard(tmp_path / "a.mp4", start=1.7, end=2.0)
    assert beep_starts(found.waveform) == pytest.approx([0.078], abs=0.015)
    assert (len(found.waveform), found.duration_seconds) == (round(0.3 * RATE), 0.3)
    assert found.remarks == {}


def test_a_part_before_the_sound_has_none(tmp_path: Path, studio: Studio) -> None:
    edits.shifted(VIDEO, AAC, studio, tmp_path / "a.mp4", sound_seconds=0.78)
    with pytest.raises(ClipError, match="the sound has no values"):
        heard(tmp_path / "a.mp4", start=0.1, end=0.5)


def test_a_gap_is_silence_and_what_follows_stays_where_it_was(tmp_path: Path, studio: Studio) -> None:
    edits.with_gap(VIDEO, AAC, studio, tmp_path / "a.mkv")
    found = heard(tmp_path / "a.mkv")
    assert beep_starts(found.waveform) == pytest.approx([0.4, 1.0, 1.6], abs=0.015)
    assert found.remarks.keys() == {"sound_gap"}


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_damaged_packets_cost_themselves_and_are_counted(tmp_path: Path, studio: Studio, container: str) -> None:
    path = tmp_path / f"a.{container}"
    edits.noise_in_sound(VIDEO, AAC, studio, path, share=0.1)
    found = heard(path)
    assert found.duration_seconds > 1.9
    assert "packets of the sound cannot be decoded: silence there" in found.remarks["damaged"]
    assert beep_starts(found.waveform)[-1] == pytest.approx(1.61, abs=0.06)


@pytest.mark.parametrize("change", ["channels", "rate", "both"])
def test_sound_that_changes_is_read_to_its_end(tmp_path: Path, studio: Studio, change: str) -> None:
    edits.changing_sound(studio, tmp_path / "a.ts", change=change)
    found = heard(tmp_path / "a.ts")
    assert len(beep_starts(found.waveform)) == 3
    assert "become" in found.remarks["sound_changes"]
    assert found.num_channels == (1 if change == "rate" else 2)


@pytest.mark.parametrize("num_channels", [3, 5, 7, 8])
@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_any_count_of_channels_is_mixed_to_one(
    tmp_path: Path, studio: Studio, num_channels: int, seconds: float
) -> None:
    """Of eight planes PyAV 18.1 reads a ninth."""
    write = partial(edits.heard, num_channels=num_channels, seconds=seconds)
    write(VIDEO, AAC, studio, tmp_path / "a.mp4")
    found = heard(tmp_path / "a.mp4")
    assert found.num_channels == num_channels
    beep = found.waveform[round((1.05 - seconds) * RATE) : round((1.15 - seconds) * RATE)]
    assert np.sqrt(np.square(beep).mean()) == pytest.approx(0.4 / 2**0.5, rel=0.2)


def test_what_is_kept_of_a_sound_does_not_depend_on_how_much_is_kept(tmp_path: Path, studio: Studio) -> None:
    edits.with_gap(VIDEO, AAC, studio, tmp_path / "a.mkv")
    whole = heard(tmp_path / "a.mkv")
    for max_values in (0, 100, RATE // 2, RATE, 10**6):
        start = heard(tmp_path / "a.mkv", max_values=max_values)
        np.testing.assert_array_equal(start.waveform, whole.waveform[:max_values])
        assert start.duration_seconds == whole.duration_seconds


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.3), (0.25, 0.75), (0.5, 5.0)])
def test_a_part_is_the_same_stretch_of_the_whole(tmp_path: Path, start: float, end: float) -> None:
    path = write_clip(tmp_path / "a.mp4", channels=np.stack([tone(SAMPLE_RATE, hertz=300)] * 2))
    whole = heard(path).waveform
    np.testing.assert_array_equal(
        heard(path, start=start, end=end).waveform, whole[round(start * RATE) : round(end * RATE)]
    )


def test_channels_are_mixed_by_their_names() -> None:
    channels = np.eye(4, dtype=np.float32)
    mono = downmix(channels, ("FL", "FR", "FC", "LFE"))
    side = 0.5**0.5
    np.testing.assert_allclose(mono, np.array([side, side, 1, 0]) / (1 + 2 * side), rtol=1e-6)
    np.testing.assert_allclose(downmix(channels, ("?", "?", "?", "?")), [0.25] * 4)
