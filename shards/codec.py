"""Sample <-> bytes of its tar members. Pure: no file, no clock.

Shape letters: T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardCorruptError, describe
from shards.schema import (
    MODALITIES,
    FeatureSpec,
    LabelSet,
    Note,
    Presence,
    Sample,
    SampleMeta,
    Source,
    Storage,
    VideoSpec,
    canonical_json,
)
from shards.strip import decode_strip

__all__ = [
    "ARRAY_MEMBERS",
    "array_shapes",
    "decode_meta",
    "decode_sample",
    "encode_sample",
    "header_sizes",
    "members",
    "npy_header",
    "pixels",
]

ARRAY_MEMBERS: Mapping[str, np.dtype[Any]] = {
    "frames": np.dtype("|u1"),
    "logmel": np.dtype("<f2"),
    "tokens": np.dtype("<i4"),
}
"""Arrays of a sample and their dtypes, little-endian on every machine."""


def members(storage: Storage) -> tuple[str, ...]:
    """Return the extensions of a sample's members in the order in which they stand in the tar."""
    return ("frames.jpg" if storage == "jpeg" else "frames.npy", "logmel.npy", "tokens.npy", "json")


def array_shapes(spec: FeatureSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array, the same in every sample: `(T, H, W, 3)`, `(M, S)`, `(L,)`."""
    return {"frames": spec.video.shape, "logmel": spec.audio.shape, "tokens": spec.text.shape}


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Return the header of a version 1.0 `.npy` file: a constant of a split, because shape and dtype are.

    Source: NEP 1, https://numpy.org/neps/nep-0001-npy-format.html
    """
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def header_sizes(spec: FeatureSpec) -> dict[str, int]:
    """Return for each array the bytes of its member that come before the values: none of a JPEG's."""
    return {
        name: 0 if _is_jpeg(name, spec) else len(npy_header(shape, ARRAY_MEMBERS[name]))
        for name, shape in array_shapes(spec).items()
    }


def pixels(frames: NDArray[np.uint8], spec: VideoSpec) -> NDArray[np.uint8]:
    """Return the `(T, H, W, 3)` RGB of frames as they are stored.

    Raises:
        ValueError: if a JPEG is not one of `spec`.
    """
    return decode_strip(frames, shape=spec.shape) if spec.storage == "jpeg" else frames


def encode_sample(sample: Sample, *, spec: FeatureSpec, label_sets: Sequence[LabelSet]) -> dict[str, bytes]:
    """Return the payload of each of `members`, in that order.

    Raises:
        ValueError: if an array does not have the shape and dtype of `spec`, or a label is not in `label_sets`.
    """
    payloads = {}
    for name, shape in array_shapes(spec).items():
        array: NDArray[Any] = getattr(sample, name)
        dtype = ARRAY_MEMBERS[name]
        if _is_jpeg(name, spec):
            if array.ndim != 1 or array.dtype != dtype:
                raise ValueError(
                    f"{sample.meta.key}: frames must be the bytes of a JPEG, got {array.shape} {array.dtype}"
                )
            payloads["frames.jpg"] = array.tobytes()
            continue
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{sample.meta.key}: {name} must be {shape} {dtype}, got {array.shape} {array.dtype}")
        payloads[f"{name}.npy"] = npy_header(shape, dtype) + np.ascontiguousarray(array).tobytes()
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
    try:
        arrays = {
            name: np.frombuffer(bytearray(payloads["frames.jpg"]), dtype)
            if name == "frames" and "frames.jpg" in payloads
            else _read_array(bytes(payloads[f"{name}.npy"]), dtype)
            for name, dtype in ARRAY_MEMBERS.items()
        }
        text = payloads["json"]
    except (KeyError, ValueError) as exc:
        raise _unreadable(exc, where) from exc
    return Sample(meta=decode_meta(text, where=where), **arrays)


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


def _is_jpeg(name: str, spec: FeatureSpec) -> bool:
    return name == "frames" and spec.video.storage == "jpeg"


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
    value["source"] = Source(**value["source"])
    value["notes"] = tuple(Note(**note) for note in value["notes"])
    return SampleMeta(**value)
