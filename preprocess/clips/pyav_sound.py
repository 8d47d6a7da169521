"""The sound of a clip by PyAV, laid on the file's clock piece by piece.

Shape letters: N waveform values.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from preprocess.clips.clip import SILENCE, Sound, downmix
from preprocess.datasets.annotations import Span
from preprocess.errors import ClipError
from shards.schema import NoteKind

__all__ = ["read_mono"]

_GAP_SECONDS = 0.06
"""A frame that comes so much later than the one before it ends has a gap before it: containers round times to a
millisecond, and recorders to a few dozen."""
_LOST_SECONDS = 0.005
"""The same behind a packet that could not be decoded, where a gap is expected."""
_LONGEST_GAP_SECONDS = 3600.0
"""Further on no sound is believed to go on: its time is damaged."""


def read_mono(
    stream: AudioStream,
    packets: Iterable[Any],
    *,
    zero_seconds: float,
    sample_rate: int,
    max_values: int,
    part: Span | None,
) -> Sound:
    """Decode a stream of sound to mono; what cannot be decoded, or is not there, is silence.

    Args:
        stream: Of the sound.
        packets: Its packets, in the order of the file.
        zero_seconds: Where the file's clock begins, in the stream's time.
        sample_rate: Of the waveform, in Hz.
        max_values: Waveform values to keep from the start.
        part: Of the file, on its clock; None for all of it.

    Raises:
        ClipError: if there is no sound, or none in the part.
        av.FFmpegError: if no packet can be decoded.
    """
    tape = _Tape(sample_rate=sample_rate, max_values=max_values, part=part)
    decoding = _Decoding(stream, packets)
    for piece in _pieces(decoding, zero_seconds=zero_seconds, sample_rate=sample_rate):
        if isinstance(piece, float):
            tape.wind(piece)
        else:
            tape.record(*piece)
        if tape.full:
            break
    if not tape.heard:
        raise ClipError("the sound has no values")
    remarks: dict[NoteKind, str] = {}
    if decoding.lost:
        remarks["damaged"] = f"{decoding.lost} of {decoding.read} packets of the sound cannot be decoded: silence there"
    if decoding.changes:
        more = f", and {len(decoding.changes) - 1} changes more" if len(decoding.changes) > 1 else ""
        remarks["sound_changes"] = decoding.changes[0] + more
    if tape.gaps:
        remarks["sound_gap"] = f"{sum(tape.gaps):.2f} s without sound are silence"
    return Sound(
        waveform=tape.waveform(),
        num_channels=decoding.most_channels,
        duration_seconds=tape.num_values / sample_rate,
        silent=tape.loudest < SILENCE,
        remarks=remarks,
    )


class _Tape:
    """The part of the clock that is wanted, filled from its start."""

    def __init__(self, *, sample_rate: int, max_values: int, part: Span | None) -> None:
        self._rate = sample_rate
        self._max_values = max_values
        self._start = round(part.start_seconds * sample_rate) if part is not None else 0
        self._end = round(part.end_seconds * sample_rate) if part is not None else None
        self._place = 0  # of the next value on the clock
        self._kept: list[NDArray[np.float32]] = []
        self._num_kept = 0
        self.heard = False
        self.loudest = 0.0
        self.gaps: list[float] = []

    @property
    def num_values(self) -> int:
        """How many values of the part have been passed."""
        return max(0, self._place - self._start)

    @property
    def full(self) -> bool:
        """Whether the end of the part is reached."""
        return self._end is not None and self._place >= self._end

    def wind(self, seconds: float) -> None:
        """Go on to a time of the clock, over silence; never back."""
        place = round(seconds * self._rate)
        if self._end is not None:
            place = min(place, self._end)
        passed = place - max(self._place, self._start)
        if place <= self._place:
            return
        if passed > 0:
            if passed > _GAP_SECONDS * self._rate:
                self.gaps.append(passed / self._rate)
            self._keep(np.zeros(min(passed, self._max_values - self._num_kept), np.float32))
        self._place = place

    def record(self, channels: NDArray[np.float32], names: tuple[str, ...]) -> None:
        """Take the next values, `(channels, N)`.

        Raises:
            ClipError: if one of them is no number.
        """
        end = None if self._end is None else max(0, self._end - self._place)
        wanted = channels[:, max(0, self._start - self._place) : end]
        self._place += channels.shape[1] if end is None else min(channels.shape[1], end)
        if not wanted.size:
            return
        if not np.isfinite(wanted).all():
            raise ClipError("the sound holds values that are no numbers")
        self.heard = True
        self.loudest = max(self.loudest, float(np.abs(wanted).max()))
        if self._num_kept < self._max_values:
            self._keep(downmix(wanted[:, : self._max_values - self._num_kept], names))

    def _keep(self, values: NDArray[np.float32]) -> None:
        if len(values):
            self._kept.append(values)
            self._num_kept += len(values)

    def waveform(self) -> NDArray[np.float32]:
        """Return the kept values `(N,)`."""
        return np.concatenate(self._kept) if self._kept else np.empty(0, np.float32)


class _Decoding:
    """Frames of sound, one after the other, over packets that cannot be decoded."""

    def __init__(self, stream: AudioStream, packets: Iterable[Any]) -> None:
        self._stream = stream
        self._packets = packets
        self.read = self.lost = 0
        self.just_lost = False
        """Whether packets were lost right before the frame that comes next."""
        self.changes: list[str] = []
        """How rate or channels change."""
        self.most_channels = 0

    def frames(self) -> Iterator[Any]:
        """Decode; raises what FFmpeg said of the first damage if there is no frame at all."""
        context = self._stream.codec_context
        context.flush_buffers()
        damage: av.FFmpegError | None = None
        heard = False
        for packet in chain(self._packets, [None]):  # None: what the decoder still holds back
            self.read += packet is not None
            try:
                frames = context.decode(packet)
            except av.FFmpegError as exc:
                damage = damage or exc
                self.lost += 1
                self.just_lost = True
                continue
            for frame in frames:
                heard = True
                self.most_channels = max(self.most_channels, frame.layout.nb_channels)
                yield frame
                self.just_lost = False
        if damage is not None and not heard:
            raise damage


_Piece = tuple[NDArray[np.float32], tuple[str, ...]]
"""Values `(channels, N)` and the names of the channels."""


def _pieces(decoding: _Decoding, *, zero_seconds: float, sample_rate: int) -> Iterator[_Piece | float]:
    """Yield pieces of sound, and the time on the clock where the next one lies if not behind the one before it."""
    resampler: Any = None
    kind: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    began = passed = 0.0  # of the run: its start on the clock, and how much of it there was
    for frame in decoding.frames():
        start = began + passed if frame.pts is None else frame.time - zero_seconds
        late = start - began - passed
        following = (frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate)
        is_gap = (_LOST_SECONDS if decoding.just_lost else _GAP_SECONDS) < late < _LONGEST_GAP_SECONDS
        if resampler is None or following != kind or is_gap:
            if resampler is not None:
                yield from _drained(resampler, names)
                if following[1:] != kind[1:]:
                    decoding.changes.append(
                        f"{kind[2]} channels at {kind[3]} Hz become {following[2]} at {following[3]} Hz"
                    )
            kind = following
            names = tuple(channel.name for channel in frame.layout.channels)
            # Packed, as PyAV 18.1 reads a ninth plane of eight where every channel has its own.
            resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=sample_rate, frame_size=sample_rate)
            if is_gap or not (began or passed):
                yield start
                began, passed = start, 0.0
        elif late < -_GAP_SECONDS:  # times run back, as where recordings were joined: the sound goes on
            began, passed = start, 0.0
        passed += frame.samples / frame.sample_rate
        yield from ((_channels(part), names) for part in resampler.resample(frame))
    if resampler is not None:
        yield from _drained(resampler, names)


def _drained(resampler: Any, names: tuple[str, ...]) -> Iterator[_Piece]:
    yield from ((_channels(part), names) for part in resampler.resample(None))


def _channels(frame: Any) -> NDArray[np.float32]:
    """Return a packed frame's values `(channels, N)`."""
    packed: NDArray[np.float32] = np.asarray(frame.to_ndarray(), dtype=np.float32)
    return packed.reshape(-1, frame.layout.nb_channels).T
