"""Shards that are all there become a finished split: the samples table is put together, then the index is written."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from shards.errors import ShardCorruptError, ShardError, describe
from shards.files import sha256_file
from shards.format.index import Index, ShardInfo, read_index, remove_index, write_index
from shards.format.samples_table import TABLE_NAME, row_dtype, write_table
from shards.schema import LabelSet
from shards.spec import FeatureSpec
from shards.writing.shard_writer import read_rows

__all__ = ["finish_split", "write_recorded"]

_LOG = logging.getLogger(__name__)


def finish_split(
    directory: Path, *, split: str, spec: FeatureSpec, label_sets: Sequence[LabelSet], shards: Sequence[ShardInfo]
) -> Index:
    """Publish the samples table and then the index of a split, unless both are there already.

    At no moment does an index lie beside the table of other shards without its digest saying so. An index of other
    shards is removed first: a crash leaves an unfinished split, and what is recorded finishes it.

    Args:
        directory: The split's folder, with its shards and what is recorded of them.
        split: Its name.
        spec: How the arrays were made.
        label_sets: Tasks and their label names.
        shards: What `shards.writing.shard_writer.write_shard` or `read_record` said, in order.

    Raises:
        ShardCorruptError: if the recorded rows of a shard are not there or not whole.
        ShardError: if the disk is full or cannot be written.
    """

    def index_with(samples_sha256: str) -> Index:
        return Index(
            split=split, spec=spec, label_sets=tuple(label_sets), shards=tuple(shards), samples_sha256=samples_sha256
        )

    try:
        there = read_index(directory)
    except ShardError:
        _LOG.debug("the index of %s is to be written", split)
    else:
        if there != index_with(there.samples_sha256):
            remove_index(directory)
        elif _table_sha256(directory) == there.samples_sha256:
            return there
    index = index_with(write_recorded(directory, shards, num_tasks=len(label_sets)))
    write_index(directory, index)
    return index


def write_recorded(directory: Path, shards: Sequence[ShardInfo], *, num_tasks: int) -> str:
    """Publish the samples table by what is recorded of the shards, and return its SHA-256.

    Raises:
        ShardCorruptError: if the recorded rows of a shard are not there or not whole.
        ShardError: if the disk is full or cannot be written.
    """

    def parts() -> Iterator[NDArray[Any]]:
        for shard in shards:
            rows = read_rows(directory / shard.name)
            if rows.dtype != row_dtype(num_tasks) or rows.shape != (shard.num_samples,):
                what = f"what is recorded of {shard.name} is {rows.shape} rows of {rows.dtype}, not {shard.num_samples}"
                then = "run `mmsent preprocess` again, which makes this shard again"
                raise ShardCorruptError(describe(what, file=directory / shard.name, then=then))
            yield rows

    num_samples = sum(shard.num_samples for shard in shards)
    return write_table(directory, parts(), num_samples=num_samples, num_tasks=num_tasks)


def _table_sha256(directory: Path) -> str:
    """Return the SHA-256 of the table that is there; empty if it cannot be read."""
    try:
        return sha256_file(directory / TABLE_NAME)
    except OSError:
        return ""
