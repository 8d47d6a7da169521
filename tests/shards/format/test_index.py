import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import FormatVersionError, ShardCorruptError, ShardError
from shards.files import publish, publish_pieces
from shards.format.index import INDEX_NAME, Index, ShardInfo, read_index, write_index
from shards.schema import FORMAT_VERSION, MELD_LABELS, LabelSet
from shards.splits import split_directories
from tests.support.disks import file_size_limit
from tests.support.samples import make_sample, make_spec, with_byte_changed, write_split

DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64)
SHARD = st.builds(
    ShardInfo,
    name=st.text(min_size=1),
    bytes=st.integers(0, 2**40),
    num_samples=st.integers(0, 2**31),
    sha256=DIGEST,
    inputs_sha256=DIGEST,
)
LABEL_SET = st.builds(LabelSet, task=st.text(), names=st.lists(st.text(), unique=True, max_size=4).map(tuple))
INDEX = st.builds(
    Index,
    split=st.text(),
    spec=st.just(make_spec()),
    label_sets=st.lists(LABEL_SET, max_size=3).map(tuple),
    shards=st.lists(SHARD, max_size=3).map(tuple),
    samples_sha256=DIGEST,
)


def make_index() -> Index:
    shard = ShardInfo(
        name="train-00000.tar",
        bytes=61_440,
        num_samples=3,
        sha256="1" * 64,
        inputs_sha256="3" * 64,
    )
    return Index(split="train", spec=make_spec(), label_sets=MELD_LABELS, shards=(shard,), samples_sha256="2" * 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


@settings(deadline=None, max_examples=50)
@given(index=INDEX)
def test_an_index_comes_back_as_it_was(folder: Path, index: Index) -> None:
    write_index(folder, index)
    assert read_index(folder) == index


def test_equal_indices_give_equal_bytes(tmp_path: Path) -> None:
    write_index(tmp_path, make_index())
    first = (tmp_path / INDEX_NAME).read_bytes()
    write_index(tmp_path, make_index())
    assert (tmp_path / INDEX_NAME).read_bytes() == first


def test_the_samples_of_a_split_are_those_of_all_its_shards() -> None:
    shard = make_index().shards[0]
    assert replace(make_index(), shards=(shard, replace(shard, num_samples=2))).num_samples == 5


def test_a_byte_flipped_anywhere_in_an_index_is_an_error_unless_it_means_the_same(tmp_path: Path) -> None:
    write_index(tmp_path, make_index())
    path = tmp_path / INDEX_NAME
    whole = path.read_bytes()
    harmless = []
    for offset in range(len(whole)):
        damaged = with_byte_changed(whole, offset, mask=1 << offset % 8)
        path.write_bytes(damaged)
        try:
            assert read_index(tmp_path) == make_index()
        except (ShardCorruptError, FormatVersionError) as exc:
            assert INDEX_NAME in str(exc)  # noqa: PT017
        else:
            harmless.append(damaged)
    assert {json.dumps(json.loads(damaged)) for damaged in harmless} <= {json.dumps(json.loads(whole))}
    assert len(harmless) < 3  # 1e-06 and 1E-06


@pytest.mark.parametrize(
    ("written", "damaged"),
    [
        (b'"bytes": 61440', b'"bytes": 6e440'),  # infinite
        (b'"log_epsilon": 1e-06', b'"log_epsilon": 1e906'),
        (b'"num_samples": 3,\n "label', b'"num_samples": 4,\n "label'),
        (b"train-00000.tar", b"train-00001.tar"),
        (b'"anger"', b'"angel"'),
        (b"\xed\x9f\xbf", b"\xed\xa0\xbf"),  # U+D7FF made a lone surrogate
    ],
)
def test_one_byte_replaced_is_an_error_even_if_the_json_stays_valid(
    tmp_path: Path, written: bytes, damaged: bytes
) -> None:
    index = make_index()
    spec = replace(index.spec, text=replace(index.spec.text, tokenizer="/models/\ud7ff"))
    write_index(tmp_path, replace(index, spec=spec))
    path = tmp_path / INDEX_NAME
    assert path.read_bytes().count(written) == 1
    path.write_bytes(path.read_bytes().replace(written, damaged))
    with pytest.raises(ShardCorruptError, match=INDEX_NAME):
        read_index(tmp_path)


def test_an_index_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    write_index(tmp_path, make_index())
    path = tmp_path / INDEX_NAME
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 17):
        path.write_bytes(whole[:size])
        with pytest.raises(ShardCorruptError, match=INDEX_NAME):
            read_index(tmp_path)


