"""Sample <-> bytes of its tar members. Pure: no file, no clock.

Shape letters: T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardCorruptError, describe
from shards.format.frame_jpeg import decode_frame_jpeg
from shards.schema import (
    MODALITIES,
    RAW_ARRAYS,
    LabelSet,
    Modality,
    Note,
    Presence,
    Sample,
    SampleMeta,
    SourceClip,
    canonical_json,
)
from shards.spec import FeatureSpec, VideoSpec

__all__ = [
    "FEATURE_DTYPE",
    "JPEG_MEMBER",
    "RAW_DTYPES",
    "ArrayMember",
    "array_members",
    "decode_meta",
    "decode_sample",
    "encode_sample",
    "member_parts",
    "members",
    "npy_header",
    "pixels",
]

RAW_DTYPES: Mapping[Modality, np.dtype[Any]] = {
    "video": np.dtype("|u1"),
    "audio": np.dtype("<f2"),
    "text": np.dtype("<i4"),
}
"""Dtypes of raw arrays, little-endian on every machine."""

FEATURE_DTYPE = np.dtype("<f4")
"""Dtype of the outputs of encoders."""

JPEG_MEMBER = "frames.jpg"
"""Extension of frames with JPEG storage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayMember:
    """The member that holds the array of one modality: of one kind and shape in all samples of a split."""

    extension: str
    """What follows the key and a dot: `frames.npy`, `frames.jpg`; `video.npy` of an encoded one."""
    shape: tuple[int, ...]
    """Shape of the array in a batch, which a JPEG is decoded to."""
    dtype: np.dtype[Any]

    @property
    def is_raw(self) -> bool:
        """Whether it is what the model is to be given, and not the output of an encoder."""
        return self.extension.partition(".")[0] in RAW_ARRAYS.values()

    @property
    def is_jpeg(self) -> bool:
        """Whether it must be decoded, and its size is another in each sample."""
        return self.extension == JPEG_MEMBER

    @property
    def num_bytes(self) -> int:
        """Size of the array in a batch, without the header of the member."""
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size

    @property
    def header(self) -> bytes:
        """What stands in the member before the values, where this program wrote it: nothing of a JPEG."""
        return b"" if self.is_jpeg else npy_header(self.shape, self.dtype)


def array_members(spec: FeatureSpec) -> dict[Modality, ArrayMember]:
    """Return the member of each modality, in the order in which they stand in the tar."""
    return {name: _array_member(name, spec) for name in MODALITIES}


def _array_member(name: Modality, spec: FeatureSpec) -> ArrayMember:
    if name in spec.encoded:
        return ArrayMember(extension=f"{name}.npy", shape=(spec.encoded[name].width,), dtype=FEATURE_DTYPE)
    is_jpeg = name == "video" and spec.video.storage == "jpeg"
    shapes: Mapping[Modality, tuple[int, ...]] = {
        "video": spec.video.shape,
        "audio": spec.audio.shape,
        "text": spec.text.shape,
    }
    extension = JPEG_MEMBER if is_jpeg else f"{RAW_ARRAYS[name]}.npy"
    return ArrayMember(extension=extension, shape=shapes[name], dtype=RAW_DTYPES[name])


