"""How the arrays of a split were made: everything that decides their bytes.

Shape letters: T frames, H height, W width (of an encoding: its width), M mel bins, S hops, L tokens.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from shards.errors import ShardError, describe
from shards.schema import MODALITIES, Modality, canonical_json

__all__ = [
    "AudioSpec",
    "Difference",
    "Encoding",
    "FeatureSpec",
    "Sampling",
    "Scale",
    "Storage",
    "TextSpec",
    "VideoSpec",
]

Sampling = Literal["uniform-time", "first"]
Storage = Literal["raw", "jpeg"]
Scale = Literal["log", "standardised-power"]


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
    """Version of the JPEG encoder; empty with raw storage."""

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


_AnySpec = VideoSpec | AudioSpec | TextSpec | Encoding


def _differences(prefix: str, ours: _AnySpec, theirs: _AnySpec, *, provenance: bool) -> list[Difference]:
    found = []
    for item in fields(ours):
        if item.metadata.get("provenance") and not provenance:
            continue
        a, b = getattr(ours, item.name), getattr(theirs, item.name)
        if a != b:
            found.append(Difference(field=f"{prefix}.{item.name}", ours=a, theirs=b))
    return found


def _plain(spec: _AnySpec) -> dict[str, Any]:
    return {item.name: getattr(spec, item.name) for item in fields(spec)}
