"""A finished split, opened by its index: sizes are checked at once, payloads are views of mapped files.

Shape letters: T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardCorruptError, ShardError, describe
from shards.format.codec import RAW_DTYPES, array_members, decode_meta, pixels
from shards.schema import MODALITIES, RAW_ARRAYS, LabelSet, Modality, Sample, SampleMeta
from shards.spec import FeatureSpec
from shards.storage.local import LocalSource
from shards.storage.source import Source

__all__ = ["Places", "Split", "copy_bytes", "present", "read_split"]


def copy_bytes(payload: NDArray[np.uint8], copy: NDArray[np.uint8]) -> None:
    """Copy bytes, many of them word by word in a loop of NumPy's.

    An assignment ends in the C library's memcpy, which on AMD Zen processors uses `rep movsb`: a plain loop was
    seen 1.2 to 1.3 times as fast, from mapped pages into batches that are not in its cache (`benchmarks/copying.py`).
    """
    if payload.nbytes < _MANY_BYTES or payload.nbytes % 8:
        copy[:] = payload
    else:
        np.positive(payload.view(np.uint64), out=copy.view(np.uint64))


_MANY_BYTES = 64 * 1024
"""Below it either way takes as long as a call."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Where some samples are.

    Attributes:
        samples: `(B,)` int64, place of each in the split.
        rows: `(B,)`, what the split says of each.
        shards: `(B,)` int64, number of the shard of each.
    """

    samples: NDArray[np.int64]
    rows: NDArray[Any]
    shards: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.samples)

    def part(self, start: int, stop: int) -> "Places":
        """Return those from `start` to `stop - 1`, as far as there are any."""
        return Places(samples=self.samples[start:stop], rows=self.rows[start:stop], shards=self.shards[start:stop])


class Split:
    """Random access to the samples of a split.

    Attributes:
        source: Where it is.
        index: What is there.
        files: Its shards.
        shard_ends: `(shards,)` int64, samples up to and with each shard.
        rows: `(num_samples,)` of `shards.format.samples_table.row_dtype`, read-only and mapped: the samples table.
        arrays: The member of each modality.
    """

    def __init__(self, source: Path | Source) -> None:
        """Open a split: its folder, or where else it is.

        Raises:
            ShardError: if it has no index, or another format version, or cannot be reached.
            ShardCorruptError: if a shard is missing or has another size than the index says, or if the samples table is
                not the one that was written.
        """
        self.source: Source = LocalSource(source) if isinstance(source, Path) else source
        self.index = self.source.index()
        self.files = self.source.files(self.index)
        if not self.index.num_samples:
            then = "check the annotations"
            raise ShardError(describe("the split has no samples", file=self.source.location, then=then))
        self.rows = self.source.table(self.index)
        self.shard_ends = np.cumsum([shard.num_samples for shard in self.index.shards])
        self.arrays = array_members(self.spec)
        self._num_bytes = {name: member.num_bytes for name, member in self.arrays.items()}

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
        return present(self.rows)

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

    def array_payload(self, name: Modality, sample: int) -> NDArray[np.uint8]:
        """Return the bytes of one modality of one sample, `(bytes,)`, a view of the mapped shard: nothing is copied.

        With JPEG storage those of video are the JPEG's.
        """
        start = int(self.rows[f"{name}_offset"][sample])
        size = int(self.rows["video_bytes"][sample]) if name == "video" else self._num_bytes[name]
        return self._shard_bytes(sample)[start : start + size]

    def places(self, samples: NDArray[np.int64]) -> Places:
        """Look up where samples `(B,)` are.

        Raises:
            ShardCorruptError: if a shard that was opened before was cut, written to, replaced or deleted since then.
        """
        shards = np.searchsorted(self.shard_ends, samples, side="right")
        for number in np.unique(shards).tolist():
            self.files.check_unchanged(number)
        return Places(samples=samples, rows=self.rows[samples], shards=shards)

    def copy_arrays(self, places: Places, arrays: Mapping[Modality, NDArray[Any]]) -> None:
        """Copy arrays of samples out of the shards; a JPEG is decoded on the way.

        NumPy releases the GIL while it copies, Pillow while it decodes.

        Args:
            places: Where B samples lie.
            arrays: Memory to fill of some modalities, contiguous `(B, …)` of the shape and dtype in `self.arrays`.

        Raises:
            ShardCorruptError: if a JPEG cannot be decoded.
        """
        shards = [self.files.bytes_of(number) for number in places.shards.tolist()]
        for name, array in arrays.items():
            if self.arrays[name].is_jpeg:
                self._decode_frames(places, array)
                continue
            size = self._num_bytes[name]
            offsets = places.rows[f"{name}_offset"].tolist()
            copies = array.reshape(-1).view(np.uint8).reshape(len(array), size)
            for shard, offset, copy in zip(shards, offsets, copies, strict=True):
                copy_bytes(shard[offset : offset + size], copy)

    def check_arrays(self, places: Places, arrays: Mapping[Modality, NDArray[Any]]) -> None:
        """Compare what `copy_arrays` copied, and what it left, with the CRC-32 of each sample.

        Raises:
            ShardCorruptError: if the bytes are not the ones that were written.
        """
        for row, sample in enumerate(places.samples.tolist()):
            crc32 = 0
            for name, member in self.arrays.items():
                copied = name in arrays and not member.is_jpeg
                payload = arrays[name][row].reshape(-1).view(np.uint8) if copied else self.array_payload(name, sample)
                crc32 = zlib.crc32(payload.data, crc32)
            self._check_crc32(sample, zlib.crc32(self._json(sample), crc32))

    def _decode_frames(self, places: Places, frames: NDArray[Any]) -> None:
        for row, sample in enumerate(places.samples.tolist()):
            try:
                frames[row] = pixels(self.array_payload("video", sample), self.spec.video)
            except ValueError as exc:
                what = f"the frames of sample {sample} of the split cannot be decoded: {exc}"
                then = "run `mmsent verify`"
                raise ShardCorruptError(describe(what, file=self.shard_of(sample), then=then)) from exc

    def sample(self, sample: int) -> Sample:
        """Decode one sample, checked against its CRC-32.

        Raises:
            ShardCorruptError: if its bytes are not the ones that were written, or as `places`.
        """
        self.files.check_unchanged(self._shard_number(sample))
        arrays: dict[str, NDArray[Any]] = {}
        features: dict[Modality, NDArray[np.float32]] = {}
        crc32 = 0
        for name, member in self.arrays.items():
            values = self.array_payload(name, sample)
            crc32 = zlib.crc32(values.data, crc32)
            array = np.frombuffer(bytearray(values), member.dtype)
            if name in self.spec.encoded:
                features[name] = array
                arrays[RAW_ARRAYS[name]] = np.empty(0, RAW_DTYPES[name])
            else:
                arrays[RAW_ARRAYS[name]] = array if member.is_jpeg else array.reshape(member.shape)
        text = self._json(sample)
        self._check_crc32(sample, zlib.crc32(text, crc32))
        return Sample(meta=self._meta_of(sample, text), **arrays, features=features)

    def meta(self, sample: int) -> SampleMeta:
        """Decode what is known of one sample, without its arrays.

        Raises:
            ShardCorruptError: if the json is not one, or as `places`.
        """
        self.files.check_unchanged(self._shard_number(sample))
        return self._meta_of(sample, self._json(sample))

    def metas(self) -> Iterator[SampleMeta]:
        """Decode what is known of all samples, in order.

        By reads of a few hundred bytes: a map of a shard would bring in the arrays around each of them, and they would
        count as memory of this process.

        Raises:
            ShardCorruptError: if one is no json, or a shard changed its size.
        """
        for number, shard in enumerate(self.index.shards):
            end = int(self.shard_ends[number])
            rows = self.rows[end - shard.num_samples : end]
            spans = zip(rows["json_offset"].tolist(), rows["json_bytes"].tolist(), strict=True)
            for sample, text in enumerate(self.files.pieces(number, spans), end - shard.num_samples):
                yield self._meta_of(sample, text)

    def shard_of(self, sample: int) -> str:
        """Return the path or URL of the tar that holds a sample."""
        return self.files.where(self._shard_number(sample))

    def _check_crc32(self, sample: int, crc32: int) -> None:
        if crc32 != self.rows["crc32"][sample]:
            what = f"sample {sample} of the split is damaged: its CRC-32 is not the one in the samples table"
            raise ShardCorruptError(describe(what, file=self.shard_of(sample), then="run `mmsent verify`"))

    def _meta_of(self, sample: int, text: bytes) -> SampleMeta:
        return decode_meta(text, where=f"{self.shard_of(sample)}, sample {sample}")

    def _json(self, sample: int) -> bytes:
        start = int(self.rows["json_offset"][sample])
        return self._shard_bytes(sample)[start : start + int(self.rows["json_bytes"][sample])].tobytes()

    def _shard_number(self, sample: int) -> int:
        return int(np.searchsorted(self.shard_ends, sample, side="right"))

    def _shard_bytes(self, sample: int) -> NDArray[np.uint8]:
        return self.files.bytes_of(self._shard_number(sample))


def present(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return `(B, 3)`, True where a modality of a row `(B,)` is there, in the order of `MODALITIES`."""
    bits = np.arange(len(MODALITIES), dtype=np.uint8)
    return (rows["present"][:, None] >> bits & 1).astype(np.bool_)


def read_split(directory: Path) -> Iterator[Sample]:
    """Decode every sample of a split in the order of its shards.

    Raises:
        ShardError: as `Split` and `Split.sample` do; never fewer samples than the index says.
    """
    split = Split(directory)
    for sample in range(len(split)):
        yield split.sample(sample)
