"""Read what other programs put into a tar: strictly, but without our order of members, headers or json.

Of how the arrays were made such a tar says nothing. The spec of a split of them says `unknown` and 0 in those places.

Shape letters: T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import ast
import json
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from shards.codec import ArrayMember
from shards.schema import (
    MODALITIES,
    AudioSpec,
    Encoding,
    FeatureSpec,
    Modality,
    Presence,
    SampleMeta,
    Sampling,
    Scale,
    Source,
    Storage,
    TextSpec,
    VideoSpec,
)

__all__ = [
    "UNKNOWN",
    "Label",
    "SampleFacts",
    "WholeTarInfo",
    "foreign_meta",
    "foreign_spec",
    "full_lengths",
    "is_foreign",
    "read_facts",
    "read_npy",
    "read_npy_header",
]

UNKNOWN = "unknown"
"""In a spec, in place of every text that the tars do not tell; numbers are 0."""

_MAX_HEADER = 10_000
"""Bytes of a `.npy` header; NumPy's own limit. Ours have 118."""

_LENGTH_OF: Mapping[Modality, str] = {"video": "num_frames", "audio": "num_hops", "text": "num_tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a json says of one task; `index` is -1 where it tells the name alone."""

    name: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFacts:
    """What the json of a sample says that a batch needs."""

    labels: Mapping[str, Label]
    lengths: tuple[int, int, int]
    """Real frames, hops and tokens."""
    present: tuple[bool, bool, bool]
    """In the order of `MODALITIES`."""
    dialogue_id: str
    """Empty where it does not say."""


class WholeTarInfo(tarfile.TarInfo):
    """A member of a tar that ends with its end mark; for `tarfile.open(..., tarinfo=WholeTarInfo)`.

    `tarfile` takes a header that is cut off, damaged or missing for the end of the archive. WebDataset 1.0.2 reads so,
    and of a shard cut at 161 places it returned fewer samples for 32 without an error.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "WholeTarInfo":
        """Read the next header; only a block of zeros is the end.

        Raises:
            tarfile.ReadError: if there is something else, or nothing.
        """
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.EOFHeaderError, tarfile.SubsequentHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as exc:
            raise tarfile.ReadError(f"{exc} in place of the archive's end mark") from exc


def foreign_spec(
    *,
    shapes: Mapping[Modality, tuple[int, ...]],
    storage: Storage,
    vocab_size: int,
    widths: Mapping[Modality, int] = MappingProxyType({}),
) -> FeatureSpec:
    """Return the spec of tars that tell shapes alone.

    Args:
        shapes: `(T, H, W, 3)` of video, `(M, S)` of audio, `(L,)` of text; of those that are not encoded.
        storage: Of the frames.
        vocab_size: Above every token id.
        widths: Of each modality that is encoded, how many numbers there are in place of its raw array.
    """
    num_frames, height, width, _ = shapes.get("video", (0, 0, 0, 3))
    num_mels, num_hops = shapes.get("audio", (0, 0))
    (max_tokens,) = shapes.get("text", (0,))
    return FeatureSpec(
        video=VideoSpec(
            num_frames=num_frames,
            height=height,
            width=width,
            sampling=cast("Sampling", UNKNOWN),  # what preprocessing can be asked for is one of its own
            storage=storage,
            jpeg_quality=0,
            decoder=UNKNOWN,
            decoder_version=UNKNOWN,
            encoder_version=UNKNOWN,
        ),
        audio=AudioSpec(
            num_mels=num_mels,
            num_hops=num_hops,
            sample_rate=0,
            n_fft=0,
            hop_length=0,
            scale=cast("Scale", UNKNOWN),
            log_epsilon=0.0,
            downmix=UNKNOWN,
            decoder=UNKNOWN,
            decoder_version=UNKNOWN,
            transform_version=UNKNOWN,
        ),
        text=TextSpec(
            tokenizer=UNKNOWN,
            tokenizer_sha256=UNKNOWN,
            vocab_size=vocab_size,
            pad_id=0,
            max_tokens=max_tokens,
            normalisation=UNKNOWN,
            context_utterances=0,
        ),
        encoded={
            name: Encoding(encoder=UNKNOWN, weights_sha256=UNKNOWN, pooling="", width=size, precision=UNKNOWN)
            for name, size in widths.items()
        },
    )


def is_foreign(spec: FeatureSpec) -> bool:
    """Return whether a split is of tars that another program wrote, with a json that may have less in it than ours."""
    return spec.video.decoder == UNKNOWN


def foreign_meta(payload: bytes | memoryview, *, key: str, split: str, spec: FeatureSpec) -> SampleMeta:
    """Return what the json of a foreign sample tells; the rest is empty, 0, or as `read_facts` has it.

    Raises:
        ValueError: as `read_facts` does, or if `key` is not one of our grammar.
    """
    facts = read_facts(payload, full=full_lengths(spec))
    value = json.loads(bytes(payload))

    return SampleMeta(
        key=key,
        split=split,
        dialogue_id=facts.dialogue_id,
        utterance_id=_text(value, "utterance_id"),
        turn_index=0,
        speaker=_text(value, "speaker"),
        text=_text(value, "text"),
        labels={task: label.name for task, label in facts.labels.items()},
        num_frames=facts.lengths[0],
        num_hops=facts.lengths[1],
        num_tokens=facts.lengths[2],
        presence={
            name: Presence(present=there, reason="" if there else "marked absent in the tar")
            for name, there in zip(MODALITIES, facts.present, strict=True)
        },
        source=Source(path="", sha256=""),
        video_seconds=0.0,
        audio_seconds=0.0,
        annotated_seconds=0.0,
    )


def full_lengths(spec: FeatureSpec) -> tuple[int, int, int]:
    """Return `(T, S, L)`; 0 where an encoder's output is all that is known."""
    return spec.video.num_frames, spec.audio.num_hops, spec.text.max_tokens


def read_npy_header(head: bytes | memoryview) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Read the header of a `.npy` file of version 1, 2 or 3.

    Not by NumPy: of a damaged header it raised `TokenError`, `SyntaxError` and `TypeError`.

    Args:
        head: The beginning of the file: all of it, or at least 10,012 bytes.

    Returns:
        The dtype, the shape, and the byte at which the values begin.

    Raises:
        ValueError: if it is no such header, or the values are not in C order or are Python objects.

    Source: NEP 1, https://numpy.org/neps/nep-0001-npy-format.html
    """
    head = bytes(head[: _MAX_HEADER + 12])
    if head[:6] != b"\x93NUMPY" or head[6:7] not in {b"\x01", b"\x02", b"\x03"}:
        raise ValueError("it does not begin as a .npy file of version 1, 2 or 3 does")
    kind, start = ("<H", 10) if head[6] == 1 else ("<I", 12)
    if len(head) < start:
        raise ValueError("its .npy header is cut off")
    end = start + struct.unpack_from(kind, head, 8)[0]
    if end > len(head):
        raise ValueError("its .npy header is cut off or larger than any of ours")
    try:
        value = ast.literal_eval(head[start:end].decode("latin1").strip())
        descr, fortran_order, shape = value["descr"], value["fortran_order"], value["shape"]
        dtype = np.dtype(str(descr))
        sizes = tuple(shape)
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError(f"{shape} is no shape")
    except (SyntaxError, ValueError, TypeError, KeyError, MemoryError, RecursionError) as exc:
        raise ValueError("its .npy header is damaged or describes no plain array") from exc
    if fortran_order is not False and len(sizes) > 1:
        raise ValueError("its values are in Fortran order; save `numpy.ascontiguousarray(array)`")
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never read")
    return dtype, sizes, end


def read_npy(payload: bytes | memoryview, member: ArrayMember) -> NDArray[Any]:
    """Return the values of a `.npy` file as a view.

    Args:
        payload: The whole file.
        member: What it must hold.

    Raises:
        ValueError: if it is no `.npy` file, has another shape or dtype, or more or fewer values than it says.
    """
    dtype, found, start = read_npy_header(payload)
    if dtype != member.dtype or found != member.shape:
        raise ValueError(f"it is {found} {dtype.str}, the spec says {member.shape} {member.dtype.str}")
    if len(payload) - start != member.num_bytes:
        needed = f"{member.shape} {member.dtype.str} needs"
        raise ValueError(f"it holds {len(payload) - start:,} bytes of values, not what {needed}")
    return np.frombuffer(payload, member.dtype, offset=start).reshape(member.shape)


def read_facts(payload: bytes | memoryview, *, full: tuple[int, int, int]) -> SampleFacts:
    """Read a json member, ours or one with less in it.

    `labels` has by task a name, or `{"name": …}` with or without an `index`. A modality is present unless `presence`
    says that it is not. `num_frames`, `num_hops` and `num_tokens` are the full lengths, or 0 for what is absent, unless
    they are there. Where the full length is 0, so is the real one, whatever it says.

    Args:
        payload: The json.
        full: As `full_lengths` has it.

    Raises:
        ValueError: if it is no json object, or a value in it is none of these.
    """
    value = json.loads(bytes(payload))
    if not isinstance(value, dict):
        raise ValueError("it is no json object")
    presence = _mapping(value.get("presence", {}), "presence")
    present = tuple(_present(presence.get(name, {}), name) for name in MODALITIES)
    lengths = tuple(
        _length(value.get(_LENGTH_OF[name], size if there else 0), _LENGTH_OF[name], at_most=size) if size else 0
        for name, size, there in zip(MODALITIES, full, present, strict=True)
    )
    labels = {task: _label(item, task) for task, item in _mapping(value.get("labels", {}), "labels").items()}
    dialogue_id = _text(value, "dialogue_id")
    return SampleFacts(labels=labels, lengths=lengths, present=present, dialogue_id=dialogue_id)  # type: ignore[arg-type]


def _text(value: Mapping[str, Any], name: str) -> str:
    said = value.get(name, "")
    return str(said) if isinstance(said, str | int) else ""


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'"{name}" is no json object')
    return value


def _present(value: object, name: str) -> bool:
    said = _mapping(value, f"presence of {name}").get("present", True)
    if not isinstance(said, bool):
        raise ValueError(f'"present" of {name} is {said!r}, neither true nor false')
    return said


def _length(value: object, name: str, *, at_most: int) -> int:
    if type(value) is not int or not 0 <= value <= at_most:
        raise ValueError(f'"{name}" is {value!r}, not a number from 0 to {at_most}')
    return value


def _label(value: object, task: str) -> Label:
    name, index = (value.get("name"), value.get("index", -1)) if isinstance(value, dict) else (value, -1)
    if not isinstance(name, str) or not name or type(index) is not int or index < -1:
        raise ValueError(f'the label of {task} is {value!r}; needed is a name, or {{"name": …, "index": …}}')
    return Label(name=name, index=index)
