import io
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shards.files import sha256_file
from shards.format.index import INDEX_NAME, read_index, write_index
from shards.format.samples_table import TABLE_NAME, row_dtype
from shards.reading.split import Split
from shards.schema import MELD_LABELS
from shards.writing.verify import SplitCheck, verify_split
from tests.support.samples import make_sample, make_spec, with_byte_changed, write_split

NUM_SHARDS = 3
FILES = (INDEX_NAME, TABLE_NAME, *(f"train-0000{number}.tar" for number in range(NUM_SHARDS)))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a split that the tests below damage in one file at a time and mend again."""
    root = tmp_path_factory.mktemp("verify")
    samples = [make_sample(i, absent=("video",) if i == 1 else ()) for i in range(5)]
    write_split(root, samples, samples_per_shard=2)
    return root / "train"


@pytest.fixture
def directory(clean: Path, tmp_path: Path) -> Path:
    """Copy the split for a test that changes more of it."""
    return shutil.copytree(clean, tmp_path / "train")


@contextmanager
def damaged(path: Path, content: bytes) -> Iterator[None]:
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


def seal(directory: Path, number: int) -> None:
    """Make the index agree with the table and a shard again: what is wrong is then inside."""
    index = read_index(directory)
    shards = list(index.shards)
    shard = directory / shards[number].name
    shards[number] = replace(
        shards[number],
        bytes=shard.stat().st_size,
        sha256=sha256_file(shard),
    )
    samples_sha256 = sha256_file(directory / TABLE_NAME)
    write_index(directory, replace(index, shards=tuple(shards), samples_sha256=samples_sha256))


def assert_one_problem(check: SplitCheck, *, file: str, what: str) -> None:
    [problem] = check.problems
    assert problem.file.endswith(f"/{file}")
    assert what in problem.what


def test_a_clean_split_has_no_problem_and_is_counted(clean: Path) -> None:
    check = verify_split(clean)
    assert check.problems == ()
    assert (check.split, check.num_shards, check.num_samples) == ("train", NUM_SHARDS, 5)
    assert check.num_bytes == sum(path.stat().st_size for path in clean.glob("*.tar"))


def test_progress_goes_from_none_to_all_shards(clean: Path) -> None:
    calls: list[tuple[int, int]] = []
    verify_split(clean, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, NUM_SHARDS) for done in range(NUM_SHARDS + 1)]


@settings(deadline=None, max_examples=150)
@example(name="train-00000.tar", place=520, mask=0x80)  # the first array's header made shorter
@example(name="train-00001.tar", place=-1, mask=1)  # the zeros after the end of the archive
@example(name="train-00001.tar", place=345, mask=0xFF)  # padding of a tar header
@example(name=TABLE_NAME, place=9, mask=1)  # the length of the table's own header
@example(name=TABLE_NAME, place=-1, mask=1)  # a label of the last sample
@given(
    name=st.sampled_from([name for name in FILES if name != INDEX_NAME]),
    place=st.integers(0, 2**20),
    mask=st.integers(1, 255),
)
def test_a_byte_flipped_anywhere_in_a_shard_or_the_table_is_a_problem(
    clean: Path, name: str, place: int, mask: int
) -> None:
    whole = (clean / name).read_bytes()
    with damaged(clean / name, with_byte_changed(whole, place % len(whole), mask=mask)):
        problems = verify_split(clean).problems
    assert problems
    stem = name.partition(".")[0]
    assert all(Path(problem.file).name.partition(".")[0] == stem for problem in problems)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_at_any_kilobyte_is_a_problem(clean: Path, name: str) -> None:
    whole = (clean / name).read_bytes()
    for size in range(0, len(whole) - 1, 1024):
        with damaged(clean / name, whole[:size]):
            [problem] = verify_split(clean).problems
            assert Path(problem.file).name.partition(".")[0] == name.partition(".")[0]


@pytest.mark.parametrize("name", [name for name in FILES if name != INDEX_NAME])
def test_a_missing_file_is_a_problem_that_names_it(directory: Path, name: str) -> None:
    (directory / name).unlink()
    [problem] = verify_split(directory).problems
    assert name in problem.what


def test_all_problems_are_found_not_only_the_first(directory: Path) -> None:
    for name in ("train-00000.tar", "train-00002.tar"):
        (directory / name).unlink()
    found = [Path(problem.file).name for problem in verify_split(directory).problems]
    assert found == ["train-00000.tar", "train-00002.tar"]


def test_a_tar_that_the_index_does_not_list_is_a_problem(directory: Path) -> None:
    shutil.copy(directory / "train-00000.tar", directory / "train-00003.tar")
    assert_one_problem(verify_split(directory), file="train-00003.tar", what="the index does not list")


def test_of_a_damaged_table_the_shards_are_checked_all_the_same(directory: Path) -> None:
    table, shard = directory / TABLE_NAME, directory / "train-00001.tar"
    table.write_bytes(table.read_bytes()[:-1])
    assert verify_split(directory).only_table_broken
    shard.write_bytes(with_byte_changed(shard.read_bytes(), 700))
    check = verify_split(directory)
    assert {Path(problem.file).name for problem in check.problems} == {TABLE_NAME, shard.name}
    assert check.broken_shards == (shard.name,)
    assert not check.only_table_broken


def test_an_unfinished_split_has_that_one_problem(directory: Path) -> None:
    (directory / INDEX_NAME).unlink()
    check = verify_split(directory)
    assert (check.num_shards, check.num_samples) == (0, 0)
    assert_one_problem(check, file=INDEX_NAME, what="not finished")


def test_a_split_that_is_not_there_has_that_one_problem(tmp_path: Path) -> None:
    assert_one_problem(verify_split(tmp_path / "train"), file=INDEX_NAME, what="no such split")


@pytest.mark.parametrize("field", [name for name in row_dtype(2).names or () if name != "labels"])
def test_a_row_that_says_something_else_than_its_sample_is_a_problem_whatever_the_digests(
    directory: Path, field: str
) -> None:
    rows = np.load(directory / TABLE_NAME)
    rows[field][3] += 1
    np.save(directory / TABLE_NAME, rows)
    seal(directory, 1)
    assert_one_problem(verify_split(directory), file="train-00001.tar", what="train-dia0-utt3: its row")


@pytest.mark.parametrize("task", range(len(MELD_LABELS)))
def test_a_row_with_another_label_than_its_sample_is_a_problem_whatever_the_digests(directory: Path, task: int) -> None:
    rows = np.load(directory / TABLE_NAME)
    rows["labels"][3, task] += 1
    np.save(directory / TABLE_NAME, rows)
    seal(directory, 1)
    assert_one_problem(verify_split(directory), file="train-00001.tar", what="train-dia0-utt3: its row")


def test_a_value_that_was_changed_is_a_problem_whatever_the_digest_of_the_shard(directory: Path) -> None:
    shard = directory / "train-00001.tar"
    offset = int(Split(directory).rows["video_offset"][3])
    shard.write_bytes(with_byte_changed(shard.read_bytes(), offset))
    seal(directory, 1)
    assert_one_problem(verify_split(directory), file="train-00001.tar", what="train-dia0-utt3: its row")


@pytest.mark.parametrize(
    ("written", "changed", "what"),
    [
        (b'"index":3,"name":"joy"', b'"index":4,"name":"joy"', "do not fit each other"),
        (b'"name":"joy"', b'"name":"jog"', "jog"),
        (b'"key":"train-dia0-utt3"', b'"key":"train-dia0-utt4"', "do not fit each other"),
        (b'"split":"train"', b'"split":"trial"', "do not fit each other"),
        (b'"turn_index":3', b'"turn_indez":3', "turn_indez"),
    ],
)
def test_metadata_that_does_not_fit_is_a_problem_whatever_the_digests(
    directory: Path, written: bytes, changed: bytes, what: str
) -> None:
    shard = directory / "train-00001.tar"
    whole = shard.read_bytes()
    head, found, tail = whole.rpartition(written)
    assert found
    shard.write_bytes(head + changed + tail)
    seal(directory, 1)
    problems = [problem.what for problem in verify_split(directory).problems]
    assert any("train-dia0-utt3" in problem and what in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("places", "what"),
    [
        ((0, 1, 2, 3, 4, 6, 5, 7), "sample 1 has members"),
        ((4, 5, 6, 7, 0, 1, 2, 3), "train-dia0-utt3: its row"),
        ((0, 1, 2, 3, 4, 5, 6), "holds 7 members, 2 samples need 8"),
        ((0, 1, 2, 3, 4, 5, 6, 7, 7), "holds 9 members, 2 samples need 8"),
    ],
)
def test_members_that_are_not_those_of_the_format_are_a_problem_whatever_the_digests(
    directory: Path, places: tuple[int, ...], what: str
) -> None:
    shard = directory / "train-00001.tar"
    with tarfile.open(shard) as tar:
        members = [(member.name, tar.extractfile(member)) for member in tar]
        contents = [(name, file.read() if file else b"") for name, file in members]
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, payload in (contents[place] for place in places):
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    seal(directory, 1)
    problems = [problem.what for problem in verify_split(directory).problems]
    assert any(what in problem for problem in problems), problems


@pytest.mark.parametrize("damaged_length", [b"3e03", b"3e93"])
def test_a_length_that_became_a_float_is_a_problem_however_large(tmp_path: Path, damaged_length: bytes) -> None:
    spec = make_spec(num_mels=1, num_hops=4000)
    sample = make_sample(0, spec=spec)
    assert sample.meta.num_hops == 3403
    write_split(tmp_path, [sample], spec=spec)
    shard = tmp_path / "train" / "train-00000.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"num_hops":3403', b'"num_hops":' + damaged_length))
    assert verify_split(tmp_path / "train").problems


def test_a_key_in_two_shards_is_a_problem(tmp_path: Path) -> None:
    write_split(tmp_path, [make_sample(0), make_sample(1), make_sample(0)], samples_per_shard=2)
    assert_one_problem(
        verify_split(tmp_path / "train"), file="train-00001.tar", what="train-dia0-utt0 is also in train-00000.tar"
    )


def test_a_value_that_is_no_number_is_named_with_its_sample(directory: Path) -> None:
    shard = directory / read_index(directory).shards[0].name
    content = bytearray(shard.read_bytes())
    sample = make_sample(0)
    place = content.index(sample.logmel.tobytes())
    content[place : place + 2] = np.array(np.nan, "<f2").tobytes()
    shard.write_bytes(content)
    seal(directory, 0)
    assert any(
        f"{sample.meta.key}: logmel holds 1 values that are no finite numbers" in problem.what
        for problem in verify_split(directory).problems
    )
