"""Every clip opened by PyAV, in processes that may die of it: what is in a file, against what its header promises.

Shape letters: N waveform values.
"""

from collections.abc import Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from preprocess.clips.clip import SILENCE
from preprocess.clips.process_pool import (
    Death,
    Workers,
    clip_timeout,
    in_order,
    keep_quiet,
    outcome_of,
    worker_context,
)
from preprocess.clips.pyav_clip import best_stream

__all__ = ["OpenedClip", "open_clip", "open_clips"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedClip:
    """What opening a clip gave."""

    promised_frames: int = 0
    """Frames by the header; 0 where it does not say."""
    num_frames: int = 0
    """Encoded frames that are really in the file."""
    picture_trouble: str = ""
    """Why the first picture, or one near the end, cannot be decoded; empty for a clip without trouble."""
    sound_trouble: str = ""
    silent: bool = False
    """Whether the whole sound is below -100 dB of full scale."""
    clipped_share: float = 0.0
    """Share of the waveform's values near or beyond full scale, 0 to 1."""
    death: str = ""
    """How the process that opened it ended; empty for one that came back."""


def open_clips(
    root: Path, num_bytes: Mapping[str, int], *, num_workers: int, timeout_seconds: float
) -> Generator[OpenedClip]:
    """Open clip after clip, each result in its place, on `num_workers` processes.

    Args:
        root: The data set's folder.
        num_bytes: Sizes of the clips, by their paths relative to it.
        num_workers: Processes.
        timeout_seconds: Time after which a clip's process is killed, plus 10 per megabyte.

    Raises:
        Exception: whatever a worker raised that is not about its clip: a bug, with its traceback.
    """
    context = worker_context(preload=["av", "preprocess.doctor.open_clips"])
    workers = Workers(num_workers, initializer=keep_quiet, context=context)

    def start(clip: tuple[str, int]) -> tuple[Future[OpenedClip], float]:
        path, size = clip
        seconds = clip_timeout(timeout_seconds, num_bytes=size)
        return workers.schedule(open_clip, args=(root / path,), kwargs={}, timeout=seconds), seconds

    try:
        for future, seconds in in_order(num_bytes.items(), start, num_workers=num_workers):
            outcome = outcome_of(future, timeout_seconds=seconds)
            yield OpenedClip(death=outcome.reason) if isinstance(outcome, Death) else outcome
    finally:
        workers.stop()


def open_clip(path: Path) -> OpenedClip:
    """Read every packet of a clip, decode all of its sound, its first picture and those that end it."""
    try:
        with av.open(str(path.absolute())) as container:
            promised, num_frames, picture_trouble = _look(container)
            silent, clipped_share, sound_trouble = _listen(container)
    except av.FFmpegError as exc:
        return OpenedClip(picture_trouble=f"cannot be opened: {exc.strerror}")
    return OpenedClip(
        promised_frames=promised,
        num_frames=num_frames,
        picture_trouble=picture_trouble,
        sound_trouble=sound_trouble,
        silent=silent,
        clipped_share=clipped_share,
    )


_LIMIT = 0.95
"""AAC does not keep a flat top flat: values cut off at 1 come back a little below and above."""


def _look(container: Any) -> tuple[int, int, str]:
    """Return the frames promised, those there, and what is wrong with the first picture or the last ones."""
    stream = best_stream(container, "video")
    if stream is None or stream.codec_context is None:
        return 0, 0, ""
    stream.codec_context.thread_count = 1
    try:
        packets = [packet for packet in container.demux(stream) if packet.size]
    except av.FFmpegError as exc:
        return stream.frames, 0, f"cannot be read: {exc.strerror}"
    trouble = ""
    if packets:
        last_key = max((number for number, packet in enumerate(packets) if packet.is_keyframe), default=0)
        trouble = _decode(stream, packets[:1], "the first picture") if last_key else ""
        trouble = trouble or _decode(stream, packets[last_key:], "a picture near the end")
    return stream.frames, len(packets), trouble


def _decode(stream: Any, packets: list[Any], what: str) -> str:
    """Decode packets that begin at a key frame, the needed ones only; return what went wrong."""
    context = stream.codec_context
    context.flush_buffers()
    shown = damaged = 0
    try:
        for number, packet in enumerate([*packets, None]):  # None: what the decoder still holds back
            needed = packet is None or number in (0, len(packets) - 1) or context.name != "h264"
            context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in context.decode(packet):
                shown += 1
                damaged += frame.is_corrupt
    except av.FFmpegError as exc:
        return f"{what} cannot be decoded: {exc.strerror}"
    if not shown:
        return f"{what} cannot be decoded: the decoder gives none"
    return f"{what} is damaged" if damaged else ""


def _listen(container: Any) -> tuple[bool, float, str]:
    """Return whether the sound is silent, the share of it at the limit, and what is wrong with it."""
    stream = best_stream(container, "audio")
    if stream is None:
        return False, 0.0, ""
    loudest, num_values, num_clipped, trouble = 0.0, 0, 0, ""
    try:
        container.seek(0)
        kind: tuple[Any, ...] = ()
        for frame in container.decode(stream):
            if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                resampler = av.AudioResampler(format="flt")  # packed: of eight planes PyAV reads a ninth
            for part in resampler.resample(frame):
                packed = np.abs(np.asarray(part.to_ndarray(), dtype=np.float32))
                values = packed.reshape(-1, part.layout.nb_channels).T  # (channels, N)
                if not np.isfinite(values).all():
                    return False, 0.0, "the sound holds values that are no numbers"
                loudest = max(loudest, float(values.max(initial=0.0)))
                num_clipped += int((values >= _LIMIT).any(axis=0).sum())
                num_values += values.shape[1]
    except av.FFmpegError as exc:
        trouble = f"the sound cannot be decoded after {num_values} values: {exc.strerror}"
    if not num_values:
        return False, 0.0, trouble or "the sound has no values"
    return loudest < SILENCE, num_clipped / num_values, trouble
