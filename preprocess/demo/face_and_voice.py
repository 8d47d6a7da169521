"""What is seen and heard in a clip of the demo: a face that moves, and a voice that sings, in the manner of an emotion.

Shape letters: T frames, H height, W width, N waveform values.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocess.config import DRAWN_HEIGHT
from preprocess.demo.rows import FRAME_RATE, SPEAKERS

__all__ = ["SAMPLE_RATE", "draw_pictures", "speak"]

SAMPLE_RATE = 48000
"""Waveform values per second of every MELD clip."""
_VALUES_PER_FRAME = int(SAMPLE_RATE / FRAME_RATE)
"""A whole number, so picture and sound end together."""
_HEIGHT, _WIDTH = DRAWN_HEIGHT, 160
"""Drawn smaller than the clip: fast to make, and a block of equal pixels is cheap to encode."""
_WHISPER = 12
"""Decibels by which a whisper is softer than a calm voice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manner:
    """How an emotion sounds and looks; each clip departs from it at random."""

    pitch: float
    """Pitch over the speaker's own."""
    loudness: float
    """Decibels over that of a calm voice."""
    syllables: float
    """Per second."""
    glide: float
    """Semitones from the first to the last moment."""
    tilt: float
    """Power of 1/h in the amplitude of harmonic h: large is dull, small is sharp."""
    hue: float
    """Degrees from the U axis to the V axis of the face's colour."""
    colour: float
    """Distance of the face's colour from grey, of at most 112."""
    sway: float
    """To either side, in face radii, at `beat`."""
    bounce: float
    """Upwards, in face radii, at `beat`."""
    beat: float
    """Per second."""
    sink: float
    """Face radii downwards during the clip."""
    growth: float
    """Change of the radius during the clip, as a part of it."""
    smile: float
    """Curve of the mouth: 1 laughs, -1 weeps."""


_MANNERS = {
    "anger": _Manner(
        pitch=1.1, loudness=8, syllables=5.5, glide=-3, tilt=0.5,
        hue=105, colour=70, sway=0.45, bounce=0, beat=5, sink=0, growth=0.2, smile=-0.7,
    ),
    "disgust": _Manner(
        pitch=0.65, loudness=-2, syllables=2.5, glide=-5, tilt=0.5,
        hue=230, colour=60, sway=0.3, bounce=0, beat=0.5, sink=0.4, growth=-0.4, smile=-0.4,
    ),
    "fear": _Manner(
        pitch=1.7, loudness=-6, syllables=6.5, glide=2, tilt=1.9,
        hue=50, colour=60, sway=0.15, bounce=0, beat=8, sink=0, growth=-0.3, smile=-0.5,
    ),
    "joy": _Manner(
        pitch=1.5, loudness=6, syllables=4.5, glide=3, tilt=1.0,
        hue=170, colour=70, sway=0, bounce=0.8, beat=1.5, sink=-0.2, growth=0, smile=1.0,
    ),
    "neutral": _Manner(
        pitch=1.0, loudness=0, syllables=4, glide=0, tilt=1.3,
        hue=0, colour=0, sway=0.1, bounce=0, beat=0.3, sink=0, growth=0, smile=0.0,
    ),
    "sadness": _Manner(
        pitch=0.85, loudness=-9, syllables=2, glide=-3, tilt=2.0,
        hue=350, colour=60, sway=0, bounce=0, beat=1, sink=1.2, growth=-0.1, smile=-1.0,
    ),
    "surprise": _Manner(
        pitch=2.1, loudness=5, syllables=3, glide=9, tilt=1.2,
        hue=290, colour=60, sway=0, bounce=0.2, beat=1, sink=-0.8, growth=0.6, smile=0.3,
    ),
}  # fmt: skip


