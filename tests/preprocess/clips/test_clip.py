import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from preprocess.clips.clip import Picture, Sound, decoder_version
from preprocess.clips.decord_clip import DecordClip
from preprocess.clips.pyav_clip import PyavClip, probe_seconds
from preprocess.errors import ClipError
from shards.spec import VideoSpec
from tests.support.clips import (
    SAMPLE_RATE,
    cut_without_encoding,
    frame_numbers,
    index_pictures,
    small_config,
    small_spec,
    tone,
    write_clip,
)

RATE = 16_000


class _Reading:
    """The decoder under test: all that is here holds for both."""

    kind: type[DecordClip] | type[PyavClip] = DecordClip


@pytest.fixture(autouse=True, params=[DecordClip, PyavClip], ids=["decord", "pyav"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Reading, "kind", request.param)


def spec_of(num_frames: int, height: int, width: int) -> VideoSpec:
    return small_spec(small_config(num_frames=num_frames, height=height, width=width)).video


def picture_of(path: Path, *, num_frames: int, height: int = 48, width: int = 64) -> Picture:
    picture: Picture = _Reading.kind(path).read_picture(spec_of(num_frames, height, width), part=None)
    return picture


def sound_of(path: Path, *, max_values: int = 10**6) -> Sound:
    sound: Sound = _Reading.kind(path).read_sound(sample_rate=RATE, max_values=max_values, part=None)
    return sound


def frames_on_screen(gaps: Sequence[int], *, num_frames: int) -> list[set[int]]:
    """Say which frame is on screen at each chosen time; both neighbours where the time is the border between them."""
    starts = [0, *accumulate(gaps)]
    times = (np.arange(num_frames) + 0.5) / num_frames * starts[-1]
    spans = list(pairwise(starts))
    return [{i for i, (start, end) in enumerate(spans) if start - 1e-6 <= time <= end + 1e-6} for time in times]


def mixed_by_ffmpeg(path: Path) -> NDArray[np.float64]:
    """Let FFmpeg's own resampler make 16-bit mono of a clip, as `ffmpeg -ac 1 -ar 16000` does."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(path) as container:
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    parts += resampler.resample(None)
    return np.concatenate([part.to_ndarray()[0] for part in parts]) / 32768


# The picture.


@pytest.mark.parametrize("num_frames", [1, 2, 5, 7, 16, 23, 24])
def test_frames_are_those_on_screen_in_the_middle_of_equal_parts_of_the_clip(tmp_path: Path, num_frames: int) -> None:
    picture = picture_of(write_clip(tmp_path / "a.mp4", pictures=24), num_frames=num_frames)
    expected = frames_on_screen([1] * 24, num_frames=num_frames)
    assert all(number in allowed for number, allowed in zip(frame_numbers(picture.frames), expected, strict=True)), (
        frame_numbers(picture.frames)
    )
    assert (picture.num_frames, picture.clip_frames) == (num_frames, 24)


@pytest.mark.parametrize("gaps", [[1] * 6 + [4] * 6, [5] + [1] * 15, [1, 2] * 8, [1] * 12 + [12]])
def test_at_a_variable_frame_rate_time_decides_and_not_the_number_of_a_frame(tmp_path: Path, gaps: list[int]) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=len(gaps), gaps=gaps)
    picture = picture_of(path, num_frames=9)
    expected = frames_on_screen(gaps, num_frames=9)
    assert all(number in allowed for number, allowed in zip(frame_numbers(picture.frames), expected, strict=True)), (
        frame_numbers(picture.frames)
    )
    assert picture.duration_seconds == pytest.approx(sum(gaps) / 24, abs=1e-5)


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("key_every", [1, 2, 5, 11])
@pytest.mark.parametrize("num_frames", [2, 5, 9, 24])
def test_frames_are_the_same_wherever_the_key_frames_lie(
    tmp_path: Path, b_frames: int, key_every: int, num_frames: int
) -> None:
    """Going forward from one chosen frame to the next, a decoder may leap from key frame to key frame, or not."""
    path = write_clip(tmp_path / "a.mp4", pictures=24, b_frames=b_frames, key_every=key_every)
    expected = frames_on_screen([1] * 24, num_frames=num_frames)
    found = frame_numbers(picture_of(path, num_frames=num_frames).frames)
    assert all(number in allowed for number, allowed in zip(found, expected, strict=True)), found


def test_a_clip_of_fewer_frames_gives_all_of_them_and_repeats_the_last(tmp_path: Path) -> None:
    picture = picture_of(write_clip(tmp_path / "a.mp4", pictures=3), num_frames=5)
    assert frame_numbers(picture.frames) == [0, 1, 2, 2, 2]
    assert picture.num_frames == 3


def test_a_clip_of_exactly_as_many_frames_gives_each_once(tmp_path: Path) -> None:
    picture = picture_of(write_clip(tmp_path / "a.mp4", pictures=8), num_frames=8)
    assert frame_numbers(picture.frames) == list(range(8))


def test_a_clip_of_one_frame_repeats_it(tmp_path: Path) -> None:
    picture = picture_of(write_clip(tmp_path / "a.mp4", pictures=1), num_frames=4)
    assert frame_numbers(picture.frames) == [0, 0, 0, 0]
    assert (picture.num_frames, picture.clip_frames, picture.variable_frame_rate) == (1, 1, False)
    assert picture.duration_seconds == pytest.approx(1 / 24, abs=1e-5)


def test_colours_come_as_red_green_blue(tmp_path: Path) -> None:
    pictures = index_pictures(4)
    frames = picture_of(write_clip(tmp_path / "a.mp4", pictures=pictures), num_frames=4).frames
    assert frames.dtype == np.uint8
    assert np.abs(frames.mean(axis=(1, 2)) - pictures.mean(axis=(1, 2))).max() < 6


@pytest.mark.parametrize(
    ("height", "width"), [(48, 64), (32, 96), (48, 72), (48, 32), (112, 112), (33, 65), (31, 171), (224, 224)]
)
def test_the_whole_picture_is_scaled_to_the_size_asked_for(tmp_path: Path, height: int, width: int) -> None:
    quarters = np.zeros((2, 96, 128, 3), np.uint8)  # black but for a red upper right and a blue lower left
    quarters[:, :48, 64:, 0] = 250
    quarters[:, 48:, :64, 2] = 250
    path = write_clip(tmp_path / "a.mp4", pictures=quarters)
    frames = picture_of(path, num_frames=2, height=height, width=width).frames
    assert frames.shape == (2, height, width, 3)
    assert frames.flags.c_contiguous
    top, bottom = slice(height // 10, height * 2 // 5), slice(height * 3 // 5, height * 9 // 10)
    left, right = slice(width // 10, width * 2 // 5), slice(width * 3 // 5, width * 9 // 10)
    assert frames[:, top, left].max() < 30
    assert frames[:, bottom, right].max() < 30
    assert frames[:, top, right, 0].min() > 180
    assert frames[:, bottom, left, 2].min() > 180


@pytest.mark.parametrize("width", [8, 16, 24, 32, 48, 72, 96, 144])
def test_no_width_breaks_the_decoder(tmp_path: Path, width: int) -> None:
    """Decord takes rows that its scaler padded to a multiple of the width for rows without padding."""
    path = write_clip(tmp_path / "a.mp4", pictures=2)
    assert picture_of(path, num_frames=2, width=width).frames.shape == (2, 48, width, 3)


@pytest.mark.parametrize(
    ("gaps", "variable"), [([1] * 24, False), ([2] * 8, False), ([1] * 6 + [4] * 6, True), ([1, 1, 2] * 4, True)]
)
def test_a_frame_rate_is_variable_where_a_frame_stays_longer_than_usual(
    tmp_path: Path, gaps: list[int], variable: bool
) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=len(gaps), gaps=gaps)
    assert picture_of(path, num_frames=2).variable_frame_rate == variable


def test_probing_tells_the_length_that_reading_tells(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=12, gaps=[1] * 6 + [4] * 6)
    assert probe_seconds(path) == pytest.approx(1.25, abs=1e-5)
    assert picture_of(path, num_frames=2).duration_seconds == pytest.approx(1.25, abs=1e-5)


def test_a_clip_cut_behind_its_header_gives_what_is_left_of_it(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=24, options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    picture = picture_of(path, num_frames=4)
    numbers = frame_numbers(picture.frames)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < picture.clip_frames < 24
    assert PyavClip(path).read_sound(sample_rate=RATE, max_values=10**6, part=None).duration_seconds < 0.9
    with pytest.raises(ClipError, match=r"the sound ends after 0\.\d\d s of 1\.00 s"):  # which it does without a word
        DecordClip(path).read_sound(sample_rate=RATE, max_values=10**6, part=None)


# The sound.


def voices(num_channels: int, *, num_values: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Give each channel a tone of its own."""
    return np.stack([tone(num_values, hertz=200.0 * (i + 1), amplitude=0.3) for i in range(num_channels)])


@pytest.mark.parametrize(("layout", "num_channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
def test_the_mix_is_the_one_that_ffmpeg_makes(tmp_path: Path, layout: str, num_channels: int) -> None:
    path = write_clip(tmp_path / "a.mp4", layout=layout, channels=voices(num_channels))
    sound = sound_of(path)
    ours, theirs = sound.waveform.astype(np.float64), mixed_by_ffmpeg(path)
    assert len(ours) == len(theirs)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.999
    assert ours @ theirs / (theirs @ theirs) == pytest.approx(1, abs=0.01)
    assert sound.num_channels == num_channels
    assert sound.duration_seconds == pytest.approx(1.0, abs=0.03)
    assert sound.waveform.dtype == np.float32


def test_a_voice_in_the_centre_of_surround_sound_is_heard(tmp_path: Path) -> None:
    channels = np.zeros((6, SAMPLE_RATE), np.float32)
    channels[2] = tone(SAMPLE_RATE, hertz=440, amplitude=0.5)
    sound = sound_of(write_clip(tmp_path / "a.mp4", layout="5.1", channels=channels))
    power = np.abs(np.fft.rfft(sound.waveform[:RATE]))
    assert not sound.silent
    assert np.argmax(power) == 440
    assert np.sqrt(np.mean(sound.waveform**2)) > 0.08


def test_a_mix_of_full_channels_does_not_clip(tmp_path: Path) -> None:
    channels = np.stack([tone(SAMPLE_RATE, amplitude=0.9)] * 6)
    waveform = sound_of(write_clip(tmp_path / "a.mp4", layout="5.1", channels=channels)).waveform
    assert np.abs(waveform).max() < 1.1


def test_only_the_start_of_the_sound_is_kept_and_its_whole_length_told(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    whole, start = sound_of(path), sound_of(path, max_values=500)
    np.testing.assert_array_equal(start.waveform, whole.waveform[:500])
    assert start.duration_seconds == whole.duration_seconds


def test_digital_silence_is_told(tmp_path: Path) -> None:
    silence = np.zeros((2, SAMPLE_RATE), np.float32)
    assert sound_of(write_clip(tmp_path / "silent.mp4", channels=silence)).silent
    assert not sound_of(write_clip(tmp_path / "loud.mp4")).silent


def test_sound_after_the_kept_start_is_no_silence(tmp_path: Path) -> None:
    channels = np.zeros((2, SAMPLE_RATE), np.float32)
    channels[:, SAMPLE_RATE // 2 :] = 0.3 * np.sign(tone(SAMPLE_RATE // 2))
    sound = sound_of(write_clip(tmp_path / "a.mp4", channels=channels), max_values=RATE // 10)
    assert np.abs(sound.waveform).max() < 1e-3
    assert not sound.silent


# Clips that cannot be used.


def reasons(path: Path) -> list[str]:
    """Read what can be read of a clip; return why the rest cannot."""
    found = []
    for read in (lambda: picture_of(path, num_frames=4), lambda: sound_of(path), lambda: probe_seconds(path)):
        try:
            read()
        except ClipError as exc:
            found.append(str(exc))
    return found


def assert_readable(reason: str, path: Path) -> None:
    """Check that a reason is one line for a person, the same in every folder, on every day and in every process."""
    assert reason.startswith(("cannot be opened: ", "cannot be decoded: ", "there is no ", "no frame ", "the sound "))
    assert "\n" not in reason
    assert not re.search(r"\.(cc|h|cpp)\b|/project/|\d\d:\d\d:\d\d|0x[0-9a-f]+", reason), reason
    assert str(path) not in reason
    assert path.name not in reason


def test_a_clip_without_sound_says_so_and_has_its_picture(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", layout=None)
    assert reasons(path) == ["there is no audio stream"]


@pytest.mark.parametrize("content", [b"", b"hello" * 200, bytes(5000), np.random.default_rng(0).bytes(20_000)], ids=len)
def test_what_is_no_video_cannot_be_opened(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert set(reasons(path)) == {"cannot be opened: the file is cut short, damaged, or no video"}
    assert len(reasons(path)) == 3


def test_a_clip_cut_before_its_header_cannot_be_opened(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1000, len(whole) // 8):
        path.write_bytes(whole[:size])
        assert set(reasons(path)) == {"cannot be opened: the file is cut short, damaged, or no video"}


@pytest.mark.parametrize("folder", ["plain", "with, comma", "with space", "[brackets]"])
def test_a_reason_does_not_hold_the_path_of_the_clip(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "a.mp4"
    path.parent.mkdir()
    path.write_bytes(b"hello" * 200)
    assert set(reasons(path)) == {"cannot be opened: the file is cut short, damaged, or no video"}


def test_a_reason_is_the_same_for_a_path_that_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"hello" * 200)
    monkeypatch.chdir(tmp_path)
    assert reasons(Path("a.mp4")) == reasons(tmp_path / "a.mp4")


def test_the_reasons_for_damaged_clips_are_for_people(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", options={"movflags": "faststart"})
    whole = path.read_bytes()
    start = whole.index(b"mdat")
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(
        60
    ):  # in the picture's data alone: a damaged table may abort the process, which is the pool's affair
        content = bytearray(whole)
        for place in rng.integers(start + 100, len(content), size=30):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        found.update(reasons(path))
    for size in range(0, len(whole), len(whole) // 30):
        path.write_bytes(whole[:size])
        found.update(reasons(path))
    assert len(found) > 2
    for reason in found:
        assert_readable(reason, path)


def test_a_clip_damaged_near_its_end_gives_the_same_every_time(tmp_path: Path) -> None:
    """Whether Decord's thread has met the damage before the last chosen frame is handed over must not matter."""
    path = write_clip(tmp_path / "a.mp4", pictures=24, layout=None, options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    with av.open(path) as container:
        *_, (start, size) = ((packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size)
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    assert len({tuple(reasons(path)) for _ in range(30)}) == 1


def test_the_decoder_version_names_all_that_may_decode() -> None:
    assert re.fullmatch(r"decord2 [\d.]+, av [\d.]+, revision \d+", decoder_version("decord"))
    assert re.fullmatch(r"av [\d.]+, revision \d+", decoder_version("pyav"))


# Both decoders side by side.


@pytest.mark.parametrize("gaps", [[1] * 24, [1] * 6 + [4] * 6, [5] + [1] * 15])
def test_both_decoders_give_the_same_frames(tmp_path: Path, gaps: list[int]) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=len(gaps), gaps=gaps, b_frames=2)
    ours, theirs = (kind(path).read_picture(spec_of(7, 48, 64), part=None) for kind in (DecordClip, PyavClip))
    assert np.abs(ours.frames.astype(int) - theirs.frames).max() <= 6  # one scales more exactly than the other
    assert (ours.num_frames, ours.clip_frames, ours.variable_frame_rate) == (
        theirs.num_frames, theirs.clip_frames, theirs.variable_frame_rate,
    )  # fmt: skip
    assert ours.duration_seconds == pytest.approx(theirs.duration_seconds, abs=1e-4)


@pytest.mark.parametrize(("layout", "num_channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
def test_both_decoders_give_the_same_sound(tmp_path: Path, layout: str, num_channels: int) -> None:
    path = write_clip(tmp_path / "a.mp4", layout=layout, channels=voices(num_channels))
    ours, theirs = (
        kind(path).read_sound(sample_rate=RATE, max_values=10**6, part=None) for kind in (DecordClip, PyavClip)
    )
    num = min(len(ours.waveform), len(theirs.waveform))
    assert abs(len(ours.waveform) - len(theirs.waveform)) <= RATE // 100
    assert np.corrcoef(ours.waveform[:num], theirs.waveform[:num])[0, 1] > 0.9999
    assert ours.num_channels == theirs.num_channels == num_channels


def test_a_clip_whose_start_is_hidden_is_read_without_it(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", pictures=24, layout=None)
    cut = cut_without_encoding(tmp_path / "cut.mp4", whole, hidden=8)
    picture = PyavClip(cut).read_picture(spec_of(16, 48, 64), part=None)
    assert frame_numbers(picture.frames) == list(range(8, 24))
    assert picture.duration_seconds == pytest.approx(16 / 24, abs=0.001)
