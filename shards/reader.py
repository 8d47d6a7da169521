"""A finished split, opened by its index: sizes are checked at once, payloads are views of mapped files.

Shape letters: T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import hashlib
import mmap
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.codec import ARRAY_MEMBERS, array_shapes, decode_meta, pixels
from shards.errors import ShardCorruptError, ShardError, describe
from shards.foreign import foreign_meta, is_foreign
from shards.index import Index, ShardInfo, read_index
from shards.scan import key_of
from shards.schema import MODALITIES, FeatureSpec, LabelSet, Sample, SampleMeta
from shards.table import read_table

__all__ = ["Split", "map_file", "read_split"]

_MAX_MAPPED = 128
"""Shards open at a time: far below the 256 to 1,024 files that systems allow a process."""


class Split:
    """Random access to the samples of a split.

    Attributes:
        directory: The split's folder.
        index: What the folder holds.
        rows: `(num_samples,)` of `shards.table.row_dtype`, read-only and mapped: the samples table.
    """

    def __init__(self, directory: Path) -> None:
        """Open a split.

        Raises:
            ShardError: if it has no index, or another format version.
            ShardCorruptError: if a shard is missing or has another size than the index says, or if the samples table is
                not the one that was written.
        """
        self.directory = directory
        self.index: Index = read_index(directory)
        _check_sizes(directory, self.index.shards)
        if not self.index.num_samples:
            raise ShardError(describe("the split has no samples", file=directory, then="check the annotations"))
        self.rows: NDArray[Any] = read_table(
            directory,
            sha256=self.index.samples_sha256,
            num_samples=self.index.num_samples,
            num_tasks=len(self.index.label_sets),
        )
        self._starts = np.cumsum([0, *(shard.num_samples for shard in self.index.shards)])
        # Bounded, because each map holds a file descriptor; a view of a map that was dropped keeps it alive.
        self._mapped = lru_cache(_MAX_MAPPED)(self._map)
        self._array_bytes = {
            name: int(np.prod(shape)) * ARRAY_MEMBERS[name].itemsize for name, shape in array_shapes(self.spec).items()
        }

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def spec(self) -> FeatureSpec:
        """How the arrays were made."""
        return self.index.spec

    @property
    def label_sets(self) -> tuple[LabelSet, ...]:
        """Tasks and their label names, in the order of the rows' `labels`."""
        return self.index.label_sets

    def label_counts(self) -> dict[str, dict[str, int]]:
        """Count the samples of each label by task and name, without touching a payload."""
        return {
            labels.task: {name: int((self.rows["labels"][:, task] == i).sum()) for i, name in enumerate(labels.names)}
            for task, labels in enumerate(self.label_sets)
        }

    def present(self) -> NDArray[np.bool_]:
        """Return `(num_samples, 3)`, True where a modality is there, in the order of `MODALITIES`."""
        bits = np.arange(len(MODALITIES), dtype=np.uint8)
        return (self.rows["present"][:, None] >> bits & 1).astype(np.bool_)

    @property
    def content_sha256(self) -> str:
        """Digest of every byte of the samples, in order."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.index.shards).encode()).hexdigest()

    def differences(self, spec: FeatureSpec, label_sets: Sequence[LabelSet]) -> list[str]:
        """List in what samples of `spec` and `label_sets` are not like those of this split: theirs against ours."""
        found = [str(item) for item in spec.differences(self.spec, provenance=False)]
        for theirs, ours in zip(label_sets, self.label_sets, strict=False):
            if theirs != ours:
                found.append(f"labels of {theirs.task}: {theirs.names} against {ours.names}")
        if len(label_sets) != len(self.label_sets):
            found.append(f"tasks: {len(label_sets)} against {len(self.label_sets)}")
        return found

    def array_payload(self, name: str, sample: int) -> NDArray[np.uint8]:
        """Return the bytes of one array of one sample, `(bytes,)`, a view of the mapped shard: nothing is copied.

        With JPEG storage those of `frames` are the JPEG's.
        """
        start = int(self.rows[f"{name}_offset"][sample])
        size = int(self.rows["frames_bytes"][sample]) if name == "frames" else self._array_bytes[name]
        return self._shard_bytes(sample)[start : start + size]

    def copy_array(self, name: str, sample: int, out: NDArray[Any]) -> None:
        """Copy one array of one sample into `out`, contiguous and of its shape and dtype; a JPEG is decoded on the way.

        Raises:
            ShardCorruptError: if a JPEG cannot be decoded.
        """
        payload = self.array_payload(name, sample)
        if name != "frames" or self.spec.video.storage == "raw":
            out.reshape(-1).view(np.uint8)[:] = payload
            return
        try:
            out[:] = pixels(payload, self.spec.video)
        except ValueError as exc:
            what = f"the frames of sample {sample} of the split cannot be decoded: {exc}"
            raise ShardCorruptError(describe(what, file=self.shard_path(sample), then="run `mmsent verify`")) from exc

    def sample(self, sample: int) -> Sample:
        """Decode one sample, checked against its CRC-32.

        Raises:
            ShardCorruptError: if its bytes are not the ones that were written.
        """
        arrays = {}
        crc32 = 0
        for name, shape in array_shapes(self.spec).items():
            values = self.array_payload(name, sample)
            crc32 = zlib.crc32(values.data, crc32)
            array = np.frombuffer(bytearray(values), ARRAY_MEMBERS[name])
            arrays[name] = array if name == "frames" and self.spec.video.storage == "jpeg" else array.reshape(shape)
        text = self._json(sample)
        if zlib.crc32(text, crc32) != self.rows["crc32"][sample]:
            what = f"sample {sample} of the split is damaged: its CRC-32 is not the one in the samples table"
            raise ShardCorruptError(describe(what, file=self.shard_path(sample), then="run `mmsent verify`"))
        return Sample(meta=self._meta_of(sample, text), **arrays)

    def meta(self, sample: int) -> SampleMeta:
        """Decode what is known of one sample, without its arrays.

        Raises:
            ShardCorruptError: if the json is not one.
        """
        return self._meta_of(sample, self._json(sample))

    def metas(self) -> Iterator[SampleMeta]:
        """Decode what is known of all samples, in order.

        By reads of a few hundred bytes: a map of a shard would bring in the arrays around each of them, and they would
        count as memory of this process.

        Raises:
            ShardCorruptError: if one is no json, or a shard changed its size.
        """
        for number, shard in enumerate(self.index.shards):
            path = self.directory / shard.name
            _check_size(path, shard)
            with path.open("rb") as file:
                for sample in range(int(self._starts[number]), int(self._starts[number + 1])):
                    file.seek(int(self.rows["json_offset"][sample]))
                    text = file.read(int(self.rows["json_bytes"][sample]))
                    yield self._meta_of(sample, text)

    def shard_path(self, sample: int) -> Path:
        """Return the tar that holds a sample."""
        return self.directory / self.index.shards[self._shard_number(sample)].name

    def _meta_of(self, sample: int, text: bytes) -> SampleMeta:
        where = f"{self.shard_path(sample)}, sample {sample}"
        if not is_foreign(self.spec):
            return decode_meta(text, where=where)
        # Only the tar tells the key: in the header that ends where the json begins.
        start = int(self.rows["json_offset"][sample])
        header = self._shard_bytes(sample)[start - tarfile.BLOCKSIZE : start].tobytes()
        key, _ = key_of(header[:100].partition(b"\0")[0].decode("utf-8", "replace"))
        try:
            return foreign_meta(text, key=key, split=self.index.split, spec=self.spec)
        except ValueError as exc:
            what = f"a sample cannot be read: {exc}"
            raise ShardCorruptError(describe(what, file=where, then="run `mmsent verify`")) from exc

    def _json(self, sample: int) -> bytes:
        start = int(self.rows["json_offset"][sample])
        return self._shard_bytes(sample)[start : start + int(self.rows["json_bytes"][sample])].tobytes()

    def _shard_number(self, sample: int) -> int:
        return int(np.searchsorted(self._starts, sample, side="right")) - 1

    def _shard_bytes(self, sample: int) -> NDArray[np.uint8]:
        return self._mapped(self._shard_number(sample))

    def _map(self, number: int) -> NDArray[np.uint8]:
        shard = self.index.shards[number]
        path = self.directory / shard.name
        _check_size(path, shard)
        return map_file(path)


def read_split(directory: Path) -> Iterator[Sample]:
    """Decode every sample of a split in the order of its shards.

    Raises:
        ShardError: as `Split` and `Split.sample` do; never fewer samples than the index says.
    """
    split = Split(directory)
    for sample in range(len(split)):
        yield split.sample(sample)


def map_file(path: Path) -> NDArray[np.uint8]:
    """Return the content of a file as `(bytes,)`, read-only and mapped: pages are read when they are touched."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


def _check_sizes(directory: Path, shards: Sequence[ShardInfo]) -> None:
    """Check all shards by one look at the folder: a question for each path costs seconds with tens of thousands."""
    with os.scandir(directory) as entries:
        found = {entry.name: entry for entry in entries}
    for shard in shards:
        try:
            size = found[shard.name].stat().st_size
        except (KeyError, FileNotFoundError) as exc:  # the latter for a link that leads nowhere
            raise _missing(directory / shard.name) from exc
        if size != shard.bytes:
            raise _other_size(directory / shard.name, shard, size)


def _check_size(path: Path, shard: ShardInfo) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as exc:
        raise _missing(path) from exc
    if size != shard.bytes:
        raise _other_size(path, shard, size)


def _missing(path: Path) -> ShardCorruptError:
    then = "copy it again, or run `mmsent preprocess` to make it"
    return ShardCorruptError(describe("a shard of the index is missing", file=path, then=then))


def _other_size(path: Path, shard: ShardInfo, size: int) -> ShardCorruptError:
    what = f"shard {shard.name} holds {size:,} bytes, its index says {shard.bytes:,}"
    then = "copy it again, or delete it and its split's index.json and run `mmsent preprocess`"
    return ShardCorruptError(describe(what, file=path, then=then))
