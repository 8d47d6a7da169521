"""One utterance's clip -> what its sample holds of it.

Runs in a worker process, because a decoder may crash, hang or eat memory.

Picture and sound are read apart: what one of them gives never depends on the other, so either can be made again alone.

Shape letters: T frames, H height, W width, M mel bins, S hops.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from preprocess.clips.clip import LONG_SECONDS, MISMATCH_SECONDS, Picture, Sound
from preprocess.clips.decord_clip import DecordClip
from preprocess.clips.decord_fit import why_not_decord
from preprocess.clips.logmel import LogMel
from preprocess.clips.process_pool import keep_quiet
from preprocess.clips.pyav_clip import PyavClip, probe_seconds
from preprocess.config import Decoder, TestClips
from preprocess.datasets.annotations import Span, Utterance
from preprocess.errors import ClipError
from shards.format.frame_jpeg import encode_frame_jpeg
from shards.schema import PRESENT, Note, NoteKind, Presence
from shards.spec import AudioSpec, FeatureSpec, VideoSpec

__all__ = ["MEDIA", "Extract", "Feature", "Medium", "absent_feature", "choose_clip", "extract", "start_worker"]

T = TypeVar("T")

Medium = Literal["video", "audio"]
"""The modalities that come from a clip."""
MEDIA: tuple[Medium, ...] = ("video", "audio")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Feature:
    """One modality of a clip.

    Attributes:
        array: As it is stored: `(T, H, W, 3)` uint8 or the bytes `(N,)` of a JPEG for video, `(M, S)` float16 for
            audio; `(0,)` when absent, so that nothing is sent between processes for it.
        length: Real frames or hops.
        presence: Whether it is there, and why not.
        seconds: How long it lasts in the clip; 0 when unknown.
        notes: What else is worth knowing of it.
        killed: Whether a decoder was killed over it for want of time or memory, which another run may have more of.
    """

    array: NDArray[Any]
    length: int
    presence: Presence
    seconds: float
    notes: tuple[Note, ...]
    killed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Extract:
    """What was taken from a clip.

    Attributes:
        path: The clip that was used, relative to the dataset; empty when the row has none.
        notes: On the choice of that clip.
        features: Those that were asked for.
    """

    path: str
    notes: tuple[Note, ...]
    features: Mapping[Medium, Feature]

    @property
    def video(self) -> Feature:
        """The picture, if it was asked for."""
        return self.features["video"]

    @property
    def audio(self) -> Feature:
        """The sound, if it was asked for."""
        return self.features["audio"]


def start_worker() -> None:
    """Prepare a worker process: one thread each, and native decoders' chatter kept off the terminal."""
    import torch

    torch.set_num_threads(1)
    keep_quiet()


def extract(
    root: Path,
    utterance: Utterance,
    *,
    media: Sequence[Medium],
    decoder: Decoder,
    spec: FeatureSpec,
    test_clips: TestClips,
    trouble: str = "",
) -> Extract:
    """Decode the picture and the sound of an utterance that has a clip; each may be absent for a reason of its own.

    Args:
        root: The dataset's folder.
        utterance: The row.
        media: Which of the two.
        decoder: `decord`, after which PyAV is tried, or `pyav` alone.
        spec: How they are made.
        test_clips: Which of two clips a test row takes.
        trouble: How Decord's process ended when it was tried on this, so that PyAV begins.
    """
    path, notes = choose_clip(root, utterance, test_clips=test_clips)
    features: dict[Medium, Feature] = {}
    reasons = dict.fromkeys(media, trouble)
    if decoder == "decord" and not trouble:
        reasons = {medium: why for medium, why in why_not_decord(root / path).items() if medium in media}
    with closing(_Readers(root / path)) as readers:
        for medium in media:
            read = _read_video if medium == "video" else _read_audio
            why = reasons[medium]
            features[medium] = read(readers, utterance, spec, first="pyav" if why else decoder, why=why)
    return Extract(path=path, notes=notes, features=features)


def absent_feature(reason: str, *, killed: bool = False) -> Feature:
    """Return what a clip gives of a modality that cannot be had."""
    presence = Presence(present=False, reason=reason)
    return Feature(array=np.empty(0, np.uint8), length=0, presence=presence, seconds=0.0, notes=(), killed=killed)


def choose_clip(root: Path, utterance: Utterance, *, test_clips: TestClips) -> tuple[str, tuple[Note, ...]]:
    """Choose between a row's clip and its `final_videos_test*` twin, and say so.

    Some of MELD's plain-named test clips show the wrong scene, and the twin the right one
    (https://github.com/declare-lab/MELD/issues/22 calls the twins safe to ignore; three projects found them corrected).
    So the durations decide: the file closer to EndTime - StartTime is taken. PyAV measures them whatever the decoder,
    because it has not been seen to crash.
    """
    if not utterance.twin or not utterance.clip:
        only = utterance.clip or utterance.twin
        detail = f"{only}: there is no plain clip"
        return only, (Note(kind="corrected_twin_used", about="row", detail=detail),) if utterance.twin else ()
    if test_clips == "auto":
        plain, twin = (_length(root / path) for path in (utterance.clip, utterance.twin))
        take_twin = abs(twin.seconds - utterance.annotated_seconds) < abs(plain.seconds - utterance.annotated_seconds)
        detail = f"{twin.words}, {plain.words}, the annotation lasts {utterance.annotated_seconds:.2f} s"
    else:
        take_twin = test_clips == "corrected"
        detail = f"{test_clips} clips were asked for; the other file was not looked at"
    kind: NoteKind = "corrected_twin_used" if take_twin else "corrected_twin_not_used"
    return (utterance.twin if take_twin else utterance.clip), (Note(kind=kind, about="row", detail=detail),)


