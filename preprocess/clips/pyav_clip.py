"""Clips by PyAV: the second decoder, tried where Decord refuses, crashes or hangs, or is known to be wrong.

It decodes only what the chosen frames need: those that no other frame refers to are skipped. Also used for what
Decord does not say of a clip.

Shape letters: T frames, H height, W width, N waveform values.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from preprocess.clips.clip import SILENCE, Picture, Sound, Timeline, choose_frames, cut_timeline, downmix, make_picture
from preprocess.clips.mp4_header import probe_mp4
from preprocess.datasets.annotations import Span
from preprocess.errors import ClipError
from shards.spec import VideoSpec

__all__ = ["Glance", "PyavClip", "glance", "probe_seconds"]

_HELD_BYTES = 128_000_000
"""Of a file whose packets are kept in memory between one use and the next; those of a larger one are read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What must be known of a clip before Decord is let at it; of one that cannot be opened, nothing."""

    hides_frames: bool = False
    """Whether an edit list hides frames that the file holds, as in a cut made without encoding again. Decord counts
    such frames as part of the clip, and hands over wrong or repeated ones without a word; players and PyAV leave them
    out."""
    is_list: bool = False
    """Whether it holds no picture but the names of files that do: Decord follows them, out of the data set."""
    sound_seconds: float = 0.0
    """By the file's header; 0 without sound."""


def glance(path: Path) -> Glance:
    """Look at a clip without decoding anything: at its boxes, and where they are not plain, by FFmpeg."""
    try:
        header = probe_mp4(path)
        if header.picture is not None and not (header.picture.num_hidden or header.missing_bytes or header.fragmented):
            return Glance(sound_seconds=header.sound.duration_seconds if header.sound is not None else 0.0)
    except ClipError:
        pass  # no mp4, or a damaged one: FFmpeg may still make something of it
    clip = PyavClip(path)
    try:
        return clip.glance()
    except ClipError:
        return Glance()
    finally:
        clip.close()


def probe_seconds(path: Path) -> float:
    """Return how long the picture of a clip lasts, without decoding a frame.

    Raises:
        ClipError: if the clip cannot be opened or has no frame.
    """
    clip = PyavClip(path)
    try:
        return clip.timeline().duration_seconds
    finally:
        clip.close()


class PyavClip:
    """A file, opened once for all that is wanted of it; what one method returns does not depend on the others."""

    def __init__(self, path: Path) -> None:
        """Remember the path; the first method that is called opens it."""
        self._path = path
        self._container: InputContainer | None = None
        self._held: dict[int, list[Any]] | None = None
        self._damage: av.FFmpegError | None = None

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()

    def glance(self) -> Glance:
        """Look at hidden frames and the length of the sound; raises `ClipError` if there is no picture."""
        with self._opened(lists=True) as container:
            if container.format.name in _LISTS:
                return Glance(is_list=True)
            sound = container.streams.audio[0] if container.streams.audio else None
            return Glance(
                hides_frames=any(packet.is_discard for packet in self._packets(_video_stream(container))),
                sound_seconds=float((sound.duration or 0) * (sound.time_base or 0)) if sound is not None else 0.0,
            )

    def timeline(self) -> Timeline:
        """Return when the frames appear; raises `ClipError` if there are none."""
        with self._opened() as container:
            return self._timeline(_video_stream(container))[0]

    def read_picture(self, spec: VideoSpec, *, part: Span | None) -> Picture:
        """Decode the frames that `choose_frames` chooses.

        Args:
            spec: How many frames, of what size.
            part: Of the file; None for all of it.

        Raises:
            ClipError: if the file cannot be opened, or one of the chosen frames not decoded.
        """
        with self._opened() as container:
            stream = _video_stream(container)
            stream.codec_context.thread_count = 1
            whole, shown = self._timeline(stream)
            timeline, first = cut_timeline(whole, part)
            stamps = shown[first + choose_frames(timeline, num_frames=spec.num_frames, sampling=spec.sampling)]
            wanted = set(stamps.tolist())
            frames = _frames(stream, self._packets(stream), wanted, height=spec.height, width=spec.width)
            missing = wanted - set(frames)
            if missing:
                seconds = float((min(missing) - shown[0]) * (stream.time_base or 1))
                raise ClipError(f"cannot be decoded: the frame at {seconds:.2f} s is damaged")
        return make_picture([frames[stamp] for stamp in stamps.tolist()], timeline, sampling=spec.sampling)

    def read_sound(self, *, sample_rate: int, max_values: int, part: Span | None) -> Sound:
        """Decode the sound to mono, never holding more of it than is kept.

        Args:
            sample_rate: Of the waveform, in Hz.
            max_values: Waveform values to keep from the start.
            part: Of the file; None for all of it.

        Raises:
            ClipError: if the clip has no sound or it cannot be decoded.
        """
        kept: list[NDArray[np.float32]] = []
        num_values = num_channels = 0
        loudest = 0.0
        skipped, end = 0, None
        if part is not None:
            skipped, end = (round(seconds * sample_rate) for seconds in (part.start_seconds, part.end_seconds))
        place = 0  # of the next value in the file
        with self._opened() as container:
            if not container.streams.audio:
                raise ClipError("there is no audio stream")
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # then FFmpeg has no decoder for it
                raise ClipError("cannot be decoded: the sound is of an unknown kind")
            for frame in _resampled(stream, self._packets(stream), sample_rate=sample_rate):
                decoded = np.asarray(frame.to_ndarray(), dtype=np.float32)  # (channels, N)
                channels = decoded[:, max(0, skipped - place) : None if end is None else max(0, end - place)]
                place += decoded.shape[1]
                if not np.isfinite(channels).all():
                    raise ClipError("the sound holds values that are no numbers")
                num_channels = len(channels)
                if num_values < max_values:
                    kept.append(downmix(channels[:, : max_values - num_values]))
                num_values += channels.shape[1]
                loudest = max(loudest, float(np.abs(channels).max(initial=0.0)))
                if end is not None and place >= end:
                    break
        if not num_values:
            raise ClipError("the sound has no values")
        return Sound(
            waveform=np.concatenate(kept),
            num_channels=num_channels,
            duration_seconds=num_values / sample_rate,
            silent=loudest < SILENCE,
        )

    @contextmanager
    def _opened(self, *, lists: bool = False) -> Iterator[InputContainer]:
        """Open the file, or a list of other files if `lists`; what FFmpeg says on the way becomes a `ClipError`.

        The words are the same in every folder.
        """
        if self._container is None:
            self._container = _open(self._path)
        if self._container.format.name in _LISTS and not lists:
            raise ClipError("cannot be opened: the file is a list of other files")
        try:
            yield self._container
        except av.FFmpegError as exc:
            raise ClipError(f"cannot be decoded: {exc.strerror}") from exc

    def _packets(self, stream: VideoStream | AudioStream) -> Iterable[Any]:
        """Return the packets of a stream in the order of the file: the picture and the sound, still encoded.

        Damage of the file ends them, and is raised where the picture is read: of a sound its start is worth having.
        """
        if self._path.stat().st_size > _HELD_BYTES:
            return self._read_packets(stream.index)
        if self._held is None:
            assert self._container is not None
            self._held = {}
            streams = [*self._container.streams.video[:1], *self._container.streams.audio[:1]]
            try:
                for packet in self._container.demux(*streams):
                    if packet.size:
                        self._held.setdefault(packet.stream.index, []).append(packet)
            except av.FFmpegError as exc:
                self._damage = exc
        if self._damage is not None and isinstance(stream, VideoStream):
            raise self._damage
        return self._held.get(stream.index, [])

    def _read_packets(self, index: int) -> Iterator[Any]:
        with _open(self._path) as container:
            yield from (packet for packet in container.demux(container.streams[index]) if packet.size)

    def _timeline(self, stream: VideoStream) -> tuple[Timeline, NDArray[np.int64]]:
        """Return when the frames appear, in seconds and in the stream's own units `(F,)`."""
        shown = sorted(
            (_stamp(packet), packet.duration or 0) for packet in self._packets(stream) if not packet.is_discard
        )
        if not shown or stream.time_base is None:
            raise ClipError("no frame can be decoded")
        seconds = float(stream.time_base)
        stamps = np.array([stamp for stamp, _ in shown])
        starts = stamps.astype(np.float64) * seconds
        duration_seconds = round(sum(shown[-1]) * seconds - float(starts[0]), 6)
        return Timeline(starts=starts, duration_seconds=duration_seconds), stamps


