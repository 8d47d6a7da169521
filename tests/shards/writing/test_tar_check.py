import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.format.index import read_index
from shards.reading.split import Split
from shards.schema import MODALITIES, Modality
from shards.spec import Storage
from shards.writing.tar_check import check_tar
from tests.support.samples import make_sample, make_spec, with_byte_changed, write_split

ABSENT = st.sampled_from([(), ("video",), ("audio",), ("video", "audio")])


@settings(deadline=None, max_examples=25)
@given(
    absent=st.lists(ABSENT, min_size=1, max_size=7),
    storage=st.sampled_from(["raw", "jpeg"]),
    widths=st.dictionaries(st.sampled_from(MODALITIES), st.integers(1, 6)),
    size=st.integers(1, 4),
)
def test_the_rows_of_a_split_are_what_a_walk_over_its_tars_finds(
    tmp_path_factory: pytest.TempPathFactory,
    absent: list[tuple[str, ...]],
    storage: Storage,
    widths: dict[Modality, int],
    size: int,
) -> None:
    root, spec = tmp_path_factory.mktemp("walk"), make_spec(storage=storage, widths=widths)
    samples = [make_sample(number, spec=spec, absent=names) for number, names in enumerate(absent)]
    index = write_split(root, samples, spec=spec, samples_per_shard=size)
    checked = [
        sample
        for shard in index.shards
        for sample in check_tar(root / "train" / shard.name, index=index, num_samples=shard.num_samples)
    ]
    rows = Split(root / "train").rows
    assert [(sample.key, sample.problem) for sample in checked] == [(sample.meta.key, "") for sample in samples]
    np.testing.assert_array_equal(np.array([sample.row for sample in checked], dtype=rows.dtype), rows)


def test_a_sample_that_is_damaged_has_a_problem_and_no_row_and_the_others_are_found(tmp_path: Path) -> None:
    write_split(tmp_path, [make_sample(i) for i in range(3)])
    index, path = read_index(tmp_path / "train"), tmp_path / "train" / "train-00000.tar"
    offset = int(Split(tmp_path / "train").rows["json_offset"][1])
    path.write_bytes(with_byte_changed(path.read_bytes(), offset))
    first, second, third = check_tar(path, index=index, num_samples=3)
    assert (first.problem, third.problem) == ("", "")
    assert second.key == "train-dia0-utt1"
    assert second.row == ()
    assert second.key in second.problem


def test_a_tar_of_another_number_of_samples_is_one_problem(tmp_path: Path) -> None:
    index = write_split(tmp_path, [make_sample(i) for i in range(3)])
    [checked] = check_tar(tmp_path / "train" / "train-00000.tar", index=index, num_samples=2)
    assert checked.problem == "holds 12 members, 2 samples need 8"


def test_a_file_that_is_no_tar_is_said_to_be_none(tmp_path: Path) -> None:
    index = write_split(tmp_path, [make_sample(0)])
    (tmp_path / "other.tar").write_bytes(b"x" * 2000)
    with pytest.raises(tarfile.TarError):
        list(check_tar(tmp_path / "other.tar", index=index, num_samples=1))
