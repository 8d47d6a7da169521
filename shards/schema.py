"""The contract between `preprocess` and `mmsent`: what a sample is and how its arrays were made.

Shape letters: T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from shards.errors import ShardError, describe

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
    "AudioSpec",
    "Difference",
    "Encoding",
    "FeatureSpec",
    "LabelSet",
    "Modality",
    "Note",
    "NoteAbout",
    "NoteKind",
    "Presence",
    "Sample",
    "SampleMeta",
    "Sampling",
    "Scale",
    "Source",
    "Storage",
    "TextSpec",
    "VideoSpec",
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

Sampling = Literal["uniform-time", "first"]
Storage = Literal["raw", "jpeg"]
Scale = Literal["log", "standardised-power"]

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


EMOTION = LabelSet(task="emotion", names=("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"))
SENTIMENT = LabelSet(task="sentiment", names=("negative", "neutral", "positive"))
MELD_LABELS = (EMOTION, SENTIMENT)
"""Alphabetical, the one definition in this project. MELD's README orders its ids and its class weights in two other
ways (https://github.com/declare-lab/MELD/issues/51), so nothing here ever exchanges an index without its name."""


def _provenance() -> str:
    """Mark a field that says which program made the arrays, not what they mean; see `FeatureSpec.differences`."""
    return field(metadata={"provenance": True})  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """How `frames` were made: uint8 RGB `(T, H, W, 3)`."""

    num_frames: int
    height: int
    width: int
    sampling: Sampling
    """`uniform-time`: frame i is the one shown at (i + 0.5) / T of the clip; a shorter clip repeats its last.
    `first`: the first T frames; a shorter clip is filled with black ones."""
    storage: Storage
    """`raw`: the values. `jpeg`: one JPEG of all frames, one below the other, `(T * H, W, 3)`."""
    jpeg_quality: int
    """1 to 100; 0 with raw storage."""
    decoder: str
    decoder_version: str = _provenance()
    encoder_version: str = _provenance()
    """Of the JPEG encoder; empty with raw storage."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(T, H, W, 3)`."""
        return (self.num_frames, self.height, self.width, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSpec:
    """How `logmel` was made: float16 `(M, S)`, zeros after the real hops."""

    num_mels: int
    num_hops: int
    sample_rate: int
    n_fft: int
    hop_length: int
    scale: Scale
    """`log`: `log(mel power + log_epsilon)`. `standardised-power`: mel power without a logarithm, less its mean and
    divided by its standard deviation over all values of the clip."""
    log_epsilon: float
    downmix: str
    """`itu`: ITU-R BS.775 weights normalised to one, so the centre channel is heard and nothing clips."""
    decoder: str
    decoder_version: str = _provenance()
    transform_version: str = _provenance()

    @property
    def shape(self) -> tuple[int, int]:
        """`(M, S)`."""
        return (self.num_mels, self.num_hops)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """How `tokens` were made: int32 `(L,)`, special tokens included, `pad_id` after the real tokens."""

    tokenizer: str
    """Hugging Face name, name of the local folder (not its path), or `scratch`, learned from the training texts."""
    tokenizer_sha256: str
    vocab_size: int
    pad_id: int
    max_tokens: int
    normalisation: str
    """`cp1252`: C1 control characters replaced by what cp1252 meant by them."""
    context_utterances: int
    """Earlier utterances of the dialogue whose tokens stand before an utterance's own, at most; 0 for none. Above 0
    every utterance begins with its speaker; `docs/format.md` has the layout."""

    @property
    def shape(self) -> tuple[int]:
        """`(L,)`."""
        return (self.max_tokens,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How the output of an encoder was made of a raw array: float32 `(W,)`, zeros where the modality is absent."""

    encoder: str
    """Its name, like `r3d_18` or `bert-base-uncased`."""
    weights_sha256: str
    """Over the state dict of what was run: two encoders of one name may have learned different things."""
    pooling: str
    """How one vector was made of many tokens; empty unless it is text."""
    width: int
    """W."""
    precision: str = _provenance()
    """`fp32`, `bf16` or `fp16`: of the forward pass, whatever the numbers are stored in."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field in which two specs disagree."""

    field: str
    ours: object
    theirs: object

    def __str__(self) -> str:
        return f"{self.field}: {self.ours!r} against {self.theirs!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Everything that decides the bytes of a sample's arrays. Stored in every index and checkpoint."""

    video: VideoSpec
    audio: AudioSpec
    text: TextSpec
    encoded: Mapping[Modality, Encoding] = field(default_factory=dict, hash=False)
    """Modalities of which a sample has the output of an encoder in place of the raw array; the part of such a one still
    says how the encoder's input was made. Not to be changed, though it is a plain dict, which a worker can be sent."""

    def __post_init__(self) -> None:
        if unknown := set(self.encoded) - set(MODALITIES):
            raise ValueError(f"encoded may name {', '.join(MODALITIES)}, got {sorted(unknown)}")
        in_order = {name: self.encoded[name] for name in MODALITIES if name in self.encoded}
        object.__setattr__(self, "encoded", in_order)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return plain values, nested as the dataclasses are."""
        parts: dict[str, dict[str, Any]] = {name: _plain(getattr(self, name)) for name in MODALITIES}
        return {**parts, "encoded": {name: _plain(encoding) for name, encoding in self.encoded.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Mapping[str, Any]]) -> "FeatureSpec":
        """Rebuild a spec.

        Raises:
            ShardError: if a field is missing or unknown.
        """
        try:
            encoded: Mapping[Any, Mapping[str, Any]] = value["encoded"]
            return cls(
                video=VideoSpec(**value["video"]),
                audio=AudioSpec(**value["audio"]),
                text=TextSpec(**value["text"]),
                encoded={name: Encoding(**said) for name, said in encoded.items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise ShardError(describe(f"a feature spec does not have the expected fields: {exc}")) from exc

    def differences(self, other: "FeatureSpec", *, provenance: bool) -> list[Difference]:
        """List the fields in which two specs disagree, by dotted name.

        Args:
            other: The spec to compare with.
            provenance: Also compare the versions of the programs that made the arrays. They decide bytes, so a shard of
                another version is not kept in place of a new one; they do not decide meaning, so weights still fit.
        """
        found = []
        for name in MODALITIES:
            found += _differences(name, getattr(self, name), getattr(other, name), provenance=provenance)
        for name in MODALITIES:
            ours, theirs = self.encoded.get(name), other.encoded.get(name)
            if ours is not None and theirs is not None:
                found += _differences(f"encoded.{name}", ours, theirs, provenance=provenance)
            elif ours is not theirs:
                made = [f"outputs of {encoding.encoder}" if encoding else "raw" for encoding in (ours, theirs)]
                found.append(Difference(field=f"encoded.{name}", ours=made[0], theirs=made[1]))
        return found

    def fingerprints(self) -> dict[str, str]:
        """Return the SHA-256 of each part, provenance included, as hex: arrays of equal ones can be used again."""
        found: dict[str, str] = {}
        for name in MODALITIES:
            part = _plain(getattr(self, name))
            if name in self.encoded:
                part["encoded"] = _plain(self.encoded[name])
            found[name] = hashlib.sha256(canonical_json(part)).hexdigest()
        return found


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
class Source:
    """The file a sample was made from."""

    path: str
    """Relative to the dataset's folder, with forward slashes; empty when the row has no clip."""
    sha256: str
    """Of the file's content; empty when the row has no clip."""


NoteAbout = Literal["row", "video", "audio", "text"]
"""What a note is about: the annotation and the choice of the file, or one modality."""

NoteKind = Literal[
    "audio_cut",
    "context_cut",
    "corrected_twin_not_used",
    "corrected_twin_used",
    "duration_mismatch",
    "long_clip",
    "one_frame",
    "second_decoder",
    "short_row",
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
    source: Source
    video_seconds: float
    """Of the clip's picture as measured; 0 when there is none."""
    audio_seconds: float
    """Of the clip's sound as measured; 0 when there is none."""
    annotated_seconds: float
    """EndTime - StartTime of the annotation; 0 where it does not say."""
    notes: tuple[Note, ...] = ()

    def __post_init__(self) -> None:
        check_key(self.key)
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))
        object.__setattr__(self, "presence", MappingProxyType(dict(self.presence)))

    @property
    def duration_seconds(self) -> float:
        """Of the clip as measured, the longer of picture and sound; 0 when there is none."""
        return max(self.video_seconds, self.audio_seconds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One utterance after preprocessing.

    Attributes:
        meta: Text, labels, real lengths and where it came from.
        frames: uint8, as they are stored: `(T, H, W, 3)` RGB, or with JPEG storage the bytes `(N,)` of the file.
            `shards.codec.pixels` gives `(T, H, W, 3)` of either.
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


_Part = VideoSpec | AudioSpec | TextSpec | Encoding


def _differences(prefix: str, ours: _Part, theirs: _Part, *, provenance: bool) -> list[Difference]:
    found = []
    for item in fields(ours):
        if item.metadata.get("provenance") and not provenance:
            continue
        a, b = getattr(ours, item.name), getattr(theirs, item.name)
        if a != b:
            found.append(Difference(field=f"{prefix}.{item.name}", ours=a, theirs=b))
    return found


def _plain(part: _Part) -> dict[str, Any]:
    return {item.name: getattr(part, item.name) for item in fields(part)}
