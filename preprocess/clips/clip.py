"""What is taken from a clip, whichever decoder reads it: which frames, how channels are mixed, what is measured.

Shape letters: T frames, H height, W width, N waveform values, F frames of the whole clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from preprocess.config import Decoder
from preprocess.datasets.annotations import Span
from preprocess.errors import ClipError
from shards.spec import Sampling

__all__ = [
    "LONG_SECONDS",
    "MISMATCH_SECONDS",
    "SHORT_SECONDS",
    "SILENCE",
    "Picture",
    "Sound",
    "Timeline",
    "choose_frames",
    "cut_timeline",
    "decoder_version",
    "downmix",
    "make_picture",
]

SILENCE = 1e-5
"""-100 dB: under the noise of any 16-bit recording."""
MISMATCH_SECONDS = 0.5
"""Clip and annotation differ by more than this and by more than a tenth: MELD's own clips agree to 0.05 s."""
LONG_SECONDS = 30.0
"""Longer than any utterance of MELD that was really spoken (28.5 s)."""
SHORT_SECONDS = 0.2
"""An annotation of less is hardly a word; five frames."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """The chosen frames of a clip.

    Attributes:
        frames: `(T, H, W, 3)` uint8, RGB.
        num_frames: Real ones among them; the rest repeat the last, or are black.
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """When the frames of a clip appear.

    Attributes:
        starts: `(F,)` float64 seconds, ascending.
        duration_seconds: From the first frame to the end of the last.
    """

    starts: NDArray[np.float64]
    duration_seconds: float

    @property
    def variable(self) -> bool:
        """Whether some frame stays on screen at least half as long again as the usual one."""
        gaps = np.diff(self.starts)
        return bool(len(gaps)) and bool(gaps.max() > 1.5 * np.median(gaps))


def decoder_version(decoder: Decoder) -> str:
    """Return the versions of what may decode a clip, since they decide bytes: Decord 0.6 scales bilinear, 3.4 bicubic.

    PyAV is named beside Decord, because it takes what Decord cannot; and last the revision of what is done here.
    """
    pyav = f"av {version('av')}, revision {_REVISION}"
    return pyav if decoder == "pyav" else f"decord2 {version('decord2')}, {pyav}"


_REVISION = 1
"""Raised by every change of this program that changes a frame or a waveform: what was made before does not pass for
what would be made now. `preprocess.clips.logmel` has its own."""


def choose_frames(timeline: Timeline, *, num_frames: int, sampling: Sampling) -> NDArray[np.int64]:
    """Return the indices `(T,)` of the frames to take.

    With `uniform-time` frame i is the one on screen at `(i + 0.5) / num_frames` of the clip. Time decides, not the
    frame's number: at a variable frame rate the two differ. With `first` they are 0, 1, 2 and so on. A clip of fewer
    frames gives all of them and repeats the last, `[a, b, c]` for 5 -> `[a, b, c, c, c]`.
    """
    starts = timeline.starts
    if len(starts) < num_frames or sampling == "first":
        return np.minimum(np.arange(num_frames), len(starts) - 1)
    times = starts[0] + (np.arange(num_frames) + 0.5) / num_frames * timeline.duration_seconds
    indices: NDArray[np.int64] = np.searchsorted(starts, times, side="right") - 1
    return indices


_SIDE = 0.5**0.5
_DOWNMIX = {
    1: (1.0,),
    2: (1.0, 1.0),
    6: (_SIDE, _SIDE, 1.0, 0.0, _SIDE**2, _SIDE**2),
    8: (_SIDE, _SIDE, 1.0, 0.0, _SIDE**2, _SIDE**2, _SIDE**2, _SIDE**2),
}
"""Weight of each channel in FFmpeg's order, FL FR FC LFE BL BR (SL SR). Source: ITU-R BS.775-4, annex 4; FFmpeg mixes
5.1 to mono by the same ones. In a film the voice is in FC: a mix without it, or channel 0 alone, loses what is said."""


def cut_timeline(timeline: Timeline, part: Span | None) -> tuple[Timeline, int]:
    """Return the frames of a timeline that are on screen within a part of the file, and the index of their first.

    Raises:
        ClipError: if there is none.
    """
    if part is None:
        return timeline, 0
    starts = timeline.starts - timeline.starts[0]
    ends = np.append(starts[1:], timeline.duration_seconds)
    inside = np.flatnonzero((ends > part.start_seconds) & (starts < part.end_seconds))
    if not len(inside):
        raise ClipError(
            f"no frame from {part.start_seconds:.3f} to {part.end_seconds:.3f} s: the file lasts "
            f"{timeline.duration_seconds:.3f} s"
        )
    first, last = int(inside[0]), int(inside[-1])
    return Timeline(
        starts=timeline.starts[first : last + 1], duration_seconds=round(float(ends[last] - starts[first]), 6)
    ), first


def make_picture(frames: Sequence[NDArray[np.uint8]], timeline: Timeline, *, sampling: Sampling) -> Picture:
    """Put the chosen frames, `(H, W, 3)` each, and what is known of their clip together."""
    stacked = np.stack(frames)
    if sampling == "first":
        stacked[len(timeline.starts) :] = 0  # as tutorials do
    return Picture(
        frames=stacked,
        num_frames=min(len(frames), len(timeline.starts)),
        clip_frames=len(timeline.starts),
        duration_seconds=timeline.duration_seconds,
        variable_frame_rate=timeline.variable,
    )


def downmix(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mix `(channels, N)` to `(N,)`, weights summing to one so that nothing clips. Unknown layouts: the mean."""
    weights = np.array(_DOWNMIX.get(len(channels), (1.0,) * len(channels)))
    mono: NDArray[np.float32] = ((weights / weights.sum()) @ channels).astype(np.float32)
    return mono
