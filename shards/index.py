"""What a split consists of: `index.json`, written last, and one binary sidecar per shard.

See `docs/format.md` for the normative text.
"""

import contextlib
import hashlib
import io
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import FormatVersionError, ShardCorruptError, ShardError, describe
from shards.schema import FORMAT_VERSION, MODALITIES, FeatureSpec, LabelSet, SampleMeta, canonical_json

__all__ = [
    "INDEX_NAME",
    "Index",
    "ShardInfo",
    "publish",
    "read_index",
    "read_sidecar",
    "sha256_file",
    "sidecar_dtype",
    "sidecar_name",
    "sidecar_row",
    "split_directories",
    "write_index",
]

INDEX_NAME = "index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One shard of a split, as its index and its record describe it."""

    name: str
    bytes: int
    num_samples: int
    sha256: str
    sidecar_sha256: str
    inputs_sha256: str
    """Of the rows and the content of the clips it was made from; `preprocess.plan` defines it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """All that a reader must know of a split before it opens a shard."""

    split: str
    spec: FeatureSpec
    label_sets: tuple[LabelSet, ...]
    shards: tuple[ShardInfo, ...]

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)


def sidecar_name(shard_name: str) -> str:
    """Return the sidecar's file name: `train-00000.tar` -> `train-00000.sidecar.npy`."""
    return f"{shard_name.removesuffix('.tar')}.sidecar.npy"


def sidecar_dtype(num_tasks: int) -> np.dtype[Any]:
    """Return the dtype of a sidecar's rows, one per sample, in the order of the shard.

    Offsets are those of the array's first value in the tar, past the `.npy` header; `present` has bit i for
    `MODALITIES[i]`; `crc32` is over the values of frames, logmel, tokens and the json, in that order.
    """
    return np.dtype(
        [
            ("frames_offset", "<i8"),
            ("logmel_offset", "<i8"),
            ("tokens_offset", "<i8"),
            ("json_offset", "<i8"),
            ("frames_bytes", "<i4"),
            ("json_bytes", "<i4"),
            ("crc32", "<u4"),
            ("num_frames", "<i4"),
            ("num_hops", "<i4"),
            ("num_tokens", "<i4"),
            ("present", "|u1"),
            ("labels", "<i2", (num_tasks,)),
        ]
    )


def sidecar_row(
    meta: SampleMeta,
    *,
    offsets: Mapping[str, int],
    sizes: Mapping[str, int],
    crc32: int,
    label_sets: Sequence[LabelSet],
) -> tuple[Any, ...]:
    """Return the sidecar row of one sample; offsets and sizes of values by member: frames, logmel, tokens, json."""
    return (
        *(offsets[name] for name in ("frames", "logmel", "tokens", "json")),
        sizes["frames"],
        sizes["json"],
        crc32,
        meta.num_frames,
        meta.num_hops,
        meta.num_tokens,
        sum(meta.presence[name].present << bit for bit, name in enumerate(MODALITIES)),
        tuple(labels.index(meta.labels[labels.task]) for labels in label_sets),
    )


def read_sidecar(directory: Path, shard: ShardInfo, *, num_tasks: int) -> NDArray[Any]:
    """Return the rows of a shard's sidecar, `(num_samples,)` of `sidecar_dtype`.

    Raises:
        ShardCorruptError: if the file is missing, is not the one that was written, or does not describe
            `shard.num_samples` samples.
    """
    path = directory / sidecar_name(shard.name)
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise ShardCorruptError(describe(f"a sidecar cannot be read: {exc}", file=path, then=_REMAKE)) from exc
    if hashlib.sha256(raw).hexdigest() != shard.sidecar_sha256:  # labels and lengths come from here alone
        what = f"{path.name}: its SHA-256 is not the one in the index"
        raise ShardCorruptError(describe(what, file=path, then=_REMAKE))
    rows: NDArray[Any] = np.load(io.BytesIO(raw), allow_pickle=False)
    if rows.dtype != sidecar_dtype(num_tasks) or rows.shape != (shard.num_samples,):
        what = f"a sidecar holds {rows.shape} rows of another kind than the {shard.num_samples} its index says"
        raise ShardCorruptError(describe(what, file=path, then=_REMAKE))
    return rows


