"""What an older shard of the same name already holds of the rows that are to be in the new one."""

import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from preprocess.building.kept import RecordedShard
from preprocess.clips.extract import MEDIA, Extract, Feature, Medium
from shards.errors import ShardError
from shards.format.codec import JPEG_MEMBER, decode_sample
from shards.schema import RAW_ARRAYS, Sample
from shards.writing.shard_writer import read_rows

__all__ = ["OldShard", "open_old_shard"]


@contextmanager
def open_old_shard(path: Path, recorded: RecordedShard | None) -> Iterator["OldShard"]:
    """Open what an earlier run left of a shard, which may be nothing that can be used.

    Args:
        path: The tar.
        recorded: What `preprocess.building.kept.recorded_shard` says, given the spec of the shard to make.
    """
    with ExitStack() as stack:
        members: dict[str, _Members] = {}
        if recorded is not None:
            # Trouble with an old shard is none: it costs the making of all its samples.
            with suppress(OSError, ShardError, tarfile.TarError, ValueError):
                rows = read_rows(path)
                tar = stack.enter_context(tarfile.open(path, "r:"))
                members = _members(tar, rows)
        yield OldShard(members, recorded)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Members:
    """The files of one sample in a tar, and its row of the samples table."""

    tar: tarfile.TarFile
    files: tuple[tarfile.TarInfo, ...]
    row: Any


class OldShard:
    """A whole shard with its origin, open for taking arrays out of it.

    An array is good if it was made in the way and from the files that a new one would be, and if its sample still has
    the bytes that were written: a shard with a flipped byte gives all its other samples.
    """

    def __init__(self, members: Mapping[str, _Members], recorded: RecordedShard | None) -> None:
        """Use `open_old_shard`."""
        self._members = members
        self._recorded = recorded

    def extract(self, key: str, source: str) -> Extract:
        """Take what is good, which may be nothing, of a row whose clips have the digest `source`."""
        sample = None
        if self._recorded is not None and key in self._members:
            media = [medium for medium in MEDIA if self._recorded.source(key, medium) == source]
            sample = _sample(key, self._members[key]) if media else None
        if sample is None:
            return Extract(path="", notes=(), features={})
        # A short row is noted anew: it follows from the annotation alone.
        notes = tuple(note for note in sample.meta.notes if note.about == "row" and note.kind != "short_row")
        features = {medium: _feature(sample, medium) for medium in media}
        return Extract(path=sample.meta.source.path, notes=notes, features=features)


def _members(tar: tarfile.TarFile, rows: NDArray[Any]) -> dict[str, _Members]:
    found = tar.getmembers()
    size = len(found) // len(rows)
    if len(found) != size * len(rows):
        raise ValueError(f"{len(found)} members for {len(rows)} samples")
    groups = [tuple(found[place * size : (place + 1) * size]) for place in range(len(rows))]
    return {
        files[0].name.partition(".")[0]: _Members(tar=tar, files=files, row=row)
        for files, row in zip(groups, rows, strict=True)
    }


def _sample(key: str, members: _Members) -> Sample | None:
    """Read a sample and hold it against its CRC-32; None if it is damaged."""
    payloads: dict[str, bytes] = {}
    crc32 = 0
    try:
        for member in members.files:
            extension = member.name.partition(".")[2]
            file = members.tar.extractfile(member)
            payloads[extension] = file.read() if file is not None else b""
            header_bytes = int(members.row[_OFFSET_OF[extension]]) - member.offset_data
            crc32 = zlib.crc32(memoryview(payloads[extension])[header_bytes:], crc32)
        sample = decode_sample(payloads, where=key)
    except (KeyError, OSError, ShardError, tarfile.TarError, ValueError):
        return None
    return sample if crc32 == members.row["crc32"] else None


_OFFSET_OF = {
    JPEG_MEMBER: "video_offset",
    "json": "json_offset",
    **{f"{array}.npy": f"{name}_offset" for name, array in RAW_ARRAYS.items()},
}
"""The field of the samples table that says where the values of a member begin, by extension."""


def _feature(sample: Sample, medium: Medium) -> Feature:
    meta = sample.meta
    array: NDArray[Any] = sample.frames if medium == "video" else sample.logmel
    presence = meta.presence[medium]
    return Feature(
        array=array if presence.present else array.ravel()[:0],
        length=meta.num_frames if medium == "video" else meta.num_hops,
        presence=presence,
        seconds=meta.video_seconds if medium == "video" else meta.audio_seconds,
        notes=tuple(note for note in meta.notes if note.about == medium),
    )
