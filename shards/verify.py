"""A full pass over a split: sizes, digests, every member of every sample."""

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.codec import decode_sample, encode_sample, header_sizes, members, pixels
from shards.errors import ShardError
from shards.index import INDEX_NAME, Index, ShardInfo, read_index, read_sidecar, sidecar_name, sidecar_row
from shards.reader import map_file

__all__ = ["Problem", "SplitCheck", "verify_split"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is not as it was written."""

    file: str
    what: str
    remake: bool
    """Whether the file is a shard of the index, which can be made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCheck:
    """What a pass over one split found."""

    split: str
    num_shards: int
    num_samples: int
    num_bytes: int
    problems: tuple[Problem, ...]

    @property
    def broken_shards(self) -> tuple[str, ...]:
        """Names of the shards that have a problem; making them again is the remedy."""
        names = dict.fromkeys(Path(problem.file).name for problem in self.problems if problem.remake)
        return tuple(names)


def verify_split(directory: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None) -> SplitCheck:
    """Check everything that can be checked without the clips.

    Args:
        directory: The split's folder.
        on_progress: Called with shards done and shards in all.

    Returns:
        All problems, not only the first. A split without an index has one problem: it is unfinished.
    """
    try:
        index = read_index(directory)
    except ShardError as exc:
        problem = Problem(file=str(directory / INDEX_NAME), what=str(exc).splitlines()[0], remake=False)
        return SplitCheck(split=directory.name, num_shards=0, num_samples=0, num_bytes=0, problems=(problem,))
    problems = list(_strangers(directory, index))
    keys: dict[str, str] = {}
    for number, shard in enumerate(index.shards):
        on_progress(number, len(index.shards))
        for what in _check_shard(directory, shard, index=index, keys=keys):
            problems.append(Problem(file=str(directory / shard.name), what=what, remake=True))
    on_progress(len(index.shards), len(index.shards))
    return SplitCheck(
        split=index.split,
        num_shards=len(index.shards),
        num_samples=index.num_samples,
        num_bytes=sum(shard.bytes for shard in index.shards),
        problems=tuple(problems),
    )


def _strangers(directory: Path, index: Index) -> Iterator[Problem]:
    """Find tars that the index does not know: a reader that lists the folder would read them too."""
    known = {shard.name for shard in index.shards}
    for path in sorted(directory.glob("*.tar")):
        if path.name not in known:
            yield Problem(file=str(path), what="a tar that the index does not list: remove it", remake=False)


def _check_shard(directory: Path, shard: ShardInfo, *, index: Index, keys: dict[str, str]) -> Iterator[str]:
    path = directory / shard.name
    try:
        size = path.stat().st_size
        rows = read_sidecar(directory, shard, num_tasks=len(index.label_sets))
    except (OSError, ShardError) as exc:
        yield str(exc).splitlines()[0]
        return
    if size != shard.bytes:
        yield f"holds {size:,} bytes, its index says {shard.bytes:,}"
        return
    if hashlib.sha256(map_file(path).data).hexdigest() != shard.sha256:
        yield "its SHA-256 is not the one in the index: at least one byte was changed"
    try:
        yield from _check_samples(path, rows, index=index, keys=keys)
    except tarfile.TarError as exc:
        yield f"is no longer a tar: {exc}"


def _check_samples(path: Path, rows: NDArray[Any], *, index: Index, keys: dict[str, str]) -> Iterator[str]:
    """Walk the tar as a stranger would, sample by sample, and hold each against its sidecar row."""
    headers = header_sizes(index.spec)
    extensions = members(index.spec.video.storage)
    with tarfile.open(path, "r:") as tar:
        found = tar.getmembers()
        if len(found) != len(rows) * len(extensions):
            yield f"holds {len(found)} members, {len(rows)} samples need {len(rows) * len(extensions)}"
            return
        for number, row in enumerate(rows):
            group = found[number * len(extensions) : (number + 1) * len(extensions)]
            key = group[0].name.partition(".")[0]
            if [member.name for member in group] != [f"{key}.{extension}" for extension in extensions]:
                yield f"sample {number} has members {[member.name for member in group]}"
                continue
            payloads: dict[str, bytes] = {}
            offsets: dict[str, int] = {}
            sizes: dict[str, int] = {}
            crc32 = 0
            for extension, member in zip(extensions, group, strict=True):
                file = tar.extractfile(member)
                payload = file.read() if file is not None else b""
                name = extension.partition(".")[0]
                header_bytes = headers.get(name, 0)
                payloads[extension] = payload
                offsets[name] = member.offset_data + header_bytes
                sizes[name] = len(payload) - header_bytes
                crc32 = zlib.crc32(memoryview(payload)[header_bytes:], crc32)
            try:
                sample = decode_sample(payloads, where=f"{path}, {key}")
                pixels(sample.frames, index.spec.video)
                as_written = encode_sample(sample, spec=index.spec, label_sets=index.label_sets)
            except (ShardError, ValueError) as exc:
                yield f"{key}: {str(exc).splitlines()[0]}"
                continue
            if sample.meta.key != key or sample.meta.split != index.split or as_written != payloads:
                yield f"{key}: its members do not fit each other and the index"
                continue
            expected = sidecar_row(sample.meta, offsets=offsets, sizes=sizes, crc32=crc32, label_sets=index.label_sets)
            if np.array(expected, dtype=rows.dtype) != row:
                yield f"{key}: its row in {sidecar_name(path.name)} says something else"
            if keys.setdefault(key, path.name) != path.name:
                yield f"{key} is also in {keys[key]}"
