"""The samples of a shard as a stranger finds them: by the headers of the tar, without index or table."""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import ShardError
from shards.format.codec import array_members, decode_sample, encode_sample, member_parts, pixels
from shards.format.index import Index
from shards.format.samples_table import sample_row

__all__ = ["CheckedSample", "check_tar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedSample:
    """What was found in the place of one sample."""

    key: str
    row: tuple[Any, ...]
    """What the samples table must say of it; empty if there is a problem."""
    problem: str
    """What is wrong, in words; empty if it is a sample of the split, byte by byte."""


def check_tar(path: Path, *, index: Index, num_samples: int) -> Iterator[CheckedSample]:
    """Decode every sample of a tar, write it again in memory, and compare.

    Args:
        path: The tar.
        index: That of the split: only its name, spec and label sets are used.
        num_samples: How many samples there must be. If there are not, that is the only problem.

    Raises:
        OSError: if the file cannot be read.
        tarfile.TarError: if it is no tar.
    """
    parts = member_parts(index.spec)
    extensions = [extension for _, extension, _ in parts]
    are_jpegs = array_members(index.spec)["video"].is_jpeg
    with tarfile.open(path, "r:") as tar:
        found = tar.getmembers()
        if len(found) != num_samples * len(extensions):
            what = f"holds {len(found)} members, {num_samples} samples need {num_samples * len(extensions)}"
            yield CheckedSample(key="", row=(), problem=what)
            return
        for number in range(num_samples):
            group = found[number * len(extensions) : (number + 1) * len(extensions)]
            key = group[0].name.partition(".")[0]
            if [member.name for member in group] != [f"{key}.{extension}" for extension in extensions]:
                what = f"sample {number} has members {[member.name for member in group]}"
                yield CheckedSample(key=key, row=(), problem=what)
                continue
            payloads: dict[str, bytes] = {}
            offsets: dict[str, int] = {}
            sizes: dict[str, int] = {}
            crc32 = 0
            for (name, extension, header_bytes), member in zip(parts, group, strict=True):
                file = tar.extractfile(member)
                payload = file.read() if file is not None else b""
                payloads[extension] = payload
                offsets[name] = member.offset_data + header_bytes
                sizes[name] = len(payload) - header_bytes
                crc32 = zlib.crc32(memoryview(payload)[header_bytes:], crc32)
            try:
                sample = decode_sample(payloads, where=f"{path}, {key}")
                if are_jpegs:
                    pixels(sample.frames, index.spec.video)
                as_written = encode_sample(sample, spec=index.spec, label_sets=index.label_sets)
            except (ShardError, ValueError) as exc:
                yield CheckedSample(key=key, row=(), problem=f"{key}: {str(exc).splitlines()[0]}")
                continue
            if sample.meta.key != key or sample.meta.split != index.split or as_written != payloads:
                yield CheckedSample(key=key, row=(), problem=f"{key}: its members do not fit each other and the index")
                continue
            row = sample_row(sample.meta, offsets=offsets, sizes=sizes, crc32=crc32, label_sets=index.label_sets)
            yield CheckedSample(key=key, row=row, problem="")
