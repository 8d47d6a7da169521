"""Clips by Decord: the one door to it.

Decord is imported on use, because the process that plans and writes shards needs neither it nor torch.

Shape letters: T frames, H height, W width, N waveform values.
"""

import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.clips.clip import SILENCE, Picture, Sound, Timeline, choose_frames, cut_timeline, downmix, make_picture
from preprocess.clips.mp4_header import probe_mp4
from preprocess.datasets.annotations import Span
from preprocess.errors import ClipError
from shards.spec import VideoSpec

__all__ = ["DecordClip"]


class DecordClip:
    """A file; Decord opens it anew for the picture and for the sound."""

    def __init__(self, path: Path) -> None:
        """Remember the path."""
        self._path = path.absolute()  # a relative `ep01-12:30.mp4` is a protocol and an address to FFmpeg

    def read_picture(self, spec: VideoSpec, *, part: Span | None) -> Picture:
        """Decode the frames that `choose_frames` chooses.

        Args:
            spec: How many frames, of what size.
            part: Of the file; None for all of it.

        Raises:
            ClipError: if the file cannot be opened, or is damaged somewhere between the first and the last frame.
        """
        decord = _decord()
        with _decoder_errors(self._path):
            reader = decord.VideoReader(
                str(self._path), ctx=decord.cpu(0), width=spec.width, height=spec.height, num_threads=1
            )
            whole = _timeline(reader)
            if part is not None:
                whole = self._exact(whole)
            timeline, first = cut_timeline(whole, part)
            indices = choose_frames(timeline, num_frames=spec.num_frames, sampling=spec.sampling).tolist()
            # Decord hands over a frame while a thread decodes the next ones: without a look at the last frame, time
            # would decide whether damage behind the last chosen one is met.
            numbers = sorted({*indices, len(timeline.starts) - 1})
            frames = _frames(reader, [first + number for number in numbers], width=spec.width)
            chosen = dict(zip(numbers, frames, strict=True))
        return make_picture([chosen[index] for index in indices], timeline, sampling=spec.sampling)

    def read_sound(self, *, sample_rate: int, max_values: int, part: Span | None) -> Sound:
        """Decode the sound to mono.

        Args:
            sample_rate: Of the waveform, in Hz.
            max_values: Waveform values to keep from the start.
            part: Of the file; None for all of it.

        Raises:
            ClipError: if the clip has no sound or it cannot be decoded.
        """
        decord = _decord()
        with _decoder_errors(self._path):
            # mono=False: Decord's own mono of a stereo clip comes 3 dB low, so the channels are mixed here.
            reader = decord.AudioReader(str(self._path), ctx=decord.cpu(0), sample_rate=sample_rate, mono=False)
            # The array behind the reader: indexing it by a slice goes through a list of Python integers per value.
            channels = reader._array
        self._check_length(channels.shape[-1] / sample_rate)
        if part is not None:
            start, end = (round(seconds * sample_rate) for seconds in (part.start_seconds, part.end_seconds))
            channels = channels[:, start:end]
        if channels.ndim != 2 or not channels.size:
            raise ClipError("the sound has no values")
        if len(channels) not in _CHANNELS:
            raise ClipError(f"the sound has {len(channels)} channels, of which it is not known which they are")
        if not np.isfinite(channels).all():
            raise ClipError("the sound holds values that are no numbers")
        return Sound(
            waveform=downmix(channels[:, :max_values], _CHANNELS[len(channels)]),
            num_channels=len(channels),
            duration_seconds=channels.shape[1] / sample_rate,
            silent=float(np.abs(channels).max()) < SILENCE,
        )

    def _exact(self, timeline: Timeline) -> Timeline:
        """Return the times of the frames on the file's clock: Decord's are 32-bit floats, 1.4 is 1.3999999 there."""
        header = probe_mp4(self._path)
        if header.picture is None or len(header.picture.starts) != len(timeline.starts):
            raise ClipError("cannot be decoded: Decord finds another number of frames than the header has")
        starts = header.picture.starts - header.start_seconds
        return Timeline(starts=starts, duration_seconds=header.picture.duration_seconds)

    def _check_length(self, seconds: float) -> None:
        """Refuse sound that ends before its header says: Decord stops at a damaged packet, without a word."""
        try:
            sound = probe_mp4(self._path).sound
        except ClipError:
            return
        if sound is not None and seconds < sound.duration_seconds - _SHORT_SECONDS:
            ends = f"the sound ends after {seconds:.2f} s of {sound.duration_seconds:.2f} s"
            raise ClipError(f"cannot be decoded: {ends}")