def draw_pictures(
    face_emotion: str | None, speaker: str, *, num_frames: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw a face that moves in the manner of `face_emotion` before a speckled wall, or the back of a head for None.

    Returns:
        `(T, 90, 160, 3)` uint8, YUV in limited range.
    """
    manner = _MANNERS[face_emotion or "neutral"]
    seconds = np.arange(num_frames) / float(FRAME_RATE)  # (T,)
    progress = np.linspace(-0.5, 0.5, num_frames)  # (T,)
    strength = generator.uniform(0.6, 1.4)
    beat = manner.beat * generator.uniform(0.8, 1.25) * seconds + generator.uniform()  # (T,), in turns
    size = generator.uniform(28, 34)
    radius = size * (1 + strength * manner.growth * progress)
    x = _WIDTH / 2 + generator.normal(0, 12) + size * strength * manner.sway * np.sin(2 * np.pi * beat)
    y = _HEIGHT / 2 + generator.normal(0, 4) + size * strength * manner.sink * progress
    y = y - size * strength * manner.bounce * (np.abs(np.sin(np.pi * beat)) - 0.5)

    rows, columns = np.arange(_HEIGHT)[:, None], np.arange(_WIDTH)
    down = _in_radii(rows, y, radius)  # (T, H, 1)
    right = _in_radii(columns, x, radius)  # (T, 1, W)
    head = down**2 + right**2 < 1  # (T, H, W)
    shirt = (down > 0.8) & (np.abs(right) < 1.2) & ~head
    eyes = (np.abs(right) - 0.4) ** 2 + (down + 0.25) ** 2 < 0.02
    mouth = (np.abs(down - 0.45 + manner.smile * (right**2 - 0.12)) < 0.08) & (np.abs(right) < 0.5)
    hair = head if face_emotion is None else head & (down < -0.6)

    hue = np.radians(manner.hue + generator.normal(0, 12))
    colour = max(0.0, manner.colour * generator.uniform(0.8, 1.3)) + abs(generator.normal(0, 8))
    skin = (generator.uniform(135, 175), 128 + colour * np.cos(hue), 128 + colour * np.sin(hue))
    who = list(SPEAKERS).index(speaker)
    wall = np.empty((_HEIGHT, _WIDTH, 3))
    wall[..., 0] = generator.normal(80, 8, (_HEIGHT // 5, _WIDTH // 5)).repeat(5, axis=0).repeat(5, axis=1)
    wall[..., 0] += generator.normal(0, 4, (_HEIGHT, _WIDTH))
    wall[..., 1:] = 128 + generator.normal(0, 6, 2)
    pictures = np.repeat(_in_limits(wall)[None], num_frames, axis=0)
    pictures[head | shirt] = _in_limits(np.array(skin))
    pictures[head & (eyes | mouth)] = (30, 128, 128)
    pictures[hair] = (40 + 25 * who, 128, 128)
    return pictures


def _in_radii(
    pixels: NDArray[np.int64], middle: NDArray[np.float64], radius: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Measure pixels of one axis from the middle of the face, in its radii, at each of T moments."""
    return ((pixels - middle[:, None, None]) / radius[:, None, None]).astype(np.float32)


def _in_limits(colours: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Round YUV to whole numbers of the limited range."""
    return colours.clip(16, 235).astype(np.uint8)


def speak(
    voice_emotion: str | None, speaker: str, *, num_frames: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Sing syllables in the manner of `voice_emotion` over the hiss of a room, or whisper them for None.

    Returns:
        `(N,)` in [-1, 1] at 48 kHz, as long as `num_frames` frames.
    """
    manner = _MANNERS[voice_emotion or "neutral"]
    num_values = num_frames * _VALUES_PER_FRAME
    seconds = np.arange(num_values) / SAMPLE_RATE  # (N,)
    progress = np.linspace(-0.5, 0.5, num_values)

    rate = manner.syllables * np.exp(generator.normal(0, 0.12))
    turns = rate * seconds + 0.15 * np.sin(2 * np.pi * (0.7 * seconds + generator.uniform()))
    syllable = np.floor(turns - turns[0]).astype(np.int64)  # (N,), which one it is
    stress = generator.uniform(0.5, 1, syllable[-1] + 1)[syllable]
    envelope = stress * np.sin(np.pi * (turns - turns[0])) ** 2

    octaves = np.log2(manner.pitch) + generator.normal(0, 0.06) + manner.glide * progress / 12
    octaves = octaves + generator.normal(0, 0.06, syllable[-1] + 1)[syllable]
    tilt = manner.tilt + generator.normal(0, 0.1)
    loudness = -30 + manner.loudness + generator.normal(0, 1.5)  # dB of full scale
    if voice_emotion is None:
        voice, loudness = generator.normal(0, 1, num_values), loudness - _WHISPER
    else:
        voice = _tone(SPEAKERS[speaker] * 2**octaves, tilt=tilt)
    voice *= envelope
    voice *= 10 ** (loudness / 20) / np.sqrt(np.mean(voice**2))
    hiss = generator.normal(0, 10 ** (generator.uniform(-62, -54) / 20), num_values)
    return (voice + hiss).clip(-1, 1).astype(np.float32)


def _tone(pitch: NDArray[np.float64], *, tilt: float) -> NDArray[np.float64]:
    """Sum the harmonics up to 4 kHz of a pitch in Hz at each of N moments; harmonic h has amplitude `h**-tilt`."""
    first = np.exp(2j * np.pi * np.cumsum(pitch) / SAMPLE_RATE)  # harmonic h is its power h
    tone, harmonic = np.zeros(len(pitch)), np.ones(len(pitch), np.complex128)
    for h in range(1, int(4000 / pitch.max()) + 1):
        harmonic = harmonic * first
        tone += h**-tilt * harmonic.imag
    return tone