_LISTS = ("concat", "dash", "hls", "imf")
"""FFmpeg's names of formats that are lists of other files."""


def _open(path: Path) -> InputContainer:
    try:
        return av.open(str(path), metadata_errors="ignore")  # titles and the like, which nobody asks for
    except av.FFmpegError as exc:
        what = "the file is cut short, damaged, or no video" if isinstance(exc, av.InvalidDataError) else exc.strerror
        raise ClipError(f"cannot be opened: {what}") from exc


def _video_stream(container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise ClipError("there is no video stream")
    stream: VideoStream = container.streams.video[0]
    if stream.codec_context is None:  # then FFmpeg has no decoder for it
        raise ClipError("cannot be decoded: the picture is of an unknown kind")
    return stream


def _stamp(packet: Any) -> int:
    stamp: int | None = packet.dts if packet.pts is None else packet.pts
    if stamp is None:
        raise ClipError("cannot be decoded: the frames have no times")
    return stamp


def _frames(
    stream: VideoStream, packets: Iterable[Any], wanted: set[int], *, height: int, width: int
) -> dict[int, NDArray[np.uint8]]:
    """Decode the wanted frames and those they need; `(H, W, 3)` RGB by time stamp."""
    context = stream.codec_context
    scaler = VideoReformatter()  # one for all frames: setting up a scaler takes as long as scaling
    found: dict[int, NDArray[np.uint8]] = {}
    for packet in (*_from_last_key(packets, min(wanted)), None):  # None: what the decoder still holds back
        context.skip_frame = "DEFAULT" if packet is None or _stamp(packet) in wanted else "NONREF"
        for frame in context.decode(packet):
            if frame.pts in wanted and frame.pts not in found:
                scaled = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation="BICUBIC")
                found[frame.pts] = np.asarray(scaled.to_ndarray(), dtype=np.uint8)
        if len(found) == len(wanted):
            break
    return found


def _from_last_key(packets: Iterable[Any], first: int) -> list[Any]:
    """Return the packets from the last key frame on that is not after the first wanted frame."""
    kept: list[Any] = []
    for packet in packets:
        if packet.is_keyframe and _stamp(packet) <= first:
            kept.clear()
        kept.append(packet)
    return kept


def _resampled(stream: AudioStream, packets: Iterable[Any], *, sample_rate: int) -> Iterator[av.AudioFrame]:
    """Decode the sound up to its end or its first damage, before which there must be some; in frames of a second."""
    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=sample_rate, frame_size=sample_rate)
    heard = False
    try:
        for packet in (*packets, None):
            for frame in stream.codec_context.decode(packet):
                heard = True
                yield from resampler.resample(frame)
    except av.InvalidDataError:
        if not heard:
            raise
    except ValueError:  # PyAV: a frame is of another rate or layout than those before it, which are kept
        pass
    if heard:
        yield from resampler.resample(None)