_CHANNELS = {1: ("FC",), 2: ("FL", "FR"), 6: ("FL", "FR", "FC", "LFE", "BL", "BR")}
"""FFmpeg's names of the channels that so many AAC channels are."""
_SHORT_SECONDS = 0.05
"""Two packets: the last ones may be cut off by the header, or not."""


_UNOPENED = "cannot be opened: the file is cut short, damaged, or no video"
_PLAIN_WORDS = {
    "Error reading": _UNOPENED,  # all that Decord says of a picture; FFmpeg's reason went to its log
    "ERROR opening: Invalid data found when processing input": _UNOPENED,
    "Can't find audio stream": "there is no audio stream",
    "ERROR cannot find video stream with wanted index: -1": "there is no video stream",
    "Thread worker: Error sending packet.": "cannot be decoded: the picture's data is damaged",
    "Check failed: run_.load()": "cannot be decoded: the picture's data is damaged",  # the same, a moment later
    "Check failed: it1 - key_indices_.begin() >= 0 (-1 vs. 0)": "cannot be decoded: the first frame needs earlier ones",
    "Cannot create buffer source": "cannot be decoded: the picture has no size or no pixel format",
}
"""Decord's commonest messages, said to a person."""


@cache
def _decord() -> Any:
    """Import Decord, after torch, and without all the CUDA libraries of the environment.

    decord2 3.4.0 loads every library of the `nvidia-*` packages into the process, 290 MB for nothing on a CPU,
    and NVBLAS among them, which crashes at exit when it is there before torch's own. It finds them by the name of
    their package, so that name is nobody's while it looks.
    """
    importlib.import_module("torch")
    there = sys.modules.pop("nvidia", None)
    sys.modules["nvidia"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("decord")
    finally:
        del sys.modules["nvidia"]
        if there is not None:
            sys.modules["nvidia"] = there


def _timeline(reader: Any) -> Timeline:
    num = len(reader)
    if not num:
        raise ClipError("no frame can be decoded")
    stamps = reader.get_frame_timestamp(list(range(num)))
    starts = np.asarray(stamps[:, 0], dtype=np.float64)
    if (np.diff(starts) <= 0).any():  # it then hands over other pictures on every run, and memory nobody wrote to
        raise ClipError("cannot be decoded: two frames have the same time")
    return Timeline(starts=starts, duration_seconds=round(float(stamps[-1, 1] - starts[0]), 6))


def _frames(reader: Any, numbers: Sequence[int], *, width: int) -> Iterator[NDArray[np.uint8]]:
    """Decode frames by their numbers, ascending, `(H, W, 3)` each.

    Not by `reader[number]`, which looks for its place anew each time and scales frames on the way that nobody asked
    for: a clip takes a twelfth longer. Not by `get_batch`: FFmpeg pads the rows of a frame as the processor's vectors
    want it, and where the padded row happens to be a multiple of the width Decord takes the padding for further
    channels, (H, W, 4) say, which `get_batch` refuses to copy. 32 pixels are such a width with AVX-512, 72 with AVX2.
    """
    place = 0
    for number in numbers:
        if number > place:
            reader.skip_frames(number - place)
        try:
            array: NDArray[np.uint8] = reader.next().asnumpy()
        except StopIteration as exc:
            raise ClipError(f"cannot be decoded: it ends before its frame {number}") from exc
        place = number + 1
        rows = array.reshape(len(array), -1)[:, : 3 * width]  # (H, padded row) -> (H, 3 W)
        yield rows.reshape(len(array), width, 3)


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
        what = what.replace(f"[{path}]", "").replace(str(path), " ").strip()  # some name it in other ways
        raise ClipError(_PLAIN_WORDS.get(what, f"cannot be decoded: {what}")) from exc
