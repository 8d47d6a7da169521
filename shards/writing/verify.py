"""A full pass over a split: sizes, digests, every member of every sample."""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.index import INDEX_NAME, Index, ShardInfo, read_index
from shards.format.samples_table import TABLE_NAME, read_table
from shards.storage.source import map_file
from shards.writing.tar_check import check_tar

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

    @property
    def only_table_broken(self) -> bool:
        """Whether the samples table is all that is wrong; the tars tell all that is in it."""
        return [Path(problem.file).name for problem in self.problems] == [TABLE_NAME]


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
    start = 0
    table: NDArray[Any] | None = None
    try:
        table = read_table(
            directory,
            sha256=index.samples_sha256,
            num_samples=index.num_samples,
            num_tasks=len(index.label_sets),
        )
    except ShardError as exc:  # the tars are checked all the same
        what = str(exc).splitlines()[0]
        problems.append(Problem(file=str(directory / TABLE_NAME), what=what, remake=False))
    for number, shard in enumerate(index.shards):
        on_progress(number, len(index.shards))
        rows = table[start : start + shard.num_samples] if table is not None else None
        start += shard.num_samples
        for what in _check_shard(directory, shard, rows, index=index, keys=keys):
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
            yield Problem(
                file=str(path),
                what="a tar that the index does not list: move it away",
                remake=False,
            )


def _check_shard(
    directory: Path, shard: ShardInfo, rows: NDArray[Any] | None, *, index: Index, keys: dict[str, str]
) -> Iterator[str]:
    path = directory / shard.name
    try:
        size = path.stat().st_size
    except OSError as exc:
        yield str(exc)
        return
    if size != shard.bytes:
        yield f"holds {size:,} bytes, its index says {shard.bytes:,}"
        return
    if hashlib.sha256(map_file(path).data).hexdigest() != shard.sha256:
        yield "its SHA-256 is not the one in the index: at least one byte was changed"
    try:
        for number, checked in enumerate(check_tar(path, index=index, num_samples=shard.num_samples)):
            if checked.problem:
                yield checked.problem
                continue
            if rows is not None and np.array(checked.row, dtype=rows.dtype) != rows[number]:
                yield f"{checked.key}: its row in {TABLE_NAME} says something else"
            if keys.setdefault(checked.key, path.name) != path.name:
                yield f"{checked.key} is also in {keys[checked.key]}"
    except tarfile.TarError as exc:
        yield f"is no longer a tar: {exc}"
