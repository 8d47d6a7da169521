import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from shards.errors import ShardCorruptError, ShardError
from shards.format.index import INDEX_NAME, read_index
from shards.format.samples_table import TABLE_NAME
from shards.reading.split import Split, read_split
from shards.schema import MELD_LABELS, LabelSet, Sample
from shards.spec import FeatureSpec
from shards.writing.rebuild_index import rebuild_index, restore_table
from shards.writing.shard_writer import record_path, rows_path
from shards.writing.verify import verify_split
from tests.support.samples import assert_same_sample, make_sample, make_spec, with_byte_changed, write_split

SPEC = make_spec()


def make_samples() -> list[Sample]:
    return [make_sample(i, absent=("video",) if i == 1 else ()) for i in range(5)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_split(tmp_path, make_samples(), samples_per_shard=2)
    return tmp_path / "train"


@pytest.mark.parametrize("recorded", ["all", "nothing", "rows cut", "of other shards"])
@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_a_table_is_restored_to_the_same_bytes(directory: Path, damage: str, recorded: str) -> None:
    table = directory / TABLE_NAME
    whole = table.read_bytes()
    if damage == "gone":
        table.unlink()
    else:
        table.write_bytes(with_byte_changed(whole, len(whole) - 1))
    first, second, _ = read_index(directory).shards
    if recorded == "nothing":
        shutil.rmtree(directory / ".work")
    elif recorded == "rows cut":
        os.truncate(rows_path(directory / first.name), 200)
    elif recorded == "of other shards":
        for path in (rows_path, record_path):
            shutil.copy(path(directory / first.name), path(directory / second.name))
    restore_table(directory)
    assert table.read_bytes() == whole
    for got, expected in zip(read_split(directory), make_samples(), strict=True):
        assert_same_sample(got, expected)


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_a_table_is_not_restored_from_shards_that_are_not_whole(directory: Path, damage: str) -> None:
    shutil.rmtree(directory / ".work")
    (directory / TABLE_NAME).unlink()
    shard = directory / "train-00001.tar"
    whole = shard.read_bytes()
    shard.unlink()
    if damage != "gone":
        shard.write_bytes(whole[:5000] if damage == "cut" else with_byte_changed(whole, 700))
    with pytest.raises(ShardCorruptError):
        restore_table(directory)
    with pytest.raises(ShardCorruptError):
        Split(directory)


@pytest.fixture
def tars(directory: Path) -> Path:
    """A split of which nothing is left but its three tars."""
    shutil.rmtree(directory / ".work")
    for name in (INDEX_NAME, TABLE_NAME):
        (directory / name).unlink()
    return directory


def test_an_index_is_made_of_the_tars_alone_as_it_was(directory: Path) -> None:
    before, table = read_index(directory), (directory / TABLE_NAME).read_bytes()
    shutil.rmtree(directory / ".work")
    for name in (INDEX_NAME, TABLE_NAME):
        (directory / name).unlink()
    index = rebuild_index(directory, spec=SPEC, label_sets=MELD_LABELS)
    assert index == read_index(directory)
    assert index == replace(before, shards=tuple(replace(shard, inputs_sha256="") for shard in before.shards))
    assert (directory / TABLE_NAME).read_bytes() == table
    assert verify_split(directory).problems == ()


def test_no_index_is_made_of_a_tar_cut_at_any_block(tars: Path) -> None:
    shard = tars / "train-00002.tar"
    whole = shard.read_bytes()
    for size in range(0, len(whole), 512):
        shard.write_bytes(whole[:size])
        with pytest.raises(ShardCorruptError, match=r"train-00002\.tar"):
            rebuild_index(tars, spec=SPEC, label_sets=MELD_LABELS)
        assert not (tars / INDEX_NAME).exists()


@pytest.mark.parametrize(
    ("spec", "labels"),
    [(make_spec(size=16), MELD_LABELS), (SPEC, MELD_LABELS[:1]), (make_spec(widths={"video": 5}), MELD_LABELS)],
    ids=["another size", "a task fewer", "encoded"],
)
def test_no_index_is_made_of_tars_that_are_not_of_the_spec(
    tars: Path, spec: FeatureSpec, labels: tuple[LabelSet, ...]
) -> None:
    with pytest.raises(ShardCorruptError, match=r"train-00000\.tar"):
        rebuild_index(tars, spec=spec, label_sets=labels)
    assert not (tars / INDEX_NAME).exists()


@pytest.mark.parametrize("name", ["train-00001.tar", "train-00000.tar"])
def test_a_shard_that_lacks_in_between_is_named(tars: Path, name: str) -> None:
    (tars / name).unlink()
    with pytest.raises(ShardError, match=f"without a gap; {name}"):
        rebuild_index(tars, spec=SPEC, label_sets=MELD_LABELS)


def test_a_tar_of_another_program_is_refused(tars: Path) -> None:
    shutil.copy(tars / "train-00002.tar", tars / "part-1.tar")
    with pytest.raises(ShardError, match=r"without a gap; train-00003\.tar"):
        rebuild_index(tars, spec=SPEC, label_sets=MELD_LABELS)
