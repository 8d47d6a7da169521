"""The index and the samples table of a split, when they are lost: made again from its tars."""

import logging
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardCorruptError, ShardError, describe
from shards.files import sha256_file
from shards.format.codec import members
from shards.format.index import Index, ShardInfo, read_index, write_index
from shards.format.samples_table import row_dtype, write_table
from shards.format.whole_tar import WholeTarInfo
from shards.schema import LabelSet
from shards.spec import FeatureSpec
from shards.writing.finish import write_recorded
from shards.writing.shard_writer import shard_name
from shards.writing.tar_check import check_tar

__all__ = ["rebuild_index", "restore_table"]

_LOG = logging.getLogger(__name__)


def restore_table(directory: Path) -> None:
    """Publish the samples table of a finished split again: from what is recorded, or else from the tars in full.

    Raises:
        ShardError: if there is no index, or the disk is full.
        ShardCorruptError: if a shard is not the one that was written.
    """
    index = read_index(directory)
    try:
        if write_recorded(directory, index.shards, num_tasks=len(index.label_sets)) == index.samples_sha256:
            return
        _LOG.info("what is recorded of the shards of %s is not of these: they are read in full", index.split)
    except ShardCorruptError:
        _LOG.info("what is recorded of the shards of %s is lost: they are read in full", index.split)
    if _write_from_tars(directory, index) != index.samples_sha256:
        what, then = "the shards are not those that the index was written for", "copy them again with their index"
        raise ShardCorruptError(describe(what, file=directory, then=then))


def rebuild_index(directory: Path, *, spec: FeatureSpec, label_sets: Sequence[LabelSet]) -> Index:
    """Publish the samples table and then the index of a split of which only the tars are left.

    Every sample is decoded, written again in memory and compared. What no tar tells is how many there were: the first
    shards of a split whose last ones are lost look like a whole split, so the caller should say what was found.

    Args:
        directory: The split's folder.
        spec: How the arrays were made, from another split of the same run or from its manifest.
        label_sets: Tasks and their label names, from there too.

    Raises:
        ShardError: if the tars are not numbered as those of a split are, or the disk is full.
        ShardCorruptError: if a tar is cut, damaged, or not of `spec` and `label_sets`.
    """
    names = sorted(path.name for path in directory.glob("*.tar"))
    needed = [shard_name(directory.name, number) for number in range(len(names))]
    if lacking := sorted(set(needed) - set(names)):
        what = f"the tars of a split are numbered from 0 without a gap; {lacking[0]} is not among {len(names)}"
        raise ShardError(describe(what, file=directory, then="copy the missing shards here, and move other tars away"))
    shards = tuple(_shard_info(directory / name, members_per_sample=len(members(spec))) for name in names)
    unwritten = Index(split=directory.name, spec=spec, label_sets=tuple(label_sets), shards=shards, samples_sha256="")
    index = Index(
        split=unwritten.split,
        spec=spec,
        label_sets=unwritten.label_sets,
        shards=shards,
        samples_sha256=_write_from_tars(directory, unwritten),
    )
    write_index(directory, index)
    return index


def _shard_info(path: Path, *, members_per_sample: int) -> ShardInfo:
    try:
        with tarfile.open(path, "r:", tarinfo=WholeTarInfo) as tar:
            found = tar.getmembers()
    except (OSError, tarfile.TarError) as exc:
        raise ShardCorruptError(describe(f"cannot be read: {exc}", file=path, then="copy it again")) from exc
    last = found[-1]
    content = last.offset_data + last.size
    needed = content + -content % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE
    if path.stat().st_size != needed + -needed % tarfile.RECORDSIZE:
        what = f"holds {path.stat().st_size:,} bytes, its members need {needed + -needed % tarfile.RECORDSIZE:,}"
        raise ShardCorruptError(describe(what, file=path, then="copy it again"))
    return ShardInfo(
        name=path.name,
        bytes=path.stat().st_size,
        num_samples=len(found) // members_per_sample,
        sha256=sha256_file(path),
        inputs_sha256="",
    )


def _write_from_tars(directory: Path, index: Index) -> str:
    """Publish the samples table by what the tars of an index hold, and return its SHA-256."""
    parts = (_rows_of_tar(directory / shard.name, shard, index) for shard in index.shards)
    return write_table(directory, parts, num_samples=index.num_samples, num_tasks=len(index.label_sets))


def _rows_of_tar(path: Path, shard: ShardInfo, index: Index) -> NDArray[Any]:
    rows = []
    try:
        for checked in check_tar(path, index=index, num_samples=shard.num_samples):
            if checked.problem:
                raise ShardCorruptError(describe(checked.problem, file=path, then="run `mmsent verify`"))
            rows.append(checked.row)
    except (OSError, tarfile.TarError) as exc:
        raise ShardCorruptError(describe(f"cannot be read: {exc}", file=path, then="run `mmsent verify`")) from exc
    return np.array(rows, dtype=row_dtype(len(index.label_sets)))
