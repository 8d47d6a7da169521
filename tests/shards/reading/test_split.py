import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from shards.errors import FormatVersionError, ShardCorruptError, ShardError
from shards.format.index import INDEX_NAME
from shards.format.samples_table import TABLE_NAME
from shards.reading.split import Split, read_split
from shards.schema import FORMAT_VERSION, MELD_LABELS, MODALITIES, Modality, Sample
from shards.storage.source import map_file
from tests.support.samples import assert_same_sample, make_sample, make_spec, with_byte_changed, write_split

NUM_SAMPLES = 5  # in shards of 3 and 2


def make_samples() -> list[Sample]:
    absent = {1: ("video",), 3: ("video", "audio")}
    return [make_sample(i, absent=absent.get(i, ())) for i in range(NUM_SAMPLES)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_split(tmp_path, make_samples())
    return tmp_path / "train"


def test_a_split_is_read_as_it_was_written(directory: Path) -> None:
    for got, expected in zip(read_split(directory), make_samples(), strict=True):
        assert_same_sample(got, expected)


def test_any_sample_can_be_read_on_its_own(directory: Path) -> None:
    for number in (4, 0, 3, 3, 2):
        assert_same_sample(Split(directory).sample(number), make_samples()[number])


def test_a_split_is_as_long_as_its_index_says(directory: Path) -> None:
    split = Split(directory)
    assert len(split) == split.index.num_samples == NUM_SAMPLES
    assert split.spec == make_spec()
    assert split.label_sets == MELD_LABELS


def test_a_sample_knows_its_shard(directory: Path) -> None:
    split = Split(directory)
    names = [Path(split.shard_of(number)).name for number in range(NUM_SAMPLES)]
    assert names == ["train-00000.tar"] * 3 + ["train-00001.tar"] * 2


def test_metadata_alone_is_that_of_the_sample(directory: Path) -> None:
    split = Split(directory)
    for number in range(NUM_SAMPLES):
        assert split.meta(number) == split.sample(number).meta


def test_labels_are_counted_by_name_and_unused_ones_are_zero(directory: Path) -> None:
    expected = {labels.task: dict.fromkeys(labels.names, 0) for labels in MELD_LABELS}
    for sample in make_samples():
        for task, name in sample.meta.labels.items():
            expected[task][name] += 1
    counts = Split(directory).label_counts()
    assert counts == expected
    assert counts["emotion"]["surprise"] == 0


def test_presence_is_told_per_sample_and_modality(directory: Path) -> None:
    present = Split(directory).present()
    assert present.dtype == np.bool_
    assert present.tolist() == [
        [True, True, True],
        [False, True, True],
        [True, True, True],
        [False, False, True],
        [True, True, True],
    ]


def test_a_payload_is_the_values_of_its_array_and_is_not_copied(directory: Path) -> None:
    split = Split(directory)
    for name in MODALITIES:
        payload = split.array_payload(name, 3)
        assert payload.tobytes() == make_samples()[3].array(name).tobytes()
        assert not payload.flags.owndata
        assert np.shares_memory(payload, split.array_payload(name, 3))


def test_a_payload_cannot_be_written_to(directory: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Split(directory).array_payload("video", 0)[:] = 0


def test_a_mapped_file_is_its_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert map_file(tmp_path / "file").tobytes() == b"content"


def test_a_shard_cut_anywhere_is_an_error_never_fewer_samples(directory: Path) -> None:
    shard = directory / "train-00001.tar"
    whole = shard.read_bytes()
    for size in range(0, len(whole), 97):
        shard.write_bytes(whole[:size])
        with pytest.raises(
            ShardCorruptError, match=rf"{shard.name} holds {size:,} bytes, its index says {len(whole):,}"
        ):
            list(read_split(directory))


def test_a_shard_that_grew_is_an_error(directory: Path) -> None:
    shard = directory / "train-00001.tar"
    shard.write_bytes(shard.read_bytes() + bytes(10240))
    with pytest.raises(ShardCorruptError, match=shard.name):
        Split(directory)


def test_a_missing_shard_is_an_error_that_names_it(directory: Path) -> None:
    shard = directory / "train-00001.tar"
    shard.unlink()
    with pytest.raises(ShardCorruptError, match=rf"missing(?s:.*){re.escape(str(shard))}(?s:.*)mmsent preprocess"):
        Split(directory)


@pytest.mark.parametrize("change", ["cut", "removed"])
def test_a_shard_changed_after_the_split_was_opened_is_an_error(directory: Path, change: str) -> None:
    split = Split(directory)
    shard = directory / "train-00001.tar"
    if change == "cut":
        shard.write_bytes(shard.read_bytes()[:10240])
    else:
        shard.unlink()
    with pytest.raises(ShardCorruptError, match=shard.name):
        split.sample(NUM_SAMPLES - 1)


def test_a_shard_replaced_under_its_map_is_an_error_for_a_single_sample_too(directory: Path) -> None:
    split = Split(directory)
    split.sample(0)
    path = Path(split.shard_of(0))
    shutil.copy2(path, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)
    for read in (split.sample, split.meta):
        with pytest.raises(ShardCorruptError, match="a shard was changed since the split was opened") as error:
            read(0)
        assert str(path) in str(error.value)


def test_a_shard_that_is_a_link_is_followed_and_one_that_leads_nowhere_is_missing(directory: Path) -> None:
    shard = directory / "train-00001.tar"
    elsewhere = directory.with_name("elsewhere.tar")
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    assert_same_sample(Split(directory).sample(4), make_samples()[4])
    elsewhere.unlink()
    with pytest.raises(ShardCorruptError, match=rf"missing(?s:.*){re.escape(str(shard))}"):
        Split(directory)


def test_a_missing_table_is_an_error_that_names_it_and_the_remedy(directory: Path) -> None:
    table = directory / TABLE_NAME
    table.unlink()
    with pytest.raises(ShardCorruptError, match=rf"samples table(?s:.*){re.escape(str(table))}(?s:.*)--repair"):
        Split(directory)


def test_a_table_cut_anywhere_is_an_error_that_names_it(directory: Path) -> None:
    table = directory / TABLE_NAME
    whole = table.read_bytes()
    for size in range(len(whole)):
        table.write_bytes(whole[:size])
        with pytest.raises(ShardCorruptError, match=TABLE_NAME):
            Split(directory)


def test_a_byte_flipped_anywhere_in_a_table_is_an_error_before_a_label_is_believed(directory: Path) -> None:
    table = directory / TABLE_NAME
    whole = table.read_bytes()
    for offset in range(len(whole)):
        table.write_bytes(with_byte_changed(whole, offset, mask=1 << offset % 8))
        with pytest.raises(ShardCorruptError, match=TABLE_NAME):
            Split(directory)


def test_the_table_of_other_samples_is_an_error(directory: Path, tmp_path: Path) -> None:
    write_split(tmp_path / "other", [make_sample(i) for i in range(10, 10 + NUM_SAMPLES)])
    shutil.copy(tmp_path / "other" / "train" / TABLE_NAME, directory)
    with pytest.raises(ShardCorruptError, match=TABLE_NAME):
        Split(directory)


def test_a_split_is_read_without_what_is_recorded_of_its_making(directory: Path) -> None:
    shutil.rmtree(directory / ".work")
    for got, expected in zip(read_split(directory), make_samples(), strict=True):
        assert_same_sample(got, expected)


def test_the_rows_are_mapped_not_read(directory: Path) -> None:
    rows = Split(directory).rows
    assert not rows.flags.owndata
    assert not rows.flags.writeable


@pytest.mark.parametrize("member", [*MODALITIES, "json"])
def test_a_byte_flipped_in_a_payload_is_found_when_its_sample_is_read(
    directory: Path, member: Modality | Literal["json"]
) -> None:
    split = Split(directory)
    shard = directory / "train-00001.tar"
    whole = shard.read_bytes()
    start = int(split.rows[f"{member}_offset"][3])
    size = int(split.rows["json_bytes"][3]) if member == "json" else len(split.array_payload(member, 3))
    for offset in range(start, start + size, max(1, size // 40)):
        shard.write_bytes(with_byte_changed(whole, offset, mask=1 << offset % 8))
        with pytest.raises(ShardCorruptError, match=rf"sample 3(?s:.*){re.escape(str(shard))}"):
            Split(directory).sample(3)


def test_a_sample_beside_a_damaged_one_is_still_read(directory: Path) -> None:
    shard = directory / "train-00001.tar"
    offset = int(Split(directory).rows["video_offset"][3])
    shard.write_bytes(with_byte_changed(shard.read_bytes(), offset))
    assert_same_sample(Split(directory).sample(4), make_samples()[4])


def test_a_split_without_an_index_is_refused_although_its_shards_are_whole(directory: Path) -> None:
    (directory / INDEX_NAME).unlink()
    with pytest.raises(ShardError, match="not finished"):
        Split(directory)


def test_a_split_of_another_format_version_is_refused(directory: Path) -> None:
    index = directory / INDEX_NAME
    index.write_text(index.read_text().replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 99'))
    with pytest.raises(FormatVersionError, match="99"):
        Split(directory)


def test_a_split_without_a_sample_is_an_error(tmp_path: Path) -> None:
    write_split(tmp_path, [])
    with pytest.raises(ShardError, match=rf"no samples(?s:.*){re.escape(str(tmp_path))}"):
        Split(tmp_path / "train")


def test_more_shards_than_a_process_may_open_are_read(tmp_path: Path) -> None:
    write_split(tmp_path, [make_sample(i) for i in range(200)], samples_per_shard=1)
    code = """
import resource, sys
from pathlib import Path
from typing import Literal
from shards.reading.split import read_split
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
print(sum(1 for _ in read_split(Path(sys.argv[1]))))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "train")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert done.stdout.strip() == "200", done.stderr


def test_a_split_of_many_shards_is_opened_by_two_files_and_one_look_at_the_folder(tmp_path: Path) -> None:
    write_split(tmp_path, [make_sample(i) for i in range(40)], samples_per_shard=1)
    code = """
import json, os, sys
from pathlib import Path
from typing import Literal
from shards.reading.split import Split

directory = Path(sys.argv[1])
seen = []
listening = True

def listen(event, arguments):
    if listening and event in ("open", "os.scandir", "os.listdir") and str(arguments[0]).startswith(str(directory)):
        seen.append((event, os.path.relpath(arguments[0], directory)))

def stat(self, **options):
    assert self.suffix != ".tar", f"{self} is asked for by its path"
    return whole_stat(self, **options)

sys.addaudithook(listen)
whole_stat, Path.stat = Path.stat, stat
assert len(Split(directory)) == 40
listening = False
print(json.dumps(sorted(set(seen))), len([event for event, _ in seen if event == "os.scandir"]))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "train")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    seen = [["open", INDEX_NAME], ["open", TABLE_NAME], ["os.scandir", "."]]
    assert done.stdout.strip() == f"{json.dumps(seen)} 1", done.stderr
