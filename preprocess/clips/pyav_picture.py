"""The picture of a clip by PyAV: only the chosen frames, and only what they need, where the file can be trusted.

Packets say when their frames are shown, and mostly that is so. Frames are chosen by it and decoded in order, and if
what comes out is anything else (no times, frames that are dropped, two in a packet, damage), the whole picture is
decoded once to learn what there is, and then again for the frames that are chosen from that. Nothing is sought:
decoding begins at the last key frame before the first chosen frame, and only if that one proves to be a picture of
its own.

Shape letters: T frames, F frames of the whole clip, H height, W width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from preprocess.clips.clip import Picture, Timeline, choose_frames, cut_timeline, make_picture
from preprocess.clips.h264_header import parse_avcc
from preprocess.clips.orientation import UPRIGHT, Orientation
from preprocess.clips.tone_map import Curve, tone_map
from preprocess.datasets.annotations import Span
from preprocess.errors import ClipError
from shards.schema import NoteKind
from shards.spec import VideoSpec

__all__ = ["PictureTrack"]


class PictureTrack:
    """The stream of a picture, and what its packets say."""

    def __init__(
        self,
        stream: VideoStream,
        packets: Callable[[], Iterable[Any]],
        *,
        zero_seconds: float,
        has_own_times: bool,
    ) -> None:
        """Take the stream.

        Args:
            stream: Of the picture.
            packets: Reads its packets from the start of the file, each time it is called.
            zero_seconds: Where the file's clock begins, in the stream's time.
            has_own_times: Whether the file says of each frame when it is shown, so that nothing is guessed.
        """
        if stream.time_base is None:
            raise ClipError("no frame can be decoded")
        self._stream = stream
        self._packets = packets
        self._zero_seconds = zero_seconds
        self._has_own_times = has_own_times

    def timeline(self) -> Timeline:
        """Return when the frames appear by what the packets say; raises `ClipError` if they say nothing."""
        return self._promised()[0]

    def read(self, spec: VideoSpec, *, part: Span | None) -> Picture:
        """Decode the chosen frames.

        Raises:
            ClipError: if no frame can be decoded, or none is in the part.
            av.FFmpegError: if all of the picture is damaged.
        """
        found = self._as_promised(spec, part)
        return found if found is not None else self._as_found(spec, part)

    def _as_promised(self, spec: VideoSpec, part: Span | None) -> Picture | None:
        """Choose by what the packets say; None if the decoder gives anything else."""
        try:
            whole, stamps = self._promised()
            timeline, first = cut_timeline(whole, part)
        except ClipError:
            return None
        indices = first + choose_frames(timeline, num_frames=spec.num_frames, sampling=spec.sampling)
        shots = _Shots(spec)
        leap = self._may_leap() and len(set(stamps.tolist())) == len(stamps)
        try:
            good = (self._leap if leap else self._walk)(stamps, set(indices.tolist()), shots)
        except av.FFmpegError:
            return None
        if not good:
            return None
        frames = [shots.found[index] for index in indices.tolist()]
        remarks = dict(shots.remarks)
        if alike := len(timeline.starts) - len(np.unique(timeline.starts)):
            remarks["odd_times"] = f"{alike} frames have the time of the one before, and are shown for no time"
        return make_picture(frames, timeline, sampling=spec.sampling, remarks=remarks)

    def _as_found(self, spec: VideoSpec, part: Span | None) -> Picture:
        """Decode all of it to learn what there is, and again for the chosen frames."""
        survey = _Survey(self._stream, self._packets(), zero_seconds=self._zero_seconds)
        timeline, first = cut_timeline(survey.timeline, part)
        indices = first + choose_frames(timeline, num_frames=spec.num_frames, sampling=spec.sampling)
        wanted = set(indices.tolist())
        shots = _Shots(spec)
        for number, frame in enumerate(_decoded(self._stream, self._packets())):
            if number in wanted:
                shots.take(number, frame)
            if number >= max(wanted):
                break
        if missing := wanted - set(shots.found):  # the second time is as the first, as long as the file stays
            raise ClipError(f"cannot be decoded: its frame {min(missing)} comes once and never again")
        frames = [shots.found[index] for index in indices.tolist()]
        remarks = {**shots.remarks, **survey.remarks}
        return make_picture(frames, timeline, sampling=spec.sampling, remarks=remarks)

    def _promised(self) -> tuple[Timeline, NDArray[np.int64]]:
        """Return when the frames appear, in seconds of the file's clock and in the stream's own units `(F,)`."""
        shown = [
            (packet.dts if packet.pts is None else packet.pts, packet.duration or 0)
            for packet in self._packets()
            if not packet.is_discard
        ]
        if not shown:
            raise ClipError("no frame can be decoded")
        if any(stamp is None for stamp, _ in shown):
            raise ClipError("cannot be decoded: the frames have no times")
        shown.sort()
        stamps = np.array([stamp for stamp, _ in shown], dtype=np.int64)
        return self._timeline(stamps, last_duration=shown[-1][1]), stamps

    def _timeline(self, stamps: NDArray[np.int64], *, last_duration: int) -> Timeline:
        seconds = float(self._stream.time_base or 1)
        starts = stamps.astype(np.float64) * seconds - self._zero_seconds
        last = last_duration or (float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0)
        return Timeline(starts=starts, duration_seconds=round(float(stamps[-1] + last - stamps[0]) * seconds, 6))

    def _may_leap(self) -> bool:
        """Say whether frames that no other refers to can be passed over: H.264 alone says which they are.

        In HEVC such a mark holds among frames of one layer only, and AV1 keeps several frames in a packet. Fields of
        interlaced pictures may be marked apart.
        """
        context = self._stream.codec_context
        if context.name != "h264" or not self._has_own_times:
            return False
        try:
            return parse_avcc(context.extradata or b"").progressive
        except ClipError:
            return False

    def _leap(self, stamps: NDArray[np.int64], wanted: set[int], shots: "_Shots") -> bool:
        """Decode the wanted frames and those they need; whether they came, in the order of their times."""
        places = {int(stamps[index]): index for index in wanted}
        context = self._stream.codec_context
        context.flush_buffers()
        last = None
        try:
            packets = _between_keys(self._packets(), *_ends(stamps, wanted))
            for packet in chain(packets, [None]):
                context.skip_frame = "DEFAULT" if packet is None or packet.pts in places else "NONREF"
                for frame in context.decode(packet):
                    if frame.pts is None or (last is None and not _stands_alone(frame)):
                        return False
                    if last is not None and frame.pts <= last:
                        return False
                    last = frame.pts
                    if frame.pts in places:
                        shots.take(places[frame.pts], frame)
                if len(shots.found) == len(wanted):
                    return True
        finally:
            context.skip_frame = "DEFAULT"
        return False

    def _walk(self, stamps: NDArray[np.int64], wanted: set[int], shots: "_Shots") -> bool:
        """Decode every frame up to the last wanted one; whether they are those that the packets promise."""
        packets = _between_keys(self._packets(), *_ends(stamps, wanted))
        context = self._stream.codec_context
        context.flush_buffers()
        key = packets[0].dts if packets[0].pts is None else packets[0].pts
        place = int(np.searchsorted(stamps, key))
        first = True
        for packet in chain(packets, [None]):
            for frame in context.decode(packet):
                if frame.pts is None:
                    return False
                if frame.pts < key:  # before the key frame, and broken without what comes before it
                    continue
                if first and frame.pts == key and not _stands_alone(frame):
                    return False
                first = False
                if place >= len(stamps) or frame.pts != stamps[place]:
                    return False
                if place in wanted:
                    shots.take(place, frame)
                place += 1
            if place > max(wanted):
                return True
        return False


class _Survey:
    """What a picture consists of when all of it is decoded."""

    def __init__(self, stream: VideoStream, packets: Iterable[Any], *, zero_seconds: float) -> None:
        counter = _Counter()
        stamps: list[int | None] = []
        last_duration = 0
        for frame in _decoded(stream, packets, counter):
            stamps.append(frame.pts)
            last_duration = frame.duration or last_duration
        if not stamps:
            raise counter.damage or ClipError("no frame can be decoded")
        self.remarks: dict[NoteKind, str] = {}
        if counter.lost:
            self.remarks["damaged"] = f"{counter.lost} of {counter.read} packets of the picture cannot be decoded"
        self.timeline = self._timeline(stream, stamps, last_duration=last_duration, zero_seconds=zero_seconds)

    def _timeline(
        self, stream: VideoStream, stamps: Sequence[int | None], *, last_duration: int, zero_seconds: float
    ) -> Timeline:
        known = np.array([stamp for stamp in stamps if stamp is not None], dtype=np.int64)
        step = float(stream.time_base or 1)
        rate = float(stream.average_rate or stream.guessed_rate or stream.base_rate or 25)
        if len(known) < len(stamps) or (len(known) > 1 and known[0] == known[-1]):
            self.remarks["odd_times"] = f"the frames have no times: taken in their order, {rate:.3g} a second"
            return Timeline(starts=np.arange(len(stamps)) / rate, duration_seconds=round(len(stamps) / rate, 6))
        if (np.diff(known) < 0).any():
            self.remarks["odd_times"] = "the times of the frames run back: taken in the order of decoding"
            known = np.sort(known)
        starts: NDArray[np.float64] = known.astype(np.float64) * step - zero_seconds
        last = last_duration * step or (float(np.median(np.diff(starts))) if len(starts) > 1 else 1 / rate)
        return Timeline(starts=starts, duration_seconds=round(float(starts[-1] + last - starts[0]), 6))


class _Shots:
    """The frames that are kept, as the sample wants them."""

    def __init__(self, spec: VideoSpec) -> None:
        self._spec = spec
        self._scaler = VideoReformatter()  # one for all frames: setting up a scaler takes as long as scaling
        self.found: dict[int, NDArray[np.uint8]] = {}
        self.remarks: dict[NoteKind, str] = {}

    def take(self, place: int, frame: Any) -> None:
        """Keep a frame, `(H, W, 3)` RGB, scaled, turned and brought to ordinary brightness."""
        height, width = self._spec.height, self._spec.width
        orientation = _orientation(frame)
        if orientation.transposed:
            height, width = width, height
        curve = _CURVES.get(frame.color_trc)
        kind = "rgb24" if curve is None else "rgb48le"
        scaled = self._scaler.reformat(frame, width=width, height=height, format=kind, interpolation="BICUBIC")
        picture = scaled.to_ndarray()
        if curve is not None:
            picture = tone_map(
                picture.astype(np.uint16, copy=False), curve=curve, wide=frame.color_primaries == _BT2020
            )
            self.remarks["hdr"] = f"{curve}, brought to the brightness of an ordinary screen"
        if frame.interlaced_frame:
            self.remarks["interlaced"] = "frames are two fields, of two moments perhaps, and stay so"
        if frame.is_corrupt:
            self.remarks["damaged"] = "chosen frames are damaged"
        self.found[place] = np.ascontiguousarray(orientation.apply(picture), dtype=np.uint8)


class _Counter:
    """What became of packets."""

    def __init__(self) -> None:
        self.read = self.lost = 0
        self.damage: av.FFmpegError | None = None


_CURVES: dict[int, Curve] = {16: "PQ", 18: "HLG"}
"""By FFmpeg's number of a transfer characteristic, which is that of ITU-T H.273."""
_BT2020 = 9
"""The number of the primaries, likewise."""


