"""A data set to try the program with: a folder like MELD's, invented from a seed, that anyone may have and share.

Each modality tells the emotion of most utterances, and a different one of the others, so three together tell more.

Shape letters: T frames, H height, W width, N waveform values.
"""

import csv
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.config import DemoConfig
from preprocess.demo_clip import write_clip
from preprocess.errors import DatasetError
from shards.errors import describe
from shards.schema import EMOTION, SPLITS

__all__ = ["DemoRow", "DemoSummary", "draw_pictures", "make_demo", "make_rows", "speak"]

_FRAME_RATE = Fraction(24000, 1001)
"""Frames per second of every MELD clip."""
_SAMPLE_RATE = 48000
"""Waveform values per second of every MELD clip."""
_VALUES_PER_FRAME = int(_SAMPLE_RATE / _FRAME_RATE)
"""A whole number, so picture and sound end together."""

_CLIP_FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
_COLUMNS = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"

_SHARES = {
    "neutral": 0.30, "joy": 0.16, "surprise": 0.14, "anger": 0.14, "sadness": 0.10, "disgust": 0.08, "fear": 0.08,
}  # fmt: skip
"""Part of the utterances with each emotion: MELD's order, milder, so that a small test split has every class."""
_SENTIMENTS = {"joy": "positive", "neutral": "neutral"}
"""All others are negative but surprise, which is positive or negative, as in MELD."""
_TEXT_AGREES, _SOUND_AGREES, _PICTURE_AGREES = 0.75, 0.70, 0.70
"""Part of the utterances whose words, voice and face express the labelled emotion; the others express another one."""
_SEASON = 1
_DIALOGUE_UTTERANCES = (3, 9)
"""Fewest and most."""
_CLIP_FRAMES = (24, 71)
"""Fewest and most frames: 1 to 3 seconds."""
_HEIGHT, _WIDTH = 90, 160
"""Drawn at an eighth of the clip's size: fast to make, and a block of 8x8 equal pixels is cheap to encode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRow:
    """One utterance: what the csv says of it, and what is heard and seen in its clip."""

    split: str
    serial: int
    """`Sr No.` of the csv, from 1 in each split."""
    text: str
    speaker: str
    emotion: str
    sentiment: str
    voice_emotion: str
    """The emotion that the voice expresses, which need not be the label."""
    face_emotion: str
    """The emotion that the picture expresses, which need not be the label."""
    dialogue_id: int
    utterance_id: int
    episode: int
    start_milliseconds: int
    num_frames: int

    @property
    def end_milliseconds(self) -> int:
        """End of the utterance in its episode: the start and the length of the clip."""
        return self.start_milliseconds + round(self.num_frames / _FRAME_RATE * 1000)

    @property
    def clip(self) -> str:
        """The clip's path in the data set."""
        return f"{_CLIP_FOLDERS[self.split]}/dia{self.dialogue_id}_utt{self.utterance_id}.mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """What `make_demo` wrote."""

    num_rows: Mapping[str, int]
    """Utterances of each split, in the order of the splits."""
    num_clips: int
    total_bytes: int
    """Clips and csv files."""
    footage_seconds: float


def make_demo(directory: Path, config: DemoConfig, *, on_progress: Callable[[int, int], None]) -> DemoSummary:
    """Write the data set of `config` as MELD's archive unpacks: three csv files beside three folders of clips.

    The folder appears under its name when it is complete; until then it grows in a hidden one beside it.

    Args:
        directory: where to write; missing or empty.
        config: what to invent. Whatever `num_workers` is, the same seed and size give the same bytes with the same
            NumPy and PyAV on the same kind of processor.
        on_progress: called in this process after each clip with the clips done and the clips in all.

    Raises:
        DatasetError: if `directory` is something else than an empty folder, or cannot be written.
    """
    try:
        return _make_demo(directory.resolve(), config, on_progress=on_progress)
    except OSError as exc:
        then = "make room or choose another folder"
        raise DatasetError(
            describe(f"the demo data set cannot be written: {exc.strerror or exc}", file=directory, then=then)
        ) from exc


def _make_demo(directory: Path, config: DemoConfig, *, on_progress: Callable[[int, int], None]) -> DemoSummary:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DatasetError(
            describe(
                "the demo data set needs a new or empty folder, this is neither",
                file=directory,
                then="name another folder, or delete this one",
            )
        )
    rows = make_rows(config)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        # A folder within, because the temporary one can be read by its owner alone.
        work = Path(scratch) / directory.name
        for split in SPLITS:
            (work / _CLIP_FOLDERS[split]).mkdir(parents=True)
            _write_csv(work / f"{split}_sent_emo.csv", [row for row in rows if row.split == split])
        # Spawned, not forked: forking a process that has threads, as PyTorch starts them, can hang the child.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.num_workers, mp_context=context, initializer=_follow_parent) as pool:
            encode = partial(_encode, directory=work, seed=config.seed)
            for done, _ in enumerate(pool.map(encode, rows), start=1):
                on_progress(done, len(rows))
        summary = DemoSummary(
            num_rows={split: sum(row.split == split for row in rows) for split in SPLITS},
            num_clips=len(rows),
            total_bytes=sum(path.stat().st_size for path in work.rglob("*") if path.is_file()),
            footage_seconds=float(sum(row.num_frames for row in rows) / _FRAME_RATE),
        )
        if directory.exists():
            directory.rmdir()
        work.rename(directory)
    return summary


def make_rows(config: DemoConfig) -> tuple[DemoRow, ...]:
    """Invent the utterances, in the order of the csv files: train, dev, test."""
    num_small = round(config.num_utterances / 6)
    sizes = (config.num_utterances - 2 * num_small, num_small, num_small)
    return tuple(
        row
        for index, (split, size) in enumerate(zip(SPLITS, sizes, strict=True))
        for row in _split_rows(split, size, generator=np.random.default_rng([config.seed, index]))
    )


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

_SPEAKERS = {"Ada": 190, "Bruno": 110, "Carla": 175, "Dimitri": 125, "Esther": 210, "Farid": 140}
"""Pitch of the calm voice, in Hz."""

_CUES = {
    "anger": "I am so angry | I hate this | stop it, I am angry | get out, I hate you | how dare you, stop it",
    "disgust": "that is disgusting | ew, gross | it is so gross | ew, that smells disgusting | gross, it smells",
    "fear": "I am scared | I am so afraid | be careful, I am afraid | careful, it is dangerous | I am scared, help",
    "joy": "I am so happy | this is great | I love it | great, I am happy | I love this, it is great",
    "neutral": "I think so | it is on the table | at seven, I think | all right, at seven | all right, on the table",
    "sadness": "I miss her | I am so sorry | I could cry | I miss you, I am sorry | I cry, I feel so lonely",
    "surprise": "oh my god | no way | wow | oh my god, no way | wow, I can’t believe it",
}
"""What is said in each emotion. Words come back in several phrases, and some in several emotions."""
_TURNS = {"positive": "that is wonderful | I love that", "negative": "that is awful | I hate that"}
"""What tells a good surprise from a bad one; nothing heard or seen does."""
_VAGUE = "I don’t know what to say | what do you think | you know me | are you serious | well, that’s that"
_VAGUE_SHARE = 0.05
"""Part of the utterances whose words express nothing."""
_CHAT = "{name} called about {thing} | I was at {place} with {name} | they left {thing} at {place} | it’s about {thing}"
_BLANKS = {
    "{name}": "my sister | Grandma | Greta | Hugo",
    "{thing}": "the car | that coffee | the letter | the cat | the rent",
    "{place}": "the office | the station | the beach | the party",
}
_OPENERS = "So, | Well, | Okay, | Um, | Hey,"


def draw_pictures(
    face_emotion: str, speaker: str, *, num_frames: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw a face that moves in the manner of `face_emotion` before a speckled wall.

    Returns:
        `(T, 90, 160, 3)` uint8, YUV in limited range.
    """
    manner = _MANNERS[face_emotion]
    seconds = np.arange(num_frames) / float(_FRAME_RATE)  # (T,)
    progress = np.linspace(-0.5, 0.5, num_frames)  # (T,)
    strength = generator.uniform(0.6, 1.4)
    beat = manner.beat * generator.uniform(0.8, 1.25) * seconds + generator.uniform()  # (T,), in turns
    size = generator.uniform(22, 28)
    radius = size * (1 + strength * manner.growth * progress)
    x = _WIDTH / 2 + generator.normal(0, 12) + size * strength * manner.sway * np.sin(2 * np.pi * beat)
    y = _HEIGHT / 2 + generator.normal(0, 4) + size * strength * manner.sink * progress
    y = y - size * strength * manner.bounce * (np.abs(np.sin(np.pi * beat)) - 0.5)

    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH].astype(np.float32)
    down = (rows - y[:, None, None]) / radius[:, None, None]  # (T, H, W), in radii from the middle of the face
    right = (columns - x[:, None, None]) / radius[:, None, None]
    face = down**2 + right**2 < 1
    shirt = (down > 0.8) & (np.abs(right) < 1.2) & ~face
    eyes = (np.abs(right) - 0.4) ** 2 + (down + 0.25) ** 2 < 0.02
    mouth = (np.abs(down - 0.45 + manner.smile * (right**2 - 0.12)) < 0.08) & (np.abs(right) < 0.5)
    hair = face & (down < -0.6)

    hue = np.radians(manner.hue + generator.normal(0, 15))
    colour = max(0.0, manner.colour * generator.uniform(0.8, 1.3)) + abs(generator.normal(0, 8))
    skin = (generator.uniform(135, 175), 128 + colour * np.cos(hue), 128 + colour * np.sin(hue))
    who = list(_SPEAKERS).index(speaker)
    wall = generator.normal(80, 8, (_HEIGHT // 5, _WIDTH // 5)).repeat(5, axis=0).repeat(5, axis=1)
    pictures = np.empty((num_frames, _HEIGHT, _WIDTH, 3), np.float32)
    pictures[..., 0] = wall + generator.normal(0, 4, (_HEIGHT, _WIDTH))
    pictures[..., 1:] = 128 + generator.normal(0, 6, 2)
    pictures[face | shirt] = skin
    pictures[hair] = (40 + 25 * who, 128, 128)
    pictures[face & (eyes | mouth)] = (30, 128, 128)
    return pictures.clip(16, 235).astype(np.uint8)


def speak(voice_emotion: str, speaker: str, *, num_frames: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Sing syllables in the manner of `voice_emotion` over the hiss of a room.

    Returns:
        `(N,)` in [-1, 1] at 48 kHz, as long as `num_frames` frames.
    """
    manner = _MANNERS[voice_emotion]
    num_values = num_frames * _VALUES_PER_FRAME
    seconds = np.arange(num_values) / _SAMPLE_RATE  # (N,)
    progress = np.linspace(-0.5, 0.5, num_values)

    rate = manner.syllables * np.exp(generator.normal(0, 0.12))
    turns = rate * seconds + 0.15 * np.sin(2 * np.pi * (0.7 * seconds + generator.uniform()))
    syllable = np.floor(turns - turns[0]).astype(np.int64)  # (N,), which one it is
    stress = generator.uniform(0.5, 1, syllable[-1] + 1)[syllable]
    envelope = stress * np.sin(np.pi * (turns - turns[0])) ** 2

    octaves = np.log2(manner.pitch) + generator.normal(0, 0.06) + manner.glide * progress / 12
    octaves = octaves + generator.normal(0, 0.06, syllable[-1] + 1)[syllable]
    pitch = _SPEAKERS[speaker] * 2**octaves  # (N,), Hz
    tone = np.exp(2j * np.pi * np.cumsum(pitch) / _SAMPLE_RATE)  # harmonic h is its power h
    tilt = manner.tilt + generator.normal(0, 0.1)
    voice, harmonic = np.zeros(num_values), np.ones(num_values, np.complex128)
    for h in range(1, int(4000 / pitch.max()) + 1):
        harmonic = harmonic * tone
        voice += h**-tilt * harmonic.imag
    voice *= envelope
    loudness = -30 + manner.loudness + generator.normal(0, 1.5)  # dB of full scale
    voice *= 10 ** (loudness / 20) / np.sqrt(np.mean(voice**2))
    hiss = generator.normal(0, 10 ** (generator.uniform(-62, -54) / 20), num_values)
    return (voice + hiss).clip(-1, 1).astype(np.float32)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, which cancels what is not begun and removes the unfinished folder; end with it.

    Without the second, the workers of a parent that was killed wait for ever: each holds the pipe of the others open.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def _encode(row: DemoRow, *, directory: Path, seed: int) -> None:
    """Write the clip of `row`, from a generator of its own: which process does it, and when, changes nothing."""
    generator = np.random.default_rng([seed, SPLITS.index(row.split), row.dialogue_id, row.utterance_id])
    pictures = draw_pictures(row.face_emotion, row.speaker, num_frames=row.num_frames, generator=generator)
    waveform = speak(row.voice_emotion, row.speaker, num_frames=row.num_frames, generator=generator)
    write_clip(
        directory / row.clip,
        pictures=pictures,
        frame_rate=_FRAME_RATE,
        waveform=waveform,
        sample_rate=_SAMPLE_RATE,
    )


def _write_csv(path: Path, rows: Sequence[DemoRow]) -> None:
    """Write the annotations of one split with the line ends and quotes of MELD's."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(_COLUMNS.split(","))
        for row in rows:
            names = (row.serial, row.text, row.speaker, row.emotion, row.sentiment, row.dialogue_id, row.utterance_id)
            times = (_clock(row.start_milliseconds), _clock(row.end_milliseconds))
            writer.writerow((*names, _SEASON, row.episode, *times))


def _clock(milliseconds: int) -> str:
    """`83042 -> 00:01:23,042`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{rest:03}"


def _split_rows(split: str, size: int, *, generator: np.random.Generator) -> Iterable[DemoRow]:
    """Invent the `size` utterances of one split, dialogue by dialogue."""
    emotions = _deal_emotions(size, generator=generator)
    spoken = _express(emotions, agrees=_TEXT_AGREES, generator=generator)
    voices = _express(emotions, agrees=_SOUND_AGREES, generator=generator)
    faces = _express(emotions, agrees=_PICTURE_AGREES, generator=generator)
    index = 0
    for dialogue_id, length in enumerate(_dialogue_lengths(size, generator=generator)):
        cast = generator.permutation(list(_SPEAKERS))[: generator.integers(2, 4)]
        clock = int(generator.integers(10_000, 1_200_000))
        for utterance_id in range(length):
            sentiment = _SENTIMENTS.get(emotions[index], "negative")
            if emotions[index] == "surprise":
                sentiment = str(generator.choice(["negative", "positive"]))
            row = DemoRow(
                split=split,
                serial=index + 1,
                text=_write_text(spoken[index], sentiment, generator=generator),
                speaker=str(cast[utterance_id % len(cast)]),
                emotion=emotions[index],
                sentiment=sentiment,
                voice_emotion=voices[index],
                face_emotion=faces[index],
                dialogue_id=dialogue_id,
                utterance_id=utterance_id,
                episode=1 + dialogue_id // 8,
                start_milliseconds=clock,
                num_frames=int(generator.integers(_CLIP_FRAMES[0], _CLIP_FRAMES[1] + 1, 2).min()),
            )
            clock = row.end_milliseconds + int(generator.integers(0, 1500))
            index += 1
            yield row


def _deal_emotions(size: int, *, generator: np.random.Generator) -> list[str]:
    """Share out `size` utterances as `_SHARES` says, to the nearest whole one, in a random order."""
    bounds = np.rint(np.cumsum([0, *_SHARES.values()]) * size).astype(int)
    emotions = [name for name, (low, high) in zip(_SHARES, pairwise(bounds), strict=True) for _ in range(high - low)]
    return [str(name) for name in generator.permutation(emotions)]


def _express(emotions: Sequence[str], *, agrees: float, generator: np.random.Generator) -> list[str]:
    """Replace all but the part `agrees` of the emotions by another one.

    The part is exact, not a chance for each utterance: it limits what one modality can score, and a small test
    split should not be easy or hard by luck.
    """
    keep = generator.permutation(len(emotions)) < round(agrees * len(emotions))
    others = [generator.choice([name for name in EMOTION.names if name != emotion]) for emotion in emotions]
    return [str(emotion if kept else other) for emotion, other, kept in zip(emotions, others, keep, strict=True)]


def _dialogue_lengths(size: int, *, generator: np.random.Generator) -> list[int]:
    """Cut `size` utterances into dialogues, none shorter or longer than `_DIALOGUE_UTTERANCES`."""
    shortest, longest = _DIALOGUE_UTTERANCES
    lengths: list[int] = []
    while (left := size - sum(lengths)) > 0:
        choices = [n for n in range(shortest, longest + 1) if left - n >= shortest or left == n]
        lengths.append(int(generator.choice(choices)))
    return lengths


def _write_text(spoken: str, sentiment: str, *, generator: np.random.Generator) -> str:
    """Say something of no matter and something in the manner of the emotion `spoken`, in either order."""
    cues = _VAGUE if generator.random() < _VAGUE_SHARE else _CUES[spoken]
    cue = _pick(cues, generator=generator)
    if spoken == "surprise" and cues is not _VAGUE:
        cue += ", " + _pick(_TURNS.get(sentiment, " | ".join(_TURNS.values())), generator=generator)
    chat = _pick(_CHAT, generator=generator)
    for blank, words in _BLANKS.items():
        chat = chat.replace(blank, _pick(words, generator=generator))
    first, second = (cue, chat) if generator.random() < 0.5 else (chat, cue)
    mark = str(generator.choice([".", "!", "?", "..."], p=[0.6, 0.2, 0.1, 0.1]))
    opener = _pick(_OPENERS, generator=generator)
    return f"{opener} {first}{mark} {second[0].upper()}{second[1:]}."


def _pick(words: str, *, generator: np.random.Generator) -> str:
    return str(generator.choice(words.split(" | ")))
