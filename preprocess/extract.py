"""One utterance's clip -> what its sample holds of it.

Runs in a worker process, because a decoder may crash, hang or eat memory.

Shape letters: T frames, H height, W width, M mel bins, S hops.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from preprocess import decord_clip, pyav_clip
from preprocess.annotations import Utterance
from preprocess.clip import Picture, Sound
from preprocess.config import Decoder, TestClips
from preprocess.errors import ClipError
from preprocess.logmel import LogMel
from shards.schema import PRESENT, AudioSpec, Note, NoteKind, Presence, VideoSpec

__all__ = ["Extract", "absent_extract", "choose_clip", "extract", "start_worker"]

T = TypeVar("T")

_MISMATCH_SECONDS = 0.5
"""Clip and annotation differ by more than this and by more than a tenth: MELD's own clips agree to 0.05 s."""
_LONG_SECONDS = 30.0
"""Longer than any utterance of MELD that was really spoken (28.5 s)."""
_SHORT_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Extract:
    """What was taken from a clip.

    Attributes:
        path: The clip that was used, relative to the dataset; empty when the row has none.
        frames: `(T, H, W, 3)` uint8; `(0,)` when absent, so that nothing is sent between processes for it.
        logmel: `(M, S)` float16; `(0,)` when absent.
        num_frames: Real frames.
        num_hops: Real hops.
        video: Whether there is a picture, and why not.
        audio: Whether there is sound, and why not.
        duration_seconds: Of the clip; 0 when unknown.
        notes: What else is worth knowing.
    """

    path: str
    frames: NDArray[np.uint8]
    logmel: NDArray[np.float16]
    num_frames: int
    num_hops: int
    video: Presence
    audio: Presence
    duration_seconds: float
    notes: tuple[Note, ...]
    died: bool = False
    """Whether the process of the decoder ended in the clip."""
    killed: bool = False
    """Whether the decoder was killed for want of time or memory, which another run may have more of."""


def start_worker() -> None:
    """Prepare a worker process: one thread each, and native decoders' chatter kept off the terminal."""
    import torch

    torch.set_num_threads(1)
    sys.stderr.flush()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)  # FFmpeg and Decord print there; what matters comes back as an exception
    os.close(silent)


def extract(
    root: Path,
    utterance: Utterance,
    *,
    decoder: Decoder,
    video: VideoSpec,
    audio: AudioSpec,
    test_clips: TestClips,
    trouble: str = "",
) -> Extract:
    """Decode the picture and the sound of an utterance that has a clip; each may be absent for a reason of its own.

    Args:
        root: The dataset's folder.
        utterance: The row.
        decoder: `decord`, after which PyAV is tried, or `pyav` alone.
        video: How frames are made.
        audio: How log-mels are made.
        test_clips: Which of two clips a test row takes.
        trouble: How Decord's process ended when it was tried on this row, so that PyAV begins.
    """
    first: Decoder = "pyav" if trouble else decoder
    path, notes = choose_clip(root, utterance, decoder=first, test_clips=test_clips)
    why = trouble
    if first == "decord" and pyav_clip.has_cut_start(root / path):
        first, why = "pyav", "the file hides frames before its start, of which Decord knows nothing"
    picture, video_presence, why_video = _tried(
        lambda reader: reader.read_picture(
            root / path, num_frames=video.num_frames, height=video.height, width=video.width
        ),
        first=first,
        why=why,
    )
    transform = _transform(audio)
    sound, audio_presence, why_audio = _tried(
        lambda reader: reader.read_sound(root / path, sample_rate=audio.sample_rate, max_values=transform.max_values),
        first=first,
        why=why,
    )
    logmel, num_hops = np.empty(0, np.float16), 0
    if sound is not None and sound.silent:
        audio_presence = Presence(present=False, reason="the sound is digital silence")
    elif sound is not None:
        logmel, num_hops = transform(sound.waveform)
    if decoder == "decord":
        found = {name: why for name, why in (("picture", why_video), ("sound", why_audio)) if why}
        notes += tuple(Note(kind="second_decoder", detail=f"{name} by PyAV: {why}") for name, why in found.items())
    notes += _notes(utterance, picture, sound, audio)
    durations = [part.duration_seconds for part in (picture, sound) if part is not None]
    return Extract(
        path=path,
        frames=picture.frames if picture is not None else np.empty(0, np.uint8),
        logmel=logmel,
        num_frames=picture.num_frames if picture is not None else 0,
        num_hops=num_hops,
        video=video_presence,
        audio=audio_presence,
        duration_seconds=max(durations, default=0.0),
        notes=notes,
    )


def absent_extract(path: str, reason: str, *, died: bool = False, killed: bool = False) -> Extract:
    """Return what a clip gives that cannot be used at all."""
    return Extract(
        path=path,
        frames=np.empty(0, np.uint8),
        logmel=np.empty(0, np.float16),
        num_frames=0,
        num_hops=0,
        video=Presence(present=False, reason=reason),
        audio=Presence(present=False, reason=reason),
        duration_seconds=0.0,
        notes=(),
        died=died,
        killed=killed,
    )