@pytest.mark.parametrize(
    "value",
    [[], "text", 5, None, {}, {"format_version": FORMAT_VERSION}, {"format_version": FORMAT_VERSION, "spec": []}],
)
def test_json_that_is_no_index_is_an_error(tmp_path: Path, value: object) -> None:
    (tmp_path / INDEX_NAME).write_text(json.dumps(value))
    with pytest.raises(ShardCorruptError, match="the index is damaged"):
        read_index(tmp_path)


@pytest.mark.parametrize("version", [FORMAT_VERSION - 1, FORMAT_VERSION + 1, 12])
def test_an_index_of_another_format_version_is_refused_naming_both(tmp_path: Path, version: int) -> None:
    value = {"format_version": version, "nothing": "that this program knows"}
    (tmp_path / INDEX_NAME).write_text(json.dumps(value))
    with pytest.raises(FormatVersionError, match=rf"format version {version}, this program reads {FORMAT_VERSION}"):
        read_index(tmp_path)


def test_a_split_without_an_index_is_unfinished_and_the_message_says_to_finish_it(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"not finished(?s:.*)index\.json(?s:.*)run `mmsent preprocess` again"):
        read_index(tmp_path)


def test_a_split_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no such split(?s:.*)mmsent preprocess"):
        read_index(tmp_path / "train")


def test_finished_splits_come_in_the_order_train_dev_test_then_others(tmp_path: Path) -> None:
    for name in ("zebra", "test", "extra", "train", "dev", "unfinished"):
        (tmp_path / name).mkdir()
        if name != "unfinished":
            write_index(tmp_path / name, make_index())
    found = split_directories(tmp_path)
    assert list(found) == ["train", "dev", "test", "extra", "zebra"]
    assert found["dev"] == tmp_path / "dev"


def test_a_folder_without_a_finished_split_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(ShardError, match=rf"no finished split(?s:.*){re.escape(str(tmp_path))}(?s:.*)\*/index\.json"):
        split_directories(tmp_path)


def test_a_folder_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no such folder of shards"):
        split_directories(tmp_path / "nowhere")


@pytest.mark.parametrize("room", [0, 1, 4095, 9999])
def test_a_file_that_finds_no_room_is_named_and_its_old_content_stays(tmp_path: Path, room: int) -> None:
    path = tmp_path / "spec.json"
    publish(path, b"old")
    with file_size_limit(room), pytest.raises(ShardError, match=rf"cannot write(?s:.*){re.escape(str(path))}"):
        publish(path, b"x" * 10_000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_a_named_error_when_publishing(tmp_path: Path) -> None:
    (tmp_path / "shards").write_bytes(b"")
    with pytest.raises(ShardError, match=r"Not a directory(?s:.*)spec\.json"):
        publish(tmp_path / "shards" / "spec.json", b"new")


def test_publishing_replaces_a_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    publish(path, b"old")
    publish(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_pieces_are_published_as_one_file_and_not_at_all_if_one_cannot_be_had(tmp_path: Path) -> None:
    def pieces(*, whole: bool) -> Iterator[bytes]:
        yield b"first "
        if not whole:
            raise ShardCorruptError("no second piece")
        yield b"second"

    path = tmp_path / "samples.npy"
    publish_pieces(path, pieces(whole=True))
    with pytest.raises(ShardCorruptError, match="no second piece"):
        publish_pieces(path, pieces(whole=False))
    assert path.read_bytes() == b"first second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_split_in_place_of_the_folder_of_splits_is_named_as_what_it_is(tmp_path: Path) -> None:
    write_split(tmp_path / "shards", [make_sample(0)])
    with pytest.raises(ShardError, match=rf"(?s)this is one split.*give the folder above it, {tmp_path}/shards"):
        split_directories(tmp_path / "shards" / "train")
