"""What is taken from a clip, whichever decoder reads it: which frames, how channels are mixed, what is measured.

Shape letters: T frames, H height, W width, N waveform values, F frames of the whole clip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from preprocess.config import Decoder
from preprocess.datasets.annotations import Span
from preprocess.errors import ClipError
from shards.schema import NoteKind
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
        remarks: What else is worth knowing, by the kind of its note.
    """

    frames: NDArray[np.uint8]
    num_frames: int
    clip_frames: int
    duration_seconds: float
    variable_frame_rate: bool
    remarks: Mapping[NoteKind, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sound:
    """The start of a clip's sound.

    Attributes:
        waveform: `(N,)` float32 in [-1, 1], mono.
        num_channels: Of the clip, before the down-mix.
        duration_seconds: Of the whole sound.
        silent: Whether the whole sound is below -100 dB of full scale.
        remarks: What else is worth knowing, by the kind of its note.
    """

    waveform: NDArray[np.float32]
    num_channels: int
    duration_seconds: float
    silent: bool
    remarks: Mapping[NoteKind, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """When the frames of a clip appear.

    Attributes:
        starts: `(F,)` float64 seconds, ascending; on the file's clock where a part of the file is wanted.
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


_REVISION = 2
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
    "FL": _SIDE, "FR": _SIDE, "FC": 1.0, "FLC": _SIDE, "FRC": _SIDE, "BL": _SIDE**2, "BR": _SIDE**2, "BC": _SIDE**2,
    "SL": _SIDE**2, "SR": _SIDE**2,
}  # fmt: skip
"""Weight of each channel by FFmpeg's name of it; others, the low-frequency one among them, are left out. Source: ITU-R
BS.775-4, annex 4; FFmpeg mixes to mono by the same ones. In a film the voice is in FC: a mix without it, or channel 0
alone, loses what is said."""
_EDGE_SECONDS = 1e-6
"""A frame that is on screen for less of a part is not in it: times of annotations are written with as many digits."""


def cut_timeline(timeline: Timeline, part: Span | None) -> tuple[Timeline, int]:
    """Return the frames of a timeline that are on screen within a part of the file, and the index of their first.

    Args:
        timeline: Of the whole file, on its clock, which begins with the first of picture and sound.
        part: From when to when; None for all of it.

    Raises:
        ClipError: if there is none.
    """
    if part is None:
        return timeline, 0
    starts = timeline.starts
    ends = np.append(starts[1:], starts[0] + timeline.duration_seconds)
    inside = np.flatnonzero((ends > part.start_seconds + _EDGE_SECONDS) & (starts < part.end_seconds - _EDGE_SECONDS))
    if not len(inside):
        raise ClipError(
            f"no frame from {part.start_seconds:.3f} to {part.end_seconds:.3f} s: the file lasts {ends[-1]:.3f} s"
        )
    first, last = int(inside[0]), int(inside[-1])
    return Timeline(
        starts=timeline.starts[first : last + 1], duration_seconds=round(float(ends[last] - starts[first]), 6)
    ), first


def make_picture(
    frames: Sequence[NDArray[np.uint8]],
    timeline: Timeline,
    *,
    sampling: Sampling,
    remarks: Mapping[NoteKind, str] = MappingProxyType({}),
) -> Picture:
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
        remarks=remarks,
    )


def downmix(channels: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    """Mix channels to one, by weights whose sum is one, so that nothing clips.

    Args:
        channels: `(channels, N)`.
        names: FFmpeg's name of each, like `FL`; where it knows none of them, all count alike.

    Returns:
        `(N,)` float32.
    """
    weights = np.array([_DOWNMIX.get(name, 0.0) for name in names])
    if not weights.any():
        weights = np.ones(len(channels))
    mono: NDArray[np.float32] = ((weights / weights.sum()) @ channels).astype(np.float32)
    return mono