def _orientation(frame: Any) -> Orientation:
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    return UPRIGHT if matrix is None else Orientation.of_matrix(np.frombuffer(bytes(matrix), np.int32).reshape(3, 3))


def _stands_alone(frame: Any) -> bool:
    """Whether a frame needs no other: one that only says so is rebuilt over the next ones."""
    return frame.pict_type in (PictureType.I, PictureType.NONE)


def _decoded(stream: VideoStream, packets: Iterable[Any], counter: _Counter | None = None) -> Iterator[Any]:
    """Yield all frames that can be decoded, in the order in which they are shown."""
    counter = counter or _Counter()
    context = stream.codec_context
    context.flush_buffers()
    for packet in chain(packets, [None]):  # None: what the decoder still holds back
        counter.read += packet is not None
        try:
            frames = context.decode(packet)
        except av.FFmpegError as exc:
            counter.damage = counter.damage or exc
            counter.lost += 1
            continue
        yield from frames


def _ends(stamps: NDArray[np.int64], wanted: set[int]) -> tuple[int, int]:
    """Return the times of the first and of the last wanted frame."""
    return int(stamps[min(wanted)]), int(stamps[max(wanted)])


def _between_keys(packets: Iterable[Any], first: int, last: int) -> list[Any]:
    """Return the packets that frames of two times and those between need: from the last key frame before them on.

    They end at the second key frame behind: what follows the first in the file may be shown before it.
    """
    kept: list[Any] = []
    behind = 0
    for packet in packets:
        stamp = packet.dts if packet.pts is None else packet.pts
        if packet.is_keyframe and stamp is not None:
            if stamp <= first:
                kept.clear()
            behind += stamp > last
            if behind == 2:
                break
        kept.append(packet)
    return kept
