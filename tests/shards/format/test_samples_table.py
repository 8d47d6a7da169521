import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.errors import ShardCorruptError
from shards.files import sha256_file
from shards.format.samples_table import TABLE_NAME, dialogue_number, read_table, row_dtype, table_pieces, write_table
from shards.schema import MELD_LABELS, MODALITIES, Sample
from tests.support.samples import make_sample, write_split

NUM_TASKS = 2


def make_rows(num_rows: int, *, first: int = 0) -> NDArray[Any]:
    """Make rows that follow from their numbers, each unlike the others in every field."""
    rows = np.zeros(num_rows, row_dtype(NUM_TASKS))
    for name in rows.dtype.names or ():
        numbers = np.arange(first, first + num_rows) % 128
        rows[name] = numbers[:, None] if name == "labels" else numbers
    return rows


def write(directory: Path, *parts: NDArray[Any]) -> str:
    return write_table(directory, parts, num_samples=sum(map(len, parts)), num_tasks=NUM_TASKS)


def read(directory: Path, sha256: str, *, num_samples: int, num_tasks: int = NUM_TASKS) -> NDArray[Any]:
    return read_table(directory, sha256=sha256, num_samples=num_samples, num_tasks=num_tasks)


def samples_with_gaps() -> list[Sample]:
    return [
        make_sample(0),
        make_sample(1, absent=("video",)),
        make_sample(2, absent=("video", "audio")),
        make_sample(3),
    ]


def table_of(directory: Path) -> NDArray[Any]:
    rows: NDArray[Any] = np.load(directory / TABLE_NAME, allow_pickle=False)
    return rows


def test_the_table_has_the_name_and_the_row_size_of_the_format() -> None:
    assert TABLE_NAME == "samples.npy"
    assert row_dtype(2).itemsize == 5 * 8 + 3 * 4 + 3 * 4 + 1 + 2 * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any))
def test_a_table_is_its_parts_in_order_and_the_file_that_numpy_writes(folder: Path, sizes: list[int]) -> None:
    starts = np.cumsum([0, *sizes])
    sha256 = write(folder, *(make_rows(size, first=int(start)) for size, start in zip(sizes, starts, strict=False)))
    whole = make_rows(sum(sizes))
    got = read(folder, sha256, num_samples=len(whole))
    np.testing.assert_array_equal(got, whole)
    np.save(folder / "other.npy", whole)
    assert (folder / TABLE_NAME).read_bytes() == (folder / "other.npy").read_bytes()


def test_a_table_is_mapped_and_cannot_be_written_to(tmp_path: Path) -> None:
    rows = read(tmp_path, write(tmp_path, make_rows(3)), num_samples=3)
    assert type(rows) is np.ndarray
    assert not rows.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        rows["labels"][0] = 0


def test_a_row_says_what_its_sample_says(tmp_path: Path) -> None:
    samples = samples_with_gaps()
    write_split(tmp_path, samples)
    rows = table_of(tmp_path / "train")
    assert rows["present"].tolist() == [0b111, 0b110, 0b100, 0b111]
    assert rows["labels"].tolist() == [
        [labels.index(sample.meta.labels[labels.task]) for labels in MELD_LABELS] for sample in samples
    ]
    for name in ("num_frames", "num_hops", "num_tokens"):
        assert rows[name].tolist() == [getattr(sample.meta, name) for sample in samples]


def test_the_offsets_of_a_row_are_those_of_the_values_in_its_tar(tmp_path: Path) -> None:
    samples = samples_with_gaps()
    index = write_split(tmp_path, samples)
    for number, (row, sample) in enumerate(zip(table_of(tmp_path / "train"), samples, strict=True)):
        tar = (tmp_path / "train" / index.shards[number // 3].name).read_bytes()
        for name in MODALITIES:
            values = sample.array(name).tobytes()
            assert tar[row[f"{name}_offset"] :][: len(values)] == values
        text = tar[row["json_offset"] :][: row["json_bytes"]]
        assert json.loads(text)["key"] == sample.meta.key


def test_a_row_has_the_first_bytes_of_the_digest_of_its_dialogue() -> None:
    assert dialogue_number("12") == int.from_bytes(hashlib.blake2b(b"12").digest()[:8], "little")
    assert dialogue_number("sea1_ep2_sc3_é") == int.from_bytes(
        hashlib.blake2b("sea1_ep2_sc3_é".encode()).digest()[:8], "little"
    )
    assert dialogue_number("") == 0


def test_rows_of_one_dialogue_have_one_number_and_rows_of_none_have_zero(tmp_path: Path) -> None:
    samples = [make_sample(i) for i in range(7)]  # five of dialogue 0, two of dialogue 1
    samples[6] = replace(samples[6], meta=replace(samples[6].meta, dialogue_id=""))
    write_split(tmp_path, samples)
    numbers = table_of(tmp_path / "train")["dialogue"]
    assert numbers.tolist() == [dialogue_number("0")] * 5 + [dialogue_number("1"), 0]


def test_a_table_of_another_number_of_rows_is_an_error_whatever_its_digest(tmp_path: Path) -> None:
    sha256 = write(tmp_path, make_rows(3))
    for num_samples in (1, 2, 4):
        with pytest.raises(ShardCorruptError, match=rf"holds \(3,\) rows(?s:.*){TABLE_NAME}"):
            read(tmp_path, sha256, num_samples=num_samples)


def test_a_table_made_for_other_tasks_is_an_error_whatever_its_digest(tmp_path: Path) -> None:
    sha256 = write(tmp_path, make_rows(3))
    with pytest.raises(ShardCorruptError, match="rows of another kind"):
        read(tmp_path, sha256, num_samples=3, num_tasks=3)


@pytest.mark.parametrize("content", [b"", b"no table", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_table_is_an_error_whatever_its_digest(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / TABLE_NAME
    path.write_bytes(content)
    with pytest.raises(ShardCorruptError, match="cannot be read"):
        read(tmp_path, sha256_file(path), num_samples=3)


def test_a_table_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / TABLE_NAME
    np.save(path, np.array([object], dtype=object), allow_pickle=True)
    with pytest.raises(ShardCorruptError, match="cannot be read"):
        read(tmp_path, sha256_file(path), num_samples=1)


def test_parts_of_another_number_or_kind_publish_nothing(tmp_path: Path) -> None:
    sha256 = write(tmp_path, make_rows(2))
    for num_samples in (2, 4):
        with pytest.raises(ValueError, match=f"must have {num_samples} rows, got 3"):
            write_table(tmp_path, [make_rows(1), make_rows(2)], num_samples=num_samples, num_tasks=NUM_TASKS)
    with pytest.raises(ValueError, match="rows must be of"):
        write_table(tmp_path, [make_rows(1)], num_samples=1, num_tasks=3)
    assert sha256_file(tmp_path / TABLE_NAME) == sha256
    assert list(tmp_path.iterdir()) == [tmp_path / TABLE_NAME]


def test_a_table_is_written_without_holding_more_than_one_part() -> None:
    asked: list[int] = []

    def parts() -> Iterator[NDArray[Any]]:
        for number in range(3):
            asked.append(number)
            yield make_rows(1)

    pieces = table_pieces(parts(), num_samples=3, num_tasks=NUM_TASKS)
    next(pieces)  # the header
    assert asked == []
    next(pieces)
    assert asked == [0]
