"""One shard: fixed order, reproducible bytes, published by rename."""

import contextlib
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardCorruptError, ShardError, describe
from shards.files import publish, sha256_file, sync_directory
from shards.format.codec import encode_sample, member_parts
from shards.format.index import ShardInfo
from shards.format.samples_table import row_dtype, sample_row, table_pieces
from shards.schema import LabelSet, Sample, canonical_json
from shards.spec import FeatureSpec

__all__ = ["Origin", "read_record", "read_rows", "record_path", "rows_path", "shard_name", "write_shard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the arrays of a shard were made from, in digests; the maker defines them and alone reads them."""

    rows_sha256: str
    """Digest of the annotations: its rows and the label sets."""
    inputs_sha256: str
    """Digest of all that decides the shard, besides the spec; empty when it should be made again."""
    fingerprints: Mapping[str, str]
    """How each modality was made: `FeatureSpec.fingerprints`."""
    sources: Mapping[str, Mapping[str, str]]
    """Digest of the files that an array was made from, by key and modality; none for one that should be made again."""


def shard_name(split: str, number: int) -> str:
    """Return the file name of a shard: `train`, 7 -> `train-00007.tar`."""
    return f"{split}-{number:05d}.tar"


def record_path(path: Path) -> Path:
    """Return where the record of a shard lies: `train/train-00007.tar` -> `train/.work/train-00007.json`.

    Records are bookkeeping of the making, no part of the format: a copy of the split may leave them out.
    """
    return path.parent / ".work" / f"{path.stem}.json"


def rows_path(path: Path) -> Path:
    """Return where the rows of a shard lie until its split is finished, and for the next run, beside its record."""
    return path.parent / ".work" / f"{path.stem}.npy"


def write_shard(
    path: Path,
    samples: Iterable[Sample],
    *,
    spec: FeatureSpec,
    label_sets: Sequence[LabelSet],
    origin: Callable[[], Origin],
) -> ShardInfo:
    """Write samples into one tar, its rows and its record, as they come, holding one in memory at a time.

    Everything goes to temporary names first. The record is renamed last and says that the shard is whole:
    a crash at any point leaves either no record or a good shard.

    Args:
        path: Final path of the tar.
        samples: Samples in their final order.
        spec: What the arrays must look like.
        label_sets: Tasks and their label names.
        origin: Called once after the last sample, when the content of all clips is known.

    Raises:
        ShardError: if the disk is full or cannot be written.
        ValueError: if a sample does not fit `spec` or `label_sets`, or a key comes twice.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _disk_trouble_named(path):
            raw = temporary.open("wb")
        try:
            writer = _TarWriter(raw, spec=spec, label_sets=label_sets)
            for sample in samples:  # trouble in here is the trouble of the samples, not of the disk that is written
                with _disk_trouble_named(path):
                    writer.add(sample)
            with _disk_trouble_named(path):
                writer.finish()
                raw.flush()
                os.fsync(raw.fileno())
        finally:
            with _disk_trouble_named(path):
                raw.close()
        rows = writer.table()
        made_from = origin()
        info = ShardInfo(
            name=path.name,
            bytes=writer.offset,
            num_samples=len(writer.rows),
            sha256=writer.digest.hexdigest(),
            inputs_sha256=made_from.inputs_sha256,
        )
        record = record_path(path)
        with _disk_trouble_named(path):
            if record.is_file():  # that of an older shard is not true of what is here between the renames
                record.unlink()
                sync_directory(record.parent)
            record.parent.mkdir(exist_ok=True)
            publish(rows_path(path), rows)
            temporary.replace(path)
            sync_directory(path.parent)
    finally:
        with contextlib.suppress(OSError):  # gone already, or on a disk that became read-only
            temporary.unlink()
    content = {"shard": asdict(info), "table_sha256": hashlib.sha256(rows).hexdigest(), "origin": asdict(made_from)}
    publish(record, canonical_json(content))
    return info


def read_record(path: Path) -> tuple[ShardInfo, Origin] | None:
    """Return what is recorded of the shard at `path` if that is whole, else `None`: it must be made.

    A record that cannot be read only costs the making of its shard, so it is no error.
    """
    try:
        record = json.loads(record_path(path).read_bytes())
        info = ShardInfo(**record["shard"])
        said = record["origin"]
        origin = Origin(
            rows_sha256=said["rows_sha256"],
            inputs_sha256=said["inputs_sha256"],
            fingerprints=dict(said["fingerprints"]),
            sources={key: dict(digests) for key, digests in said["sources"].items()},
        )
        if path.stat().st_size != info.bytes:
            return None
        if sha256_file(rows_path(path)) != record["table_sha256"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return info, origin


def read_rows(path: Path) -> NDArray[Any]:
    """Return the rows of the recorded shard at `path`: `(num_samples,)` of `shards.format.samples_table.row_dtype`.

    Raises:
        ShardCorruptError: if there are none, or they are not those that were recorded.
    """
    rows = rows_path(path)
    try:
        expected = json.loads(record_path(path).read_bytes())["table_sha256"]
        raw = rows.read_bytes()
        if hashlib.sha256(raw).hexdigest() != expected:
            raise ValueError("their SHA-256 is not the one in the record")
        return np.asarray(np.load(io.BytesIO(raw), allow_pickle=False))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        then = "run `mmsent preprocess` again, which makes this shard again"
        what = f"the rows of {path.name} cannot be read: {exc}"
        raise ShardCorruptError(describe(what, file=rows, then=then)) from exc


@contextlib.contextmanager
def _disk_trouble_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        then = "make room or choose another folder, and run the same command again: finished shards are kept"
        raise ShardError(describe(f"cannot write a shard: {exc.strerror or exc}", file=path, then=then)) from exc


class _TarWriter:
    """Append samples to a stream as a ustar archive, keeping offsets, rows and the digest.

    Python's `tarfile` writes the same headers but hides where the payload begins, and webdataset's writer sorts members
    by name; the loader needs the offsets and docs/format.md promises an order.
    """

    def __init__(self, raw: BinaryIO, *, spec: FeatureSpec, label_sets: Sequence[LabelSet]) -> None:
        self.offset = 0
        self.digest = hashlib.sha256()
        self.rows: list[tuple[object, ...]] = []
        self._keys: set[str] = set()
        self._raw = raw
        self._spec = spec
        self._label_sets = label_sets
        self._parts = member_parts(spec)

    def add(self, sample: Sample) -> None:
        """Write the members of one sample."""
        key = sample.meta.key
        if key in self._keys:
            raise ValueError(f"key {key} comes twice in a shard")
        self._keys.add(key)
        offsets: dict[str, int] = {}
        sizes: dict[str, int] = {}
        crc32 = 0
        payloads = encode_sample(sample, spec=self._spec, label_sets=self._label_sets)
        for name, extension, header_bytes in self._parts:
            payload = payloads[extension]
            offsets[name] = self._write_member(f"{key}.{extension}", payload) + header_bytes
            sizes[name] = len(payload) - header_bytes
            crc32 = zlib.crc32(memoryview(payload)[header_bytes:], crc32)
        self.rows.append(
            sample_row(sample.meta, offsets=offsets, sizes=sizes, crc32=crc32, label_sets=self._label_sets)
        )

    def finish(self) -> None:
        """Write the end of the archive: two zero blocks, then zeros up to a whole record, as POSIX tar does."""
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self.offset + end) % tarfile.RECORDSIZE))

    def table(self) -> bytes:
        """Return the table of the samples that were added."""
        num_tasks = len(self._label_sets)
        rows = np.array(self.rows, dtype=row_dtype(num_tasks))
        return b"".join(table_pieces((rows,), num_samples=len(rows), num_tasks=num_tasks))

    def _write_member(self, name: str, payload: bytes) -> int:
        """Write one member and return the offset of its payload."""
        member = tarfile.TarInfo(name)  # owner, group and time are 0: the bytes depend on the content alone
        member.size = len(payload)
        member.mode = 0o644
        self._write(member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
        start = self.offset
        self._write(payload)
        self._write(bytes(-len(payload) % tarfile.BLOCKSIZE))
        return start

    def _write(self, content: bytes) -> None:
        self._raw.write(content)
        self.digest.update(content)
        self.offset += len(content)
