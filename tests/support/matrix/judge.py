"""What was taken from a file, held against what ffmpeg reads from it.

Shape letters: T frames, H height, W width, M mel bins, S hops.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from preprocess.clips.extract import MEDIA, Extract, Feature
from preprocess.clips.extract_all import Request, extract_all
from preprocess.clips.logmel import LogMel
from preprocess.config import Decoder, PreprocessConfig
from preprocess.datasets.annotations import Span, Utterance
from shards.spec import AudioSpec, FeatureSpec
from tests.support.clips import make_utterance, small_config, small_spec
from tests.support.matrix.case import Case
from tests.support.matrix.drawing import BEEPS, corners, draw_pictures, levels, numbers
from tests.support.matrix.studio import SAMPLE_RATE, Reference, read_by_ffmpeg

__all__ = ["CONFIG", "Judgement", "Outcome", "extract_cases", "judge", "read_reference"]

CONFIG: PreprocessConfig = small_config(
    num_frames=8, height=72, width=96, num_hops=400, sample_rate=SAMPLE_RATE, n_fft=400, hop_length=160
)
SPEC: FeatureSpec = small_spec(CONFIG)

Outcome = Literal["agrees", "noted", "absent", "wrong"]
"""`noted`: it differs, and a note says what was lost or is odd; `wrong`: it differs and nothing says so."""

_ROUNDING_SECONDS = 0.012
"""A frame that comes or goes so near to the time asked for is as good as the one that is there."""
_LEVEL = 12.0
"""Of 255, how far a colour may be from ffmpeg's: scaling and conversion round in other places."""
_LENGTH_SECONDS, _PLACE_SECONDS, _LOUDNESS = 0.06, 0.02, 0.35
_BEEP_ENERGY = 200.0
"""Of mel power: a tenth of what a beep has, and ten times what others leave in its bins."""
_EXCUSES = {"damaged", "hdr", "interlaced", "odd_times", "sound_changes", "sound_gap"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How picture and sound of a file fare."""

    picture: Outcome
    sound: Outcome
    why: tuple[str, ...]
    """What is different, or why something is absent."""
    notes: frozenset[str]
    """Kinds of the notes that the sample has."""

    @property
    def outcome(self) -> Outcome:
        """The worse of the two."""
        order: tuple[Outcome, ...] = ("wrong", "absent", "noted", "agrees")
        return min(self.picture, self.sound, key=order.index)


def extract_cases(root: Path, cases: Sequence[Case], *, decoder: Decoder, num_workers: int = 2) -> list[Extract]:
    """Take picture and sound from each file below a folder, as `mmsent preprocess` does."""
    config = replace(CONFIG, decoder=decoder)
    requests = [Request(row=_row(case), media=MEDIA) for case in cases]
    return list(extract_all(root, requests, config=config, spec=SPEC, num_workers=num_workers))


def _row(case: Case) -> Utterance:
    row = make_utterance(clip=f"{case.axis}/{case.name}")
    if case.span is None:
        return row
    span = Span(start_seconds=case.span[0], end_seconds=case.span[1])
    return replace(row, span=span, cut_by_span=True)


def read_reference(root: Path, case: Case) -> Reference:
    """Return what ffmpeg reads, cut to the part that is asked for, with the colours that are right."""
    whole = read_by_ffmpeg(root / case.axis / case.name, picture=case.picture, sound=case.sound)
    if case.drawn_levels:
        whole = replace(whole, frames=draw_pictures()[: len(whole.starts)])
    order = np.argsort(whole.starts, kind="stable")
    starts, frames = whole.starts[order], _halved(whole.frames[order])  # hundreds of them are kept
    waveform = whole.waveform
    if case.span is not None:
        start, end = case.span
        ends = np.append(starts[1:], starts[-1:] + _gap(starts))
        inside = (ends > start + 1e-4) & (starts < end - 1e-4)
        starts, frames = starts[inside], frames[inside]
        waveform = waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    return Reference(frames=frames, starts=starts, waveform=waveform)


def _halved(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return frames of half the height and width, each pixel the mean of four; small ones as they are."""
    count, height, width, _ = frames.shape
    if min(height, width) < 96:
        return frames
    even = frames[:, : height // 2 * 2, : width // 2 * 2].reshape(count, height // 2, 2, width // 2, 2, 3)
    halved: NDArray[np.uint8] = even.mean(axis=(2, 4)).round().astype(np.uint8)
    return halved


def judge(extracted: Extract, reference: Reference) -> Judgement:
    """Compare what was taken from a file with what ffmpeg reads from it."""
    picture, picture_why = _outcome(extracted.video, _compare_pictures(extracted.video, reference))
    sound, sound_why = _outcome(extracted.audio, _compare_sounds(extracted.audio, reference))
    notes = (*extracted.notes, *extracted.video.notes, *extracted.audio.notes)
    return Judgement(
        picture=picture, sound=sound, why=(*picture_why, *sound_why), notes=frozenset(note.kind for note in notes)
    )


def _outcome(feature: Feature, why: tuple[str, ...]) -> tuple[Outcome, tuple[str, ...]]:
    if not why:
        return "agrees", ()
    if not feature.presence.present:
        return "absent", why
    return ("noted" if _EXCUSES & {note.kind for note in feature.notes} else "wrong"), why


def _gap(starts: NDArray[np.float64]) -> float:
    return float(np.median(np.diff(starts))) if len(starts) > 1 else 0.04


def _compare_pictures(feature: Feature, reference: Reference) -> tuple[str, ...]:
    starts = reference.starts
    if not feature.presence.present:
        return (f"no picture: {feature.presence.reason}",) if len(starts) else ()
    if not len(starts):
        return ("a picture where there is none",)
    frames: NDArray[np.uint8] = feature.array  # (T, H, W, 3)
    count = CONFIG.num_frames
    if len(starts) < count:
        allowed = [{min(place, len(starts) - 1)} for place in range(count)]
    else:
        times = starts[0] + (np.arange(count) + 0.5) / count * (starts[-1] + _gap(starts) - starts[0])
        allowed = [_on_screen(starts, float(time)) for time in times]
    right, found = levels(reference.frames), levels(frames)  # (F, 5, 3), (T, 5, 3)
    best = [min(indices, key=lambda index: _far(found[place], right[index])) for place, indices in enumerate(allowed)]
    if corners(frames[count // 2]) != (up := corners(reference.frames[best[count // 2]])):
        return (f"corners are {corners(frames[count // 2])}, not {up}",)
    ours, theirs = numbers(frames), numbers(reference.frames)[best]
    if (np.abs(ours - theirs) > 0.7).any() and not (len(set(best)) > 1 and _same_order(ours, theirs)):
        return (f"pictures {ours.round().astype(int).tolist()}, not {theirs.round().astype(int).tolist()}",)
    off = max(_far(found[place], right[index]) for place, index in enumerate(best))
    return (f"colours are off by {off:.0f}",) if off > _LEVEL else ()


def _same_order(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> bool:
    """Say whether the greys only differ as colours do: by a little, and none twice where the other has none twice."""
    return bool((np.abs(ours - theirs) < 1.5).all())


def _on_screen(starts: NDArray[np.float64], time: float) -> set[int]:
    edges = np.searchsorted(starts, [time - _ROUNDING_SECONDS, time + _ROUNDING_SECONDS], side="right") - 1
    return set(range(max(0, int(edges[0])), int(edges[1]) + 1))


def _far(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return float(np.abs(ours - theirs).max())


def _compare_sounds(feature: Feature, reference: Reference) -> tuple[str, ...]:
    if not len(reference.waveform):
        return ("a sound where there is none",) if feature.presence.present else ()
    if not feature.presence.present:
        return (f"no sound: {feature.presence.reason}",)
    expected, num_hops = _transform(SPEC.audio)(reference.waveform)
    hop_seconds = SPEC.audio.hop_length / SPEC.audio.sample_rate
    seconds, right_seconds = feature.length * hop_seconds, num_hops * hop_seconds
    why = []
    if abs(seconds - right_seconds) > _LENGTH_SECONDS:
        why.append(f"the sound lasts {seconds:.2f} s, not {right_seconds:.2f} s")
    for hertz in BEEPS:
        ours, theirs = (_beep(array, hertz) for array in (feature.array, expected))
        if theirs is None:
            continue
        if ours is None:
            why.append(f"the beep of {hertz:.0f} Hz at {theirs[0]:.2f} s is missing")
        elif abs(ours[0] - theirs[0]) > _PLACE_SECONDS:
            why.append(f"the beep of {hertz:.0f} Hz is at {ours[0]:.2f} s, not {theirs[0]:.2f} s")
        elif abs(ours[1] - theirs[1]) > _LOUDNESS:
            why.append(f"the beep of {hertz:.0f} Hz is {8.686 / 2 * (ours[1] - theirs[1]):+.1f} dB off")
    return tuple(why)


def _beep(logmel: NDArray[Any], hertz: float) -> tuple[float, float] | None:
    """Return the middle of a beep in seconds, and how loud it is there; None without one."""
    power = np.exp(logmel.astype(np.float64)) * (logmel != 0)  # (M, S), zero in the padding
    centre = round(_mel(hertz) / _mel(SAMPLE_RATE / 2) * (SPEC.audio.num_mels + 1)) - 1
    energy = power[max(0, centre - 2) : centre + 3].sum(axis=0)  # (S,)
    if energy.max(initial=0.0) < _BEEP_ENERGY:
        return None
    loud = np.flatnonzero(energy > 0.3 * energy.max())
    return float(loud.mean()) * SPEC.audio.hop_length / SAMPLE_RATE, float(np.log(np.median(energy[loud])))


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


@cache
def _transform(spec: AudioSpec) -> LogMel:
    return LogMel(spec)
