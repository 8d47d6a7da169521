"""The utterances of the demo data set, invented from a seed.

Each modality tells the emotion of most utterances, nothing of some and another emotion of a few. Which ones these are
is drawn for each modality apart, so the three together tell more than any one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from preprocess.config import DemoConfig
from shards.schema import EMOTION, SPLITS

__all__ = ["CLIP_FOLDERS", "FRAME_RATE", "SPEAKERS", "DemoRow", "make_rows"]

FRAME_RATE = Fraction(24000, 1001)
"""Frames per second of every MELD clip."""

CLIP_FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}

_SHARES = {
    "neutral": 0.30, "joy": 0.16, "surprise": 0.14, "anger": 0.14, "sadness": 0.10, "disgust": 0.08, "fear": 0.08,
}  # fmt: skip
"""Part of the utterances with each emotion: MELD's order, milder, so that a small test split has every class."""
_SENTIMENTS = {"joy": "positive", "neutral": "neutral"}
"""All others are negative but surprise, which is positive or negative, as in MELD."""
_CLEAR, _BLANK = 0.6, 0.3
"""Parts of the utterances in which a modality expresses the labelled emotion, and none; in the rest, another one."""
_DIALOGUE_UTTERANCES = (3, 9)
"""Fewest and most."""
_CLIP_FRAMES = (24, 60)
"""Fewest and most frames: 1 to 2.5 seconds."""


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
    text_emotion: str | None
    """Emotion that the words express, which need not be the label; None if they express none."""
    voice_emotion: str | None
    """Emotion that the voice expresses, which need not be the label; None if it only whispers."""
    face_emotion: str | None
    """Emotion that the picture expresses, which need not be the label; None if the face is turned away."""
    dialogue_id: int
    utterance_id: int
    episode: int
    start_milliseconds: int
    num_frames: int

    @property
    def end_milliseconds(self) -> int:
        """End of the utterance in its episode: the start and the length of the clip."""
        return self.start_milliseconds + round(self.num_frames / FRAME_RATE * 1000)

    @property
    def clip(self) -> str:
        """The clip's path in the data set."""
        return f"{CLIP_FOLDERS[self.split]}/dia{self.dialogue_id}_utt{self.utterance_id}.mp4"


def make_rows(config: DemoConfig) -> tuple[DemoRow, ...]:
    """Invent the utterances, in the order of the csv files: train, dev, test."""
    num_dev, num_test = round(config.num_utterances / 6), round(config.num_utterances / 3)
    sizes = (config.num_utterances - num_dev - num_test, num_dev, num_test)
    return tuple(
        row
        for index, (split, size) in enumerate(zip(SPLITS, sizes, strict=True))
        for row in _split_rows(split, size, generator=np.random.default_rng([config.seed, index]))
    )


SPEAKERS = {"Ada": 190, "Bruno": 110, "Carla": 175, "Dimitri": 125, "Esther": 210, "Farid": 140}
"""Pitch of the calm voice, in Hz."""

_CUES = {
    "anger": "I am so angry | I hate this | stop it, I am angry | get out, I hate you | you make me angry, stop it",
    "disgust": "that is disgusting | ew, gross | it is so gross | ew, that is disgusting | how gross, it smells",
    "fear": "I am scared | I am so afraid | be careful, I am afraid | careful, I am scared | I am scared, help",
    "joy": "I am so happy | this is great | I am glad, it is great | great, I am happy | I am happy and glad",
    "neutral": "it is on the table | at seven, as usual | as usual, on the table | it is as usual | at seven, I think",
    "sadness": "I miss her | I am so lonely | I could cry | I miss you, I am lonely | I cry, I am so lonely",
    "surprise": "oh my god | no way | wow | oh my god, no way | wow, oh my god",
}
"""What is said in each emotion, in few words that come back in several phrases."""
_TURNS = {"positive": "that is wonderful | how wonderful", "negative": "that is awful | how awful"}
"""What tells a good surprise from a bad one; nothing heard or seen does."""
_VAGUE = "I don’t know what to say | what do you think | you know me | are you serious | well, that’s that"
"""What is said in no emotion."""
_CHAT = "{name} called about {thing} | {name} was at {place} | they left {thing} at {place} | it’s about {thing}"
_BLANKS = {
    "{name}": "my sister | Grandma | Hugo",
    "{thing}": "the car | that coffee | the letter | the rent",
    "{place}": "the office | the station | the beach",
}
_OPENERS = "So, | Well, | Okay, | Um, | Hey,"


def _split_rows(split: str, size: int, *, generator: np.random.Generator) -> Iterable[DemoRow]:
    """Invent the `size` utterances of one split, dialogue by dialogue."""
    emotions = _deal_emotions(size, generator=generator)
    spoken, voices, faces = (_express(emotions, generator=generator) for _ in range(3))
    index = 0
    for dialogue_id, length in enumerate(_dialogue_lengths(size, generator=generator)):
        cast = generator.permutation(list(SPEAKERS))[: generator.integers(2, 4)]
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
                text_emotion=spoken[index],
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


def _express(emotions: Sequence[str], *, generator: np.random.Generator) -> list[str | None]:
    """Return what one modality expresses of each emotion: itself, none or another one.

    The parts are exact, not a chance for each utterance: they limit what one modality can score, and a small test
    split should not be easy or hard by luck.
    """
    num_clear = round(_CLEAR * len(emotions))
    num_blank = round(_BLANK * len(emotions))
    others = [str(generator.choice([name for name in EMOTION.names if name != emotion])) for emotion in emotions]
    ranks = generator.permutation(len(emotions))
    return [
        emotion if rank < num_clear else None if rank < num_clear + num_blank else other
        for emotion, other, rank in zip(emotions, others, ranks, strict=True)
    ]


def _dialogue_lengths(size: int, *, generator: np.random.Generator) -> list[int]:
    """Cut `size` utterances into dialogues, none shorter or longer than `_DIALOGUE_UTTERANCES`."""
    shortest, longest = _DIALOGUE_UTTERANCES
    lengths: list[int] = []
    while (left := size - sum(lengths)) > 0:
        choices = [n for n in range(shortest, longest + 1) if left - n >= shortest or left == n]
        lengths.append(int(generator.choice(choices)))
    return lengths


def _write_text(spoken: str | None, sentiment: str, *, generator: np.random.Generator) -> str:
    """Say something of no matter and something in the manner of the emotion `spoken`, in either order."""
    cue = _pick(_VAGUE if spoken is None else _CUES[spoken], generator=generator)
    if spoken == "surprise":
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
