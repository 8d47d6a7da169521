"""Clip -> frames and waveform: open, choose, resize, down-mix. The one door to Decord.

Decord is imported on use, because the process that plans and writes shards needs neither it nor torch.

Shape letters: T frames, H height, W width, N waveform values.
"""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import ClipError

__all__ = ["Picture", "Sound", "decoder_version", "probe_seconds", "read_picture", "read_sound"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """The chosen frames of a clip.

    Attributes:
        frames: `(T, H, W, 3)` uint8, RGB.
        num_frames: Real ones among them; the rest repeat the last.
        clip_frames: Frames of the whole clip.
        duration_seconds: From the first frame to the end of the last.
        variable_frame_rate: Whether some frame stays on screen at least half as long again as the usual one.
    """

    frames: NDArray[np.uint8]
    num_frames: int
    clip_frames: int
    duration_seconds: float
    variable_frame_rate: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sound:
    """The start of a clip's sound.

    Attributes:
        waveform: `(N,)` float32 in [-1, 1], mono.
        num_channels: Of the clip, before the down-mix.
        duration_seconds: Of the whole sound.
        silent: Whether the whole sound is below -100 dB of full scale.
    """

    waveform: NDArray[np.float32]
    num_channels: int
    duration_seconds: float
    silent: bool


def decoder_version() -> str:
    """Return the version of the decoder, which decides bytes: 0.6 scales bilinear, 3.4 bicubic."""
    return version("decord2")


def probe_seconds(path: Path) -> float:
    """Return how long the picture of a clip lasts, without decoding a frame.

    Raises:
        ClipError: if the clip cannot be opened or has no frame.
    """
    decord = _decord()
    with _decoder_errors(path):
        return _timeline(decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)).duration_seconds


def read_picture(path: Path, *, num_frames: int, height: int, width: int) -> Picture:
    """Decode frames spread evenly over the time of the whole clip.

    Frame i is the one on screen at `(i + 0.5) / num_frames` of the clip. Time decides, not the frame's number: at a
    variable frame rate the two differ. A clip of fewer frames gives all of them and repeats the last,
    `[a, b, c]` for 5 -> `[a, b, c, c, c]`.

    Raises:
        ClipError: if the clip cannot be opened, or not one frame of it decoded.
    """
    decord = _decord()
    with _decoder_errors(path):
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), width=width, height=height, num_threads=1)
        timeline = _timeline(reader)
        real = min(num_frames, len(timeline.starts))
        if real < num_frames:
            indices = np.minimum(np.arange(num_frames), real - 1)
        else:
            times = timeline.starts[0] + (np.arange(num_frames) + 0.5) / num_frames * timeline.duration_seconds
            indices = np.searchsorted(timeline.starts, times, side="right") - 1
        chosen = {index: _frame(reader, index, width=width) for index in sorted(set(indices.tolist()))}
        # Decord hands over a frame while a thread decodes the next ones: without a look at the last frame, time would
        # decide whether damage behind the last chosen one is met.
        reader[len(timeline.starts) - 1]
    return Picture(
        frames=np.stack([chosen[index] for index in indices.tolist()]),
        num_frames=real,
        clip_frames=len(timeline.starts),
        duration_seconds=timeline.duration_seconds,
        variable_frame_rate=timeline.variable,
    )


def read_sound(path: Path, *, sample_rate: int, max_values: int) -> Sound:
    """Decode the sound of a clip to mono.

    Args:
        path: The clip.
        sample_rate: Of the waveform, in Hz.
        max_values: Waveform values to keep from the start.

    Raises:
        ClipError: if the clip has no sound or it cannot be decoded.
    """
    decord = _decord()
    with _decoder_errors(path):
        # mono=False: Decord's own mono of a stereo clip comes 3 dB low, so the channels are mixed here.
        reader = decord.AudioReader(str(path), ctx=decord.cpu(0), sample_rate=sample_rate, mono=False)
        # The array behind the reader: indexing it by a slice goes through a list of Python integers per value.
        channels = reader._array
    if channels.ndim != 2 or not channels.size:
        raise ClipError("the sound has no values")
    if not np.isfinite(channels).all():
        raise ClipError("the sound holds values that are no numbers")
    return Sound(
        waveform=_downmix(channels[:, :max_values]),
        num_channels=len(channels),
        duration_seconds=channels.shape[1] / sample_rate,
        silent=float(np.abs(channels).max()) < _SILENCE,
    )