@dataclass(frozen=True, slots=True)
class _Length:
    seconds: float
    """Infinity for a clip that cannot be opened, so that the other one fits better."""
    words: str


def _length(path: Path) -> _Length:
    try:
        seconds = probe_seconds(path)
    except ClipError as exc:
        return _Length(float("inf"), f"{path.name} {exc}")
    return _Length(seconds, f"{path.name} lasts {seconds:.2f} s")


def _read_video(readers: "_Readers", utterance: Utterance, spec: FeatureSpec, *, first: Decoder, why: str) -> Feature:
    picture, presence, second = readers.tried(
        lambda reader: reader.read_picture(spec.video, part=utterance.part), first=first, why=why
    )
    if picture is None:
        return absent_feature(presence.reason)
    array = picture.frames
    if spec.video.storage == "jpeg":
        array = encode_frame_jpeg(array, quality=spec.video.jpeg_quality)
    notes = (*_second_decoder("video", second), *_picture_notes(utterance, picture))
    return Feature(
        array=array, length=picture.num_frames, presence=presence, seconds=picture.duration_seconds, notes=notes
    )


def _read_audio(readers: "_Readers", utterance: Utterance, spec: FeatureSpec, *, first: Decoder, why: str) -> Feature:
    transform = _transform(spec.audio)
    sound, presence, second = readers.tried(
        lambda reader: reader.read_sound(
            sample_rate=spec.audio.sample_rate, max_values=transform.max_values, part=utterance.part
        ),
        first=first,
        why=why,
    )
    if sound is None:
        return absent_feature(presence.reason)
    notes = (*_second_decoder("audio", second), *_sound_notes(sound, spec.audio))
    array: NDArray[Any] = np.empty(0, np.float16)
    num_hops = 0
    if sound.silent:
        presence = Presence(present=False, reason="the sound is digital silence")
    else:
        array, num_hops = transform(sound.waveform)
    return Feature(array=array, length=num_hops, presence=presence, seconds=sound.duration_seconds, notes=notes)


class _Reader(Protocol):
    """What both decoders offer of a clip."""

    def read_picture(self, spec: VideoSpec, *, part: Span | None) -> Picture: ...

    def read_sound(self, *, sample_rate: int, max_values: int, part: Span | None) -> Sound: ...


class _Readers:
    """Both decoders on one clip."""

    def __init__(self, path: Path) -> None:
        self._decord = DecordClip(path)
        self._pyav = PyavClip(path)

    def close(self) -> None:
        """Close the file."""
        self._pyav.close()

    def tried(self, read: Callable[[_Reader], T], *, first: Decoder, why: str) -> tuple[T | None, Presence, str]:
        """Read with the first decoder, and with PyAV where Decord refuses.

        Returns:
            What was read, if anything; whether and why not; and why it was not Decord that read it.
        """
        if first == "pyav":
            try:
                return read(self._pyav), PRESENT, why
            except ClipError as exc:
                return None, Presence(present=False, reason=str(exc)), ""
        try:
            return read(self._decord), PRESENT, ""
        except ClipError as refused:
            second, presence, _ = self.tried(read, first="pyav", why="")
            if second is None:
                return None, Presence(present=False, reason=str(refused)), ""
            return second, presence, f"Decord says that it {refused}"


@cache
def _transform(spec: AudioSpec) -> LogMel:
    return LogMel(spec)


def _second_decoder(medium: Medium, why: str) -> tuple[Note, ...]:
    what = "picture" if medium == "video" else "sound"
    return (Note(kind="second_decoder", about=medium, detail=f"{what} by PyAV: {why}"),) if why else ()


def _picture_notes(utterance: Utterance, picture: Picture) -> tuple[Note, ...]:
    found = dict(picture.remarks)
    annotated, seconds = utterance.annotated_seconds, picture.duration_seconds
    if utterance.span is not None and abs(seconds - annotated) > max(MISMATCH_SECONDS, annotated / 10):
        found["duration_mismatch"] = f"the clip lasts {seconds:.2f} s, the annotation {annotated:.2f} s"
    if seconds > LONG_SECONDS:
        found["long_clip"] = f"{seconds:.2f} s for one utterance"
    if picture.clip_frames == 1:
        found["one_frame"] = "the clip has a single frame"
    if picture.variable_frame_rate:
        found["variable_frame_rate"] = f"{picture.clip_frames} frames in {seconds:.2f} s, unevenly spaced"
    return tuple(Note(kind=kind, about="video", detail=detail) for kind, detail in found.items())


def _sound_notes(sound: Sound, spec: AudioSpec) -> tuple[Note, ...]:
    found = dict(sound.remarks)
    if sound.num_channels > 2:
        found["surround"] = f"{sound.num_channels} channels, mixed to one"
    kept = spec.num_hops * spec.hop_length / spec.sample_rate
    if sound.duration_seconds > kept:
        found["audio_cut"] = f"the first {kept:.2f} s of {sound.duration_seconds:.2f} s are kept"
    return tuple(Note(kind=kind, about="audio", detail=detail) for kind, detail in found.items())
