import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.errors import ShardCorruptError, ShardError
from shards.format.index import INDEX_NAME, Index, read_index
from shards.format.samples_table import TABLE_NAME
from shards.reading.split import Split
from shards.schema import MELD_LABELS, Sample
from shards.writing.finish import finish_split
from shards.writing.shard_writer import Origin, read_record, read_rows, record_path, rows_path, write_shard
from shards.writing.verify import verify_split
from tests.support.disks import file_size_limit
from tests.support.samples import make_sample, make_spec, with_byte_changed, write_split

ROOT = Path(__file__).parents[3]
SPEC = make_spec()
ORIGIN = Origin(rows_sha256="", inputs_sha256="", fingerprints={}, sources={})

KILLED_AT_CHANGE = """
import os, signal, sys
from pathlib import Path
from tests.shards.writing.test_finish import write_new_shard, finish

directory, left = Path(sys.argv[1]), int(sys.argv[2])
index = write_new_shard(directory)

def kill_at_change(event: str, args: object) -> None:
    global left
    if event in ("os.rename", "os.remove"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill_at_change)
finish(directory, index)
"""
"""Arguments: a finished split, whose last shard is replaced, and before which removal or renaming to die."""


def make_samples() -> list[Sample]:
    return [make_sample(i, absent=("video",) if i == 1 else ()) for i in range(5)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_split(tmp_path, make_samples(), samples_per_shard=2)
    return tmp_path / "train"


def finish(directory: Path, index: Index) -> Index:
    return finish_split(directory, split=index.split, spec=index.spec, label_sets=index.label_sets, shards=index.shards)


def write_new_shard(directory: Path) -> Index:
    """Replace the last shard by one of the same size with another sample; return the index that it calls for."""
    index = read_index(directory)
    path = directory / index.shards[-1].name
    sample = replace(make_sample(4), tokens=make_sample(4).tokens[::-1].copy())
    sample = replace(
        sample, meta=replace(sample.meta, num_tokens=SPEC.text.max_tokens, labels=make_sample(5).meta.labels)
    )
    info = write_shard(path, [sample], spec=SPEC, label_sets=MELD_LABELS, origin=lambda: ORIGIN)
    return replace(index, shards=(*index.shards[:-1], info))


def times_of(directory: Path) -> dict[str, int]:
    return {name: (directory / name).stat().st_mtime_ns for name in (INDEX_NAME, TABLE_NAME)}


def test_the_table_of_a_split_is_that_of_its_shards_in_order(directory: Path) -> None:
    rows = [read_rows(directory / shard.name) for shard in read_index(directory).shards]
    np.testing.assert_array_equal(Split(directory).rows, np.concatenate(rows))


def test_finishing_what_is_finished_writes_nothing(directory: Path) -> None:
    before = times_of(directory)
    index = read_index(directory)
    assert finish(directory, index) == index
    assert times_of(directory) == before


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
@pytest.mark.parametrize("name", [INDEX_NAME, TABLE_NAME])
def test_finishing_writes_again_what_is_damaged(directory: Path, name: str, damage: str) -> None:
    index, path = read_index(directory), directory / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(whole[:-9] if damage == "cut" else with_byte_changed(whole, len(whole) - 9, mask=1))
    assert finish(directory, index) == index
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "of another shard"])
def test_without_the_whole_rows_of_a_shard_a_split_is_not_finished(directory: Path, damage: str) -> None:
    index = read_index(directory)
    (directory / INDEX_NAME).unlink()
    path = directory / index.shards[1].name
    rows = rows_path(path)
    whole = rows.read_bytes()
    rows.unlink()
    if damage == "of another shard":
        shutil.copy(rows_path(directory / index.shards[2].name), rows)
        shutil.copy(record_path(directory / index.shards[2].name), record_path(path))
    elif damage != "gone":
        rows.write_bytes(whole[:-1] if damage == "cut" else with_byte_changed(whole, len(whole) - 1))
    with pytest.raises(ShardCorruptError, match=path.name):
        finish(directory, index)
    assert not (directory / INDEX_NAME).exists()
    assert not list(directory.glob(".*.tmp"))


@pytest.mark.parametrize("change", [2, 3, 4])
def test_a_process_killed_between_removing_the_old_index_and_publishing_the_new_leaves_none(
    directory: Path, change: int
) -> None:
    """Removed, renamed, removed, renamed: the old index, the new table, what is left of its making, the new index."""
    command = [sys.executable, "-c", KILLED_AT_CHANGE, str(directory), str(change)]
    old = read_index(directory)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(ShardError, match="not finished"):
        Split(directory)
    records = [read_record(directory / shard.name) for shard in old.shards]
    finish(directory, replace(old, shards=tuple(record[0] for record in records if record is not None)))
    assert verify_split(directory).problems == ()


@pytest.mark.parametrize("room", [0, 100, 600])
def test_a_table_that_finds_no_room_is_a_named_error_and_the_split_stays_unfinished(directory: Path, room: int) -> None:
    index = write_new_shard(directory)
    with file_size_limit(room), pytest.raises(ShardError, match=rf"cannot write(?s:.*){TABLE_NAME}"):
        finish(directory, index)
    with pytest.raises(ShardError, match="not finished"):
        Split(directory)
    assert not list(directory.glob(".*.tmp"))
    finish(directory, index)
    assert verify_split(directory).problems == ()


def test_an_old_index_beside_a_new_table_is_an_error(directory: Path) -> None:
    old = (directory / INDEX_NAME).read_bytes()
    finish(directory, write_new_shard(directory))
    (directory / INDEX_NAME).write_bytes(old)
    with pytest.raises(ShardCorruptError, match=TABLE_NAME):
        Split(directory)
