"""What a split consists of: `index.json`, written last.

See `docs/format.md` for the normative text.
"""

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.errors import FormatVersionError, ShardCorruptError, ShardError, describe
from shards.schema import FORMAT_VERSION, FeatureSpec, LabelSet, canonical_json

__all__ = [
    "INDEX_NAME",
    "Index",
    "ShardInfo",
    "parse_index",
    "publish",
    "publish_pieces",
    "read_index",
    "remove_index",
    "sha256_file",
    "split_directories",
    "sweep",
    "sync_directory",
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
    inputs_sha256: str
    """Of the rows and the content of the clips it was made from; `preprocess.plan` defines it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """All that a reader must know of a split before it opens a shard."""

    split: str
    spec: FeatureSpec
    label_sets: tuple[LabelSet, ...]
    shards: tuple[ShardInfo, ...]
    samples_sha256: str
    """Of the samples table, the file."""

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)


def write_index(directory: Path, index: Index) -> None:
    """Publish `index.json`: the split is finished from this moment on."""
    publish(directory / INDEX_NAME, _index_bytes(index))


def remove_index(directory: Path) -> None:
    """Make a split unfinished, durably: what comes after may change its shards."""
    (directory / INDEX_NAME).unlink(missing_ok=True)
    sync_directory(directory)


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
    return parse_index(raw, path=str(path))


def parse_index(raw: bytes, *, path: str) -> Index:
    """Check the content of an `index.json`; arguments are that and where it is from, for the message.

    Raises:
        FormatVersionError, ShardCorruptError: as `read_index`.
    """
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
        sha256 = value.pop("sha256")
        # Of the canonical form, which is fast to make: with tens of thousands of shards the indented one takes seconds.
        as_written = sha256 == hashlib.sha256(canonical_json(value)).hexdigest()
        index = Index(
            split=value["split"],
            spec=FeatureSpec.from_json(value["spec"]),
            label_sets=tuple(LabelSet(task=item["task"], names=tuple(item["names"])) for item in value["label_sets"]),
            shards=tuple(ShardInfo(**item) for item in value["shards"]),
            samples_sha256=value["samples_sha256"],
        )
    except (AttributeError, KeyError, TypeError, ValueError, ShardError) as exc:
        raise ShardCorruptError(describe(f"the index is damaged: {exc}", file=path, then=_REMAKE)) from exc
    if not as_written:
        what = "the index is not the one that was written: its content does not give its digest"
        raise ShardCorruptError(describe(what, file=path, then=_REMAKE))
    return index


def split_directories(directory: Path) -> dict[str, Path]:
    """Return the finished splits of a folder of shards by name, in the order train, dev, test, then others.

    Raises:
        ShardError: if there is none.
    """
    found = sorted(path.parent for path in directory.glob(f"*/{INDEX_NAME}"))
    if not found and (directory / INDEX_NAME).is_file():
        what = "this is one split, not a folder of splits"
        then = f"give the folder above it, {directory.absolute().parent}"
        raise ShardError(describe(what, file=directory, then=then))
    if not found:
        what = "no finished split is here" if directory.is_dir() else "there is no such folder of shards"
        then = f"give the folder that `mmsent preprocess --out` made; looked for */{INDEX_NAME}"
        raise ShardError(describe(what, file=directory, then=then))
    order = {"train": 0, "dev": 1, "test": 2}
    return {path.name: path for path in sorted(found, key=lambda path: (order.get(path.name, 3), path.name))}


def publish(path: Path, content: bytes) -> None:
    """Write a file so that it has either its old content or all of the new one, also after a power cut."""
    publish_pieces(path, (content,))


def publish_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Do what `publish` does with content that comes piece by piece; what they raise leaves the old content."""
    # Its own name for each process on each machine: parts of a run write some files at the same time.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
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


def sweep(out: Path) -> None:
    """Remove from a folder of splits what a run that was killed had not yet renamed; for who is alone in the folder."""
    for pattern in (".*.tmp", "*/.*.tmp", "*/.work/.*.tmp"):
        for path in out.glob(pattern):
            path.unlink(missing_ok=True)


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
        "samples_sha256": index.samples_sha256,
    }
    value["sha256"] = hashlib.sha256(canonical_json(value)).hexdigest()
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