def choose_clip(
    root: Path, utterance: Utterance, *, decoder: Decoder, test_clips: TestClips
) -> tuple[str, tuple[Note, ...]]:
    """Choose between a row's clip and its `final_videos_test*` twin, and say so.

    Some of MELD's plain-named test clips show the wrong scene, and the twin the right one
    (https://github.com/declare-lab/MELD/issues/22 calls the twins safe to ignore; three projects found them corrected).
    So the durations decide: the file closer to EndTime - StartTime is taken.
    """
    if not utterance.twin or not utterance.clip:
        only = utterance.clip or utterance.twin
        used = (Note(kind="corrected_twin_used", detail=f"{only}: there is no plain clip"),) if utterance.twin else ()
        return only, used
    if test_clips == "auto":
        plain, twin = (_length(root / path, decoder) for path in (utterance.clip, utterance.twin))
        take_twin = abs(twin.seconds - utterance.annotated_seconds) < abs(plain.seconds - utterance.annotated_seconds)
        detail = f"{twin.words}, {plain.words}, the annotation lasts {utterance.annotated_seconds:.2f} s"
    else:
        take_twin = test_clips == "corrected"
        detail = f"{test_clips} clips were asked for; the other file was not looked at"
    kind: NoteKind = "corrected_twin_used" if take_twin else "corrected_twin_not_used"
    return (utterance.twin if take_twin else utterance.clip), (Note(kind=kind, detail=detail),)


@dataclass(frozen=True, slots=True)
class _Length:
    seconds: float
    """Infinity for a clip that cannot be opened, so that the other one fits better."""
    words: str


def _length(path: Path, decoder: Decoder) -> _Length:
    seconds, presence, _ = _tried(lambda reader: reader.probe_seconds(path), first=decoder, why="")
    if seconds is None:
        return _Length(float("inf"), f"{path.name} {presence.reason}")
    return _Length(seconds, f"{path.name} lasts {seconds:.2f} s")


class _Reader(Protocol):
    """What both decoders' modules offer."""

    def probe_seconds(self, path: Path) -> float: ...

    def read_picture(self, path: Path, *, num_frames: int, height: int, width: int) -> Picture: ...

    def read_sound(self, path: Path, *, sample_rate: int, max_values: int) -> Sound: ...


def _tried(read: Callable[[_Reader], T], *, first: Decoder, why: str) -> tuple[T | None, Presence, str]:
    """Read with the first decoder, and with PyAV where Decord refuses.

    Returns:
        What was read, if anything; whether and why not; and why it was not Decord that read it.
    """
    if first == "pyav":
        try:
            return read(pyav_clip), PRESENT, why
        except ClipError as exc:
            return None, Presence(present=False, reason=str(exc)), ""
    try:
        return read(decord_clip), PRESENT, ""
    except ClipError as refused:
        second, presence, _ = _tried(read, first="pyav", why="")
        if second is None:
            return None, Presence(present=False, reason=str(refused)), ""
        return second, presence, f"Decord says that it {refused}"


@cache
def _transform(spec: AudioSpec) -> LogMel:
    return LogMel(spec)


def _notes(utterance: Utterance, picture: Picture | None, sound: Sound | None, spec: AudioSpec) -> tuple[Note, ...]:
    notes = []
    annotated = utterance.annotated_seconds
    if picture is not None:
        seconds = picture.duration_seconds
        if abs(seconds - annotated) > max(_MISMATCH_SECONDS, annotated / 10):
            detail = f"the clip lasts {seconds:.2f} s, the annotation {annotated:.2f} s"
            notes.append(Note(kind="duration_mismatch", detail=detail))
        if seconds > _LONG_SECONDS:
            notes.append(Note(kind="long_clip", detail=f"{seconds:.2f} s for one utterance"))
        if picture.clip_frames == 1:
            notes.append(Note(kind="one_frame", detail="the clip has a single frame"))
        if picture.variable_frame_rate:
            detail = f"{picture.clip_frames} frames in {seconds:.2f} s, unevenly spaced"
            notes.append(Note(kind="variable_frame_rate", detail=detail))
    if annotated < _SHORT_SECONDS:
        notes.append(Note(kind="short_row", detail=f"the annotation gives {annotated:.3f} s"))
    if sound is not None:
        if sound.num_channels > 2:
            notes.append(Note(kind="surround", detail=f"{sound.num_channels} channels, mixed to one"))
        kept = spec.num_hops * spec.hop_length / spec.sample_rate
        if sound.duration_seconds > kept:
            detail = f"the first {kept:.2f} s of {sound.duration_seconds:.2f} s are kept"
            notes.append(Note(kind="audio_cut", detail=detail))
    return tuple(notes)
