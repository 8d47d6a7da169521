"""Clips by PyAV: the decoder of all kinds of files, and the second one where Decord refuses, crashes or hangs.

Shape letters: T frames, H height, W width, N waveform values.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from preprocess.clips.clip import Picture, Sound, Timeline
from preprocess.clips.pyav_picture import PictureTrack
from preprocess.clips.pyav_sound import read_mono
from preprocess.datasets.annotations import Span
from preprocess.errors import ClipError
from shards.schema import NoteKind
from shards.spec import VideoSpec

__all__ = ["PyavClip", "best_stream", "probe_seconds"]

_HELD_BYTES = 128_000_000
"""Of a file whose packets are kept in memory between one use and the next; those of a larger one are read again."""


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
        self._breaks_off = False

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()

    def timeline(self) -> Timeline:
        """Return when the frames appear, as far as the file says; raises `ClipError` if there are none."""
        with self._opened() as container:
            return self._picture_track(container).timeline()

    def read_picture(self, spec: VideoSpec, *, part: Span | None) -> Picture:
        """Decode the frames that `choose_frames` chooses, turned as the file says.

        Args:
            spec: How many frames, of what size.
            part: Of the file; None for all of it.

        Raises:
            ClipError: if the file cannot be opened, or no frame can be decoded.
        """
        with self._opened() as container:
            picture = self._picture_track(container).read(spec, part=part)
        remarks = {**picture.remarks, **_other_streams(container, "video", shown=_video_stream(container))}
        if self._breaks_off:
            remarks.setdefault("damaged", "the file breaks off")
        return Picture(
            frames=picture.frames,
            num_frames=picture.num_frames,
            clip_frames=picture.clip_frames,
            duration_seconds=picture.duration_seconds,
            variable_frame_rate=picture.variable_frame_rate,
            remarks=remarks,
        )

    def read_sound(self, *, sample_rate: int, max_values: int, part: Span | None) -> Sound:
        """Decode the sound to mono, never holding more of it than is kept.

        It lies on the file's clock: where it begins later than the picture, or has a gap, there is silence.

        Args:
            sample_rate: Of the waveform, in Hz.
            max_values: Waveform values to keep from the start.
            part: Of the file; None for all of it.

        Raises:
            ClipError: if the clip has no sound or it cannot be decoded.
        """
        with self._opened() as container:
            stream = _audio_stream(container)
            sound = read_mono(
                stream,
                self._packets(stream),
                zero_seconds=_zero_seconds(container),
                sample_rate=sample_rate,
                max_values=max_values,
                part=part,
            )
        remarks = {**sound.remarks, **_other_streams(container, "audio", shown=stream)}
        return Sound(
            waveform=sound.waveform,
            num_channels=sound.num_channels,
            duration_seconds=sound.duration_seconds,
            silent=sound.silent,
            remarks=remarks,
        )

    @contextmanager
    def _opened(self) -> Iterator[InputContainer]:
        """Open the file; what FFmpeg says on the way becomes a `ClipError`, in the same words in every folder."""
        if self._container is None:
            self._container = _open(self._path)
        if self._container.format.name in _LISTS:
            raise ClipError("cannot be opened: the file is a list of other files")
        try:
            yield self._container
        except av.FFmpegError as exc:
            raise ClipError(f"cannot be decoded: {exc.strerror}") from exc

    def _picture_track(self, container: InputContainer) -> PictureTrack:
        stream = _video_stream(container)
        stream.codec_context.thread_count = 1
        return PictureTrack(
            stream,
            lambda: self._packets(stream),
            zero_seconds=_zero_seconds(container),
            has_own_times=container.format.name.startswith(_FORMATS_WITH_TIMES),
        )

    def _packets(self, stream: VideoStream | AudioStream) -> Iterable[Any]:
        """Return the packets of a stream in the order of the file: the picture and the sound, still encoded.

        Damage of the file itself ends them.
        """
        if self._path.stat().st_size > _HELD_BYTES:
            return self._read_packets(stream.index)
        if self._held is None:
            assert self._container is not None
            self._held = {}
            streams = [best_stream(self._container, "video"), best_stream(self._container, "audio")]
            try:
                for packet in self._container.demux([stream for stream in streams if stream is not None]):
                    if packet.size:
                        self._held.setdefault(packet.stream.index, []).append(packet)
            except av.FFmpegError:
                self._breaks_off = True
        return self._held.get(stream.index, [])

    def _read_packets(self, index: int) -> Iterator[Any]:
        with _open(self._path) as container:
            try:
                yield from (packet for packet in container.demux(container.streams[index]) if packet.size)
            except av.FFmpegError:
                self._breaks_off = True


_LISTS = ("concat", "dash", "hls", "imf")
"""FFmpeg's names of formats that are lists of other files."""
_FORMATS_WITH_TIMES = ("mov,", "matroska,")
"""Those that say of each frame when it is shown; others leave it to be guessed from the order, or now and then do."""


def _open(path: Path) -> InputContainer:
    try:
        # Absolute: FFmpeg takes the `ep01-12` of a relative `ep01-12:30.mp4` for a protocol.
        return av.open(str(path.absolute()), metadata_errors="ignore")  # titles and the like, which nobody asks for
    except av.FFmpegError as exc:
        what = "the file is cut short, damaged, or no video" if isinstance(exc, av.InvalidDataError) else exc.strerror
        raise ClipError(f"cannot be opened: {what}") from exc


def best_stream(container: InputContainer, kind: Literal["video", "audio"]) -> Any:
    """Return the stream that players show: the default one, never a cover picture; None without any."""
    best = container.streams.best(kind, related=best_stream(container, "video") if kind == "audio" else None)
    if kind == "audio" or best is None or not best.disposition & Disposition.attached_pic:
        return best
    return next(
        (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic), None
    )


def _video_stream(container: InputContainer) -> VideoStream:
    stream: VideoStream | None = best_stream(container, "video")
    if stream is None:
        raise ClipError("there is no video stream" if not container.streams.video else "there is only a cover picture")
    if stream.codec_context is None:  # then FFmpeg has no decoder for it
        raise ClipError("cannot be decoded: the picture is of an unknown kind")
    return stream


def _audio_stream(container: InputContainer) -> AudioStream:
    stream: AudioStream | None = best_stream(container, "audio")
    if stream is None:
        if container.streams.audio:
            raise ClipError("cannot be decoded: the sound is of an unknown kind")
        raise ClipError("there is no audio stream")
    if stream.codec_context is None:
        raise ClipError("cannot be decoded: the sound is of an unknown kind")
    return stream


def _zero_seconds(container: InputContainer) -> float:
    """Return when the first of picture and sound begins, which is 0 on the clock of every player."""
    return (container.start_time or 0) / av.time_base


def _other_streams(container: InputContainer, kind: Literal["video", "audio"], *, shown: Any) -> dict[NoteKind, str]:
    """Say which of several streams was taken; covers do not count."""
    streams = container.streams.video if kind == "video" else container.streams.audio
    all_of_them = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if len(all_of_them) < 2:
        return {}
    place = all_of_them.index(shown) + 1
    language = shown.metadata.get("language", "und")
    of_language = "" if language == "und" else f", {language}"
    default = ", marked as default" if shown.disposition & Disposition.default else ""
    what = "pictures" if kind == "video" else "sounds"
    return {"other_streams": f"number {place} of {len(all_of_them)} {what} was taken{of_language}{default}"}