def write_index(directory: Path, index: Index) -> None:
    """Publish `index.json`: the split is finished from this moment on."""
    publish(directory / INDEX_NAME, _index_bytes(index))


def read_index(directory: Path) -> Index:
    """Read and check the index of a split.

    Raises:
        ShardError: if there is none.
        FormatVersionError: if it is of another format version.
        ShardCorruptError: if it is not the one that was written.
    """
    path = directory / INDEX_NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError as exc:
        if not directory.is_dir():
            what, then = "there is no such split", "check the path, or run `mmsent preprocess`"
        else:
            what, then = "the split has no index, so it is not finished", "run `mmsent preprocess` again to finish it"
        raise ShardError(describe(what, file=path, then=then)) from exc
    try:
        value = json.loads(raw)
        version = value["format_version"]
    except (ValueError, KeyError, TypeError) as exc:
        raise ShardCorruptError(describe(f"the index is damaged: {exc}", file=path, then=_REMAKE)) from exc
    if version != FORMAT_VERSION:
        what = f"the shards are of format version {version}, this program reads {FORMAT_VERSION}"
        then = "make them again with `mmsent preprocess`, or use the mmsent that made them"
        raise FormatVersionError(describe(what, file=path, then=then))
    try:
        index = Index(
            split=value["split"],
            spec=FeatureSpec.from_json(value["spec"]),
            label_sets=tuple(LabelSet(task=item["task"], names=tuple(item["names"])) for item in value["label_sets"]),
            shards=tuple(ShardInfo(**item) for item in value["shards"]),
        )
        as_written = _index_bytes(index)
    except (KeyError, TypeError, ValueError, ShardError) as exc:
        raise ShardCorruptError(describe(f"the index is damaged: {exc}", file=path, then=_REMAKE)) from exc
    if raw != as_written:
        what = "the index is not the one that was written: its content does not give its digest"
        raise ShardCorruptError(describe(what, file=path, then=_REMAKE))
    return index


def split_directories(directory: Path) -> dict[str, Path]:
    """Return the finished splits of a folder of shards by name, in the order train, dev, test, then others.

    Raises:
        ShardError: if there is none.
    """
    found = sorted(path.parent for path in directory.glob(f"*/{INDEX_NAME}"))
    if not found:
        what = "no finished split is here" if directory.is_dir() else "there is no such folder of shards"
        then = f"give the folder that `mmsent preprocess --out` made; looked for */{INDEX_NAME}"
        raise ShardError(describe(what, file=directory, then=then))
    order = {"train": 0, "dev": 1, "test": 2}
    return {path.name: path for path in sorted(found, key=lambda path: (order.get(path.name, 3), path.name))}


def publish(path: Path, content: bytes) -> None:
    """Write a file so that it has either its old content or all of the new one, also after a power cut."""
    # Its own name for each process on each machine: parts of a run write some files at the same time.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as exc:
        then = "make room or choose another folder, and run the same command again"
        raise ShardError(describe(f"cannot write: {exc.strerror or exc}", file=path, then=then)) from exc
    finally:
        with contextlib.suppress(OSError):  # renamed, or on a disk that became read-only
            temporary.unlink()
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the renames in a folder durable; a rename alone may be lost with the power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_REMAKE = "copy it again, or delete the split's folder and run `mmsent preprocess`"


def _index_bytes(index: Index) -> bytes:
    """Serialise an index for people and for diff, with a digest over its content."""
    value = {
        "format_version": FORMAT_VERSION,
        "split": index.split,
        "num_samples": index.num_samples,
        "label_sets": [{"task": labels.task, "names": list(labels.names)} for labels in index.label_sets],
        "spec": index.spec.to_json(),
        "shards": [asdict(shard) for shard in index.shards],
    }
    value["sha256"] = hashlib.sha256(canonical_json(value)).hexdigest()
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