_SILENCE = 1e-5
"""-100 dB: under the noise of any 16-bit recording."""

_SIDE = 0.5**0.5
_DOWNMIX = {
    1: (1.0,),
    2: (1.0, 1.0),
    6: (_SIDE, _SIDE, 1.0, 0.0, _SIDE**2, _SIDE**2),
    8: (_SIDE, _SIDE, 1.0, 0.0, _SIDE**2, _SIDE**2, _SIDE**2, _SIDE**2),
}
"""Weight of each channel in FFmpeg's order, FL FR FC LFE BL BR (SL SR). Source: ITU-R BS.775-4, annex 4; FFmpeg mixes
5.1 to mono by the same ones. In a film the voice is in FC: a mix without it, or channel 0 alone, loses what is said."""


_UNOPENED = "cannot be opened: the file is cut short, damaged, or no video"
_PLAIN_WORDS = {
    "Error reading": _UNOPENED,  # all that Decord says of a picture; FFmpeg's reason went to its log
    "ERROR opening: Invalid data found when processing input": _UNOPENED,
    "Can't find audio stream": "there is no audio stream",
    "ERROR cannot find video stream with wanted index: -1": "there is no video stream",
    "Thread worker: Error sending packet.": "cannot be decoded: the picture's data is damaged",
    "Cannot create buffer source": "cannot be decoded: the picture has no size or no pixel format",
}
"""Decord's commonest messages, said to a person."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Timeline:
    starts: NDArray[np.float64]
    """`(F,)` seconds at which each frame of the clip appears."""
    duration_seconds: float
    variable: bool


def _decord() -> Any:
    """Import Decord, after torch: its wheel brings NVBLAS in, which crashes at exit when it is there before CUDA's."""
    importlib.import_module("torch")
    return importlib.import_module("decord")


def _timeline(reader: Any) -> _Timeline:
    num = len(reader)
    if not num:
        raise ClipError("no frame can be decoded")
    stamps = reader.get_frame_timestamp(list(range(num)))
    starts = np.asarray(stamps[:, 0], dtype=np.float64)
    gaps = np.diff(starts)
    return _Timeline(
        starts=starts,
        duration_seconds=round(float(stamps[-1, 1] - starts[0]), 6),
        variable=bool(len(gaps)) and bool(gaps.max() > 1.5 * np.median(gaps)),
    )


def _downmix(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mix `(channels, N)` to `(N,)`, weights summing to one so that nothing clips. Unknown layouts: the mean."""
    weights = np.array(_DOWNMIX.get(len(channels), (1.0,) * len(channels)))
    mono: NDArray[np.float32] = ((weights / weights.sum()) @ channels).astype(np.float32)
    return mono


def _frame(reader: Any, index: int, *, width: int) -> NDArray[np.uint8]:
    """Decode one frame, `(H, W, 3)`.

    Not by `get_batch`: FFmpeg pads the rows of a frame as the processor's vectors want it, and where the padded row
    happens to be a multiple of the width Decord takes the padding for further channels, (H, W, 4) say, which
    `get_batch` refuses to copy. 32 pixels are such a width with AVX-512, 72 with AVX2.
    """
    array: NDArray[np.uint8] = reader[index].asnumpy()
    rows = array.reshape(len(array), -1)[:, : 3 * width]  # (H, padded row) -> (H, 3 W)
    return rows.reshape(len(array), width, 3)


@contextmanager
def _decoder_errors(path: Path) -> Iterator[None]:
    """Turn what Decord raises about a clip into a `ClipError`: the same words in every folder and on every day."""
    decord = _decord()
    try:
        yield
    except (decord.DECORDError, RuntimeError, IndexError, ValueError, MemoryError) as exc:
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        what = re.sub(r"\[[\d:]+\] \S+\.(?:cc|h):\d+: ", "", lines[0])  # the time and the place in Decord's source
        what = re.sub(
            r"^Check failed: .* \(\S+ vs\. \S+\) ", "", what
        )  # the condition, with pointers and error numbers
        what = what.replace(f" {path}, ", " ").replace(f" {path}...", "")
        raise ClipError(_PLAIN_WORDS.get(what, f"cannot be decoded: {what}")) from exc
