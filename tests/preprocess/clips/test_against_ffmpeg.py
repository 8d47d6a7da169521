"""Both decoders against what the `ffmpeg` program itself makes of the same clips.

Shape letters: T frames, H height, W width, N waveform values.
"""

import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from preprocess.clips.clip import choose_frames
from preprocess.clips.decord_clip import DecordClip
from preprocess.clips.pyav_clip import PyavClip
from tests.support.clips import SAMPLE_RATE, frame_numbers, index_pictures, small_config, small_spec, tone, write_clip

SPEC = small_spec(small_config(num_frames=8, height=64, width=96)).video
RATE = 16_000
KINDS = pytest.mark.parametrize("kind", [DecordClip, PyavClip])


def ffmpeg(*arguments: str | Path) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, arguments), "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def frames_by_ffmpeg(path: Path) -> NDArray[np.uint8]:
    """Return all frames `(T, H, W, 3)` scaled to the size of `SPEC`."""
    scale = f"scale={SPEC.width}:{SPEC.height}:flags=bicubic"
    raw = ffmpeg("-i", path, "-vf", scale, "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo")
    return np.frombuffer(raw, np.uint8).reshape(-1, SPEC.height, SPEC.width, 3)


def sound_by_ffmpeg(path: Path) -> NDArray[np.float32]:
    """Return the mono waveform `(N,)` at 16 kHz; from 16-bit values, for which ffmpeg mixes so that nothing clips."""
    raw = ffmpeg("-i", path, "-vn", "-ac", "1", "-ar", str(RATE), "-f", "s16le")
    return np.frombuffer(raw, "<i2").astype(np.float32) / np.float32(32768)


def detailed_pictures(num_frames: int) -> NDArray[np.uint8]:
    """Return numbered pictures `(T, H, W, 3)` with stripes, rings and noise on them, so that scaling has work to do."""
    pictures = index_pictures(num_frames, height=360, width=640).astype(np.int32)
    rows, columns = np.mgrid[:360, :640]
    pattern = 30 * np.sin(columns / 7) + 20 * np.sin(np.hypot(rows - 180, columns - 320) / 9)
    noise = np.random.default_rng(0).normal(scale=8, size=(360, 640))
    pictures += np.round(pattern + noise).astype(np.int32)[None, :, :, None]
    return pictures.clip(0, 255).astype(np.uint8)


@KINDS
@pytest.mark.parametrize("gaps", [[1] * 24, [1] * 12 + [3] * 12, [5] + [1] * 23], ids=["even", "sparser", "late"])
def test_the_frames_are_those_of_ffmpeg_and_their_pixels_too(tmp_path: Path, kind: Any, gaps: list[int]) -> None:
    pictures = detailed_pictures(len(gaps))
    path = write_clip(tmp_path / "a.mp4", pictures=pictures, gaps=gaps)
    clip = PyavClip(path)
    chosen = choose_frames(clip.timeline(), num_frames=SPEC.num_frames, sampling="uniform-time")
    expected = frames_by_ffmpeg(path)[chosen]
    ours = kind(path).read_picture(SPEC, part=None).frames
    assert frame_numbers(ours) == frame_numbers(expected) == chosen.tolist()
    difference = np.abs(ours.astype(int) - expected)
    assert difference.mean() < 1.5  # rounding and the order of scaling and colour conversion
    assert difference.max() <= 24
    other = frames_by_ffmpeg(path)[np.minimum(chosen + 1, len(pictures) - 1)]
    assert np.abs(ours[:-1].astype(int) - other[:-1]).mean() > 2 * difference.mean()  # the neighbours are further away


@KINDS
@pytest.mark.parametrize(("layout", "num_channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
def test_the_sound_is_that_of_ffmpeg(tmp_path: Path, kind: Any, layout: str, num_channels: int) -> None:
    voices = [
        tone(2 * SAMPLE_RATE, hertz=150 * (number + 1), amplitude=0.1 + 0.05 * number) for number in range(num_channels)
    ]
    path = write_clip(tmp_path / "a.mp4", pictures=24, layout=layout, channels=np.stack(voices))
    expected = sound_by_ffmpeg(path)
    ours = kind(path).read_sound(sample_rate=RATE, max_values=10**6, part=None).waveform
    assert abs(len(ours) - len(expected)) <= RATE // 100
    length = min(len(ours), len(expected))
    error = ours[:length] - expected[:length]
    assert np.sqrt(np.square(error).mean()) < 0.02 * np.sqrt(np.square(expected).mean())
