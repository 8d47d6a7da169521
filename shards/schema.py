"""The contract between `preprocess` and `mmsent`: what a sample is.

Shape letters: T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:  # names of types alone: the command line reads its defaults from here, and `--help` is to be instant
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "DEFAULT_TEXT_ENCODER",
    "EMOTION",
    "FORMAT_VERSION",
    "MELD_LABELS",
    "MODALITIES",
    "RAW_ARRAYS",
    "SCRATCH",
    "SENTIMENT",
    "SPLITS",
    "LabelSet",
    "Modality",
    "Note",
    "NoteAbout",
    "NoteKind",
    "Presence",
    "Sample",
    "SampleMeta",
    "SourceClip",
    "canonical_json",
    "check_key",
]

FORMAT_VERSION = 4
"""Raised by any change of the files that a reader could notice. `docs/format.md` is the normative text."""

Modality = Literal["video", "audio", "text"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
"""The order is part of the format: bit i of a row's `present` is modality i."""

RAW_ARRAYS: Mapping[Modality, str] = MappingProxyType({"video": "frames", "audio": "logmel", "text": "tokens"})
"""What the raw array of a modality is called: in a tar, a `Sample` and a batch."""

SPLITS = ("train", "dev", "test")

DEFAULT_TEXT_ENCODER = "bert-base-uncased"
SCRATCH = "scratch"
"""Name of the tokenizer that is learned from the training texts, and of the small encoder that is trained for it."""

_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet:
    """The classes of one task; a label's index is its place in `names`."""

    task: str
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"label names of {self.task} must differ, got {self.names}")

    def index(self, name: str) -> int:
        """Return the index of `name`; `ValueError` if the task has no such label."""
        if name not in self.names:
            raise ValueError(f"{self.task} has no label {name!r}, only {', '.join(self.names)}")
        return self.names.index(name)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"task": self.task, "names": list(self.names)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LabelSet":
        """Rebuild a label set; `KeyError`, `TypeError` or `ValueError` if the values are not those of one."""
        return cls(task=value["task"], names=tuple(value["names"]))


EMOTION = LabelSet(task="emotion", names=("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"))
SENTIMENT = LabelSet(task="sentiment", names=("negative", "neutral", "positive"))
MELD_LABELS = (EMOTION, SENTIMENT)
"""Alphabetical, the one definition in this project. MELD's README orders its ids and its class weights in two other
ways (https://github.com/declare-lab/MELD/issues/51), so nothing here ever exchanges an index without its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Whether a modality of a sample is there, and why not. An absent one has padding for its array and length 0."""

    present: bool
    reason: str = ""

    def __post_init__(self) -> None:
        if self.present == bool(self.reason):
            raise ValueError(f"a modality has a reason exactly when it is absent, got {self.present}, {self.reason!r}")


PRESENT = Presence(present=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceClip:
    """The file a sample was made from."""

    path: str
    """Relative to the dataset's folder, with forward slashes; empty when the row has no clip."""
    sha256: str
    """Digest of the file's content; empty when the row has no clip."""


NoteAbout = Literal["row", "video", "audio", "text"]
"""What a note is about: the annotation and the choice of the file, or one modality."""

NoteKind = Literal[
    "audio_cut",
    "context_cut",
    "corrected_twin_not_used",
    "corrected_twin_used",
    "damaged",
    "duration_mismatch",
    "hdr",
    "interlaced",
    "long_clip",
    "odd_times",
    "one_frame",
    "other_streams",
    "second_decoder",
    "short_row",
    "sound_changes",
    "sound_gap",
    "surround",
    "text_cut",
    "text_repaired",
    "variable_frame_rate",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One thing worth knowing about a sample that did not stop it from being made."""

    kind: NoteKind
    about: NoteAbout
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleMeta:
    """All of a sample that is not an array; the `.json` member."""

    key: str
    split: str
    dialogue_id: str
    utterance_id: str
    turn_index: int
    """Place among the rows of its dialogue, from 0. Not the utterance id: MELD's have gaps."""
    speaker: str
    text: str
    labels: Mapping[str, str]
    """Label name by task; the index in the file is derived from the split's label sets."""
    num_frames: int
    num_hops: int
    num_tokens: int
    presence: Mapping[Modality, Presence]
    source: SourceClip
    video_seconds: float
    """Length of the clip's picture as measured; 0 when there is none."""
    audio_seconds: float
    """Length of the clip's sound as measured; 0 when there is none."""
    annotated_seconds: float
    """EndTime - StartTime of the annotation; 0 where it does not say."""
    notes: tuple[Note, ...] = ()

    def __post_init__(self) -> None:
        check_key(self.key)
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))
        object.__setattr__(self, "presence", MappingProxyType(dict(self.presence)))

    @property
    def duration_seconds(self) -> float:
        """Length of the clip as measured, the longer of picture and sound; 0 when there is none."""
        return max(self.video_seconds, self.audio_seconds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One utterance after preprocessing.

    Attributes:
        meta: Text, labels, real lengths and where it came from.
        frames: uint8, as they are stored: `(T, H, W, 3)` RGB, or with JPEG storage the bytes `(N,)` of the file.
            `shards.format.codec.pixels` gives `(T, H, W, 3)` of either.
        logmel: `(M, S)` float16, natural log of mel power; zeros after `meta.num_hops`.
        tokens: `(L,)` int32; `pad_id` after `meta.num_tokens`.
        features: `(W,)` float32 of each encoded modality, whose raw array is then empty, `(0,)`.
    """

    meta: SampleMeta
    frames: "NDArray[np.uint8]"
    logmel: "NDArray[np.float16]"
    tokens: "NDArray[np.int32]"
    features: "Mapping[Modality, NDArray[np.float32]]" = field(default_factory=dict)

    def array(self, modality: Modality) -> "NDArray[Any]":
        """Return what is stored of a modality: its features where it is encoded, else its raw array."""
        if modality in self.features:
            return self.features[modality]
        found: NDArray[Any] = getattr(self, RAW_ARRAYS[modality])
        return found


def check_key(key: str) -> None:
    """Refuse a key that a WebDataset reader would misread.

    A dot ends the key there, a slash makes a folder of it, and two samples become one without a word.

    Raises:
        ValueError: if `key` is not 1 to 80 of the characters `A-Za-z0-9_-`.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"a sample key is 1 to 80 of A-Z a-z 0-9 _ -, got {key!r}")


def canonical_json(value: object) -> bytes:
    """Serialise so that equal values give equal bytes: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