def members(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the extensions of a sample's members in the order in which they stand in the tar."""
    return (*(member.extension for member in array_members(spec).values()), "json")


def member_parts(spec: FeatureSpec) -> tuple[tuple[str, str, int], ...]:
    """Return of each of `members` its modality or `json`, its extension, and its bytes that come before the values."""
    arrays = array_members(spec).items()
    return (*((name, member.extension, len(member.header)) for name, member in arrays), ("json", "json", 0))


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Return the header of a version 1.0 `.npy` file: a constant of a split, because shape and dtype are.

    SourceClip: NEP 1, https://numpy.org/neps/nep-0001-npy-format.html
    """
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def pixels(frames: NDArray[np.uint8], spec: VideoSpec) -> NDArray[np.uint8]:
    """Return the `(T, H, W, 3)` RGB of frames as they are stored.

    Raises:
        ValueError: if a JPEG is not one of `spec`.
    """
    return decode_frame_jpeg(frames, shape=spec.shape) if spec.storage == "jpeg" else frames


def encode_sample(sample: Sample, *, spec: FeatureSpec, label_sets: Sequence[LabelSet]) -> dict[str, bytes]:
    """Return the payload of each of `members`, in that order.

    Raises:
        ValueError: if an array does not have the shape and dtype of `spec` or holds what is no finite number, or a
            label is not in `label_sets`.
    """
    if sample.features.keys() != spec.encoded.keys():
        has, needs = ([*names] or "none" for names in (sample.features, spec.encoded))
        raise ValueError(f"{sample.meta.key}: it has features of {has}, the spec wants them of {needs}")
    payloads = {}
    for name, member in array_members(spec).items():
        array = sample.array(name)
        what = member.extension.partition(".")[0]
        if member.is_jpeg:
            if array.ndim != 1 or array.dtype != member.dtype:
                raise ValueError(
                    f"{sample.meta.key}: {what} must be the bytes of a JPEG, got {array.shape} {array.dtype}"
                )
        elif array.shape != member.shape or array.dtype != member.dtype:
            raise ValueError(
                f"{sample.meta.key}: {what} must be {member.shape} {member.dtype}, got {array.shape} {array.dtype}"
            )
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            num_bad = int((~np.isfinite(array)).sum())
            raise ValueError(f"{sample.meta.key}: {what} holds {num_bad:,} values that are no finite numbers")
        payloads[member.extension] = member.header + np.ascontiguousarray(array).tobytes()
    payloads["json"] = canonical_json(_meta_to_json(sample.meta, label_sets))
    return payloads


def decode_sample(payloads: Mapping[str, bytes | memoryview], *, where: str) -> Sample:
    """Rebuild a sample from the payloads of its members.

    Args:
        payloads: Content by extension, as in `members`.
        where: Shard and key, for the message.

    Raises:
        ShardCorruptError: if a member is missing, is not what its name says, or holds a pickle.
    """
    arrays: dict[str, NDArray[Any]] = {}
    features: dict[Modality, NDArray[np.float32]] = {}
    try:
        for name, dtype in RAW_DTYPES.items():
            if f"{name}.npy" in payloads:
                features[name] = _read_array(bytes(payloads[f"{name}.npy"]), FEATURE_DTYPE)
                arrays[RAW_ARRAYS[name]] = np.empty(0, dtype)
            elif name == "video" and JPEG_MEMBER in payloads:
                arrays["frames"] = np.frombuffer(bytearray(payloads[JPEG_MEMBER]), dtype)
            else:
                arrays[RAW_ARRAYS[name]] = _read_array(bytes(payloads[f"{RAW_ARRAYS[name]}.npy"]), dtype)
        text = payloads["json"]
    except (KeyError, ValueError) as exc:
        raise _unreadable(exc, where) from exc
    return Sample(meta=decode_meta(text, where=where), **arrays, features=features)


def decode_meta(text: bytes | memoryview, *, where: str) -> SampleMeta:
    """Rebuild the metadata of a sample from its `.json` member.

    Raises:
        ShardCorruptError: if it is not what `encode_sample` writes.
    """
    try:
        return _meta_from_json(json.loads(bytes(text)))
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise _unreadable(exc, where) from exc


_SHAPE = re.compile(rb"'shape': \(([0-9, ]+)\)")


def _read_array(payload: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read what `encode_sample` wrote, and nothing else: a pickle has another header.

    Not by `np.load`: it evaluates the header, and of a damaged one it raised `TokenError`, `SyntaxError`, `TypeError`.
    """
    found = _SHAPE.search(payload, 0, 256)
    shape = tuple(int(size) for size in found[1].split(b",") if size.strip()) if found else ()
    header = npy_header(shape, dtype)
    if not payload.startswith(header):
        raise ValueError(f"an array does not begin with the .npy header of {dtype} values")
    return np.frombuffer(bytearray(payload), dtype, offset=len(header)).reshape(shape)


def _unreadable(exc: Exception, where: str) -> ShardCorruptError:
    what = f"a sample cannot be read: {type(exc).__name__}: {exc}"
    return ShardCorruptError(describe(what, file=where, then="run `mmsent verify`"))


def _meta_to_json(meta: SampleMeta, label_sets: Sequence[LabelSet]) -> dict[str, Any]:
    tasks = {labels.task for labels in label_sets}
    if set(meta.labels) != tasks:
        raise ValueError(f"{meta.key}: labels must be of {sorted(tasks)}, got {sorted(meta.labels)}")
    return {
        "annotated_seconds": meta.annotated_seconds,
        "audio_seconds": meta.audio_seconds,
        "dialogue_id": meta.dialogue_id,
        "key": meta.key,
        "labels": {
            labels.task: {"index": labels.index(meta.labels[labels.task]), "name": meta.labels[labels.task]}
            for labels in label_sets
        },
        "notes": [{"about": note.about, "detail": note.detail, "kind": note.kind} for note in meta.notes],
        "num_frames": meta.num_frames,
        "num_hops": meta.num_hops,
        "num_tokens": meta.num_tokens,
        "presence": {
            name: {"present": meta.presence[name].present, "reason": meta.presence[name].reason} for name in MODALITIES
        },
        "source": {"path": meta.source.path, "sha256": meta.source.sha256},
        "speaker": meta.speaker,
        "split": meta.split,
        "text": meta.text,
        "turn_index": meta.turn_index,
        "utterance_id": meta.utterance_id,
        "video_seconds": meta.video_seconds,
    }


def _meta_from_json(value: dict[str, Any]) -> SampleMeta:
    value = dict(value)
    value["labels"] = {task: label["name"] for task, label in value["labels"].items()}
    value["presence"] = {name: Presence(**value["presence"][name]) for name in MODALITIES}
    value["source"] = SourceClip(**value["source"])
    value["notes"] = tuple(Note(**note) for note in value["notes"])
    return SampleMeta(**value)
