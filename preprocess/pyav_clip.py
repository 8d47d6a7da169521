"""Clips by PyAV: the second decoder, tried where Decord refuses, crashes or hangs, or is known to be wrong.

It decodes only what the chosen frames need: those that no other frame refers to are skipped. Also used for what
Decord does not say of a clip.

Shape letters: T frames, H height, W width, N waveform values.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from preprocess.annotations import Span
from preprocess.clip import SILENCE, Picture, Sound, Timeline, choose_frames, cut_timeline, downmix, make_picture
from preprocess.errors import ClipError
from shards.schema import VideoSpec

__all__ = ["Glance", "glance", "probe_seconds", "read_picture", "read_sound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What must be known of a clip before Decord is let at it; of one that cannot be opened, nothing."""

    hides_start: bool = False
    """Whether an edit list hides frames that the file holds, as in a cut made without encoding again. Decord counts
    such frames as part of the clip, and hands over wrong or repeated ones without a word; players and PyAV leave them
    out."""
    sound_seconds: float = 0.0
    """By the file's header; 0 without sound."""


def glance(path: Path) -> Glance:
    """Look at a clip without decoding anything."""
    try:
        with _opened(path) as container:
            sound = container.streams.audio[0] if container.streams.audio else None
            return Glance(
                hides_start=any(packet.is_discard for packet in _packets(container, _video_stream(container))),
                sound_seconds=float((sound.duration or 0) * (sound.time_base or 0)) if sound is not None else 0.0,
            )
    except ClipError:
        return Glance()


def probe_seconds(path: Path) -> float:
    """Return how long the picture of a clip lasts, without decoding a frame.

    Raises:
        ClipError: if the clip cannot be opened or has no frame.
    """
    with _opened(path) as container:
        stream = _video_stream(container)
        return _timeline(stream, _packets(container, stream)).duration_seconds


def read_picture(path: Path, spec: VideoSpec, *, part: Span | None) -> Picture:
    """Decode the frames that `choose_frames` chooses.

    Args:
        path: The file.
        spec: How many frames, of what size.
        part: Of the file; None for all of it.

    Raises:
        ClipError: if the file cannot be opened, or one of the chosen frames not decoded.
    """
    with _opened(path) as container:
        stream = _video_stream(container)
        stream.codec_context.thread_count = 1
        packets = _packets(container, stream)
        timeline, first = cut_timeline(_timeline(stream, packets), part)
        indices = choose_frames(timeline, num_frames=spec.num_frames, sampling=spec.sampling)
        shown = np.sort(np.array([_stamp(packet) for packet in packets if not packet.is_discard]))
        stamps = shown[first + indices]
        frames = _frames(stream, packets, set(stamps.tolist()), height=spec.height, width=spec.width)
        missing = set(stamps.tolist()) - set(frames)
        if missing:
            seconds = float((min(missing) - shown[0]) * (stream.time_base or 1))
            raise ClipError(f"cannot be decoded: the frame at {seconds:.2f} s is damaged")
    return make_picture([frames[stamp] for stamp in stamps.tolist()], timeline, sampling=spec.sampling)


def read_sound(path: Path, *, sample_rate: int, max_values: int, part: Span | None) -> Sound:
    """Decode the sound of a clip to mono, never holding more of it than is kept.

    Args:
        path: The file.
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
    with _opened(path) as container:
        if not container.streams.audio:
            raise ClipError("there is no audio stream")
        stream = container.streams.audio[0]
        for frame in _resampled(container, stream, sample_rate=sample_rate):
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
def _opened(path: Path) -> Iterator[InputContainer]:
    """Open a clip; what FFmpeg says of it on the way becomes a `ClipError`, the same in every folder."""
    try:
        container = av.open(str(path))
    except av.FFmpegError as exc:
        what = "the file is cut short, damaged, or no video" if isinstance(exc, av.InvalidDataError) else exc.strerror
        raise ClipError(f"cannot be opened: {what}") from exc
    with container:
        try:
            yield container
        except av.FFmpegError as exc:
            raise ClipError(f"cannot be decoded: {exc.strerror}") from exc


def _video_stream(container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise ClipError("there is no video stream")
    return container.streams.video[0]


def _packets(container: InputContainer, stream: VideoStream) -> list[Any]:
    """Return the packets of the picture in the order of the file. They are small: the picture is still encoded."""
    return [packet for packet in container.demux(stream) if packet.size]


def _stamp(packet: Any) -> int:
    stamp: int | None = packet.dts if packet.pts is None else packet.pts
    if stamp is None:
        raise ClipError("cannot be decoded: the frames have no times")
    return stamp


def _timeline(stream: VideoStream, packets: list[Any]) -> Timeline:
    shown = sorted((_stamp(packet), packet.duration or 0) for packet in packets if not packet.is_discard)
    if not shown or stream.time_base is None:
        raise ClipError("no frame can be decoded")
    seconds = float(stream.time_base)
    starts = np.array([stamp for stamp, _ in shown], dtype=np.float64) * seconds
    return Timeline(starts=starts, duration_seconds=round(sum(shown[-1]) * seconds - float(starts[0]), 6))


def _frames(
    stream: VideoStream, packets: list[Any], wanted: set[int], *, height: int, width: int
) -> dict[int, NDArray[np.uint8]]:
    """Decode the wanted frames and those they need; `(H, W, 3)` RGB by time stamp."""
    context = stream.codec_context
    found: dict[int, NDArray[np.uint8]] = {}
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe and _stamp(packet) <= min(wanted)]
    for packet in [*packets[max(keys, default=0) :], None]:  # None: what the decoder still holds back
        context.skip_frame = "DEFAULT" if packet is None or _stamp(packet) in wanted else "NONREF"
        for frame in context.decode(packet):
            if frame.pts in wanted and frame.pts not in found:
                scaled = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC")
                found[frame.pts] = np.asarray(scaled.to_ndarray(), dtype=np.uint8)
        if len(found) == len(wanted):
            break
    return found


def _resampled(container: InputContainer, stream: AudioStream, *, sample_rate: int) -> Iterator[av.AudioFrame]:
    """Decode the sound up to its end or its first damage, before which there must be some."""
    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=sample_rate)
    heard = False
    try:
        for frame in container.decode(stream):
            heard = True
            yield from resampler.resample(frame)
    except av.InvalidDataError:
        if not heard:
            raise
    if heard:
        yield from resampler.resample(None)
