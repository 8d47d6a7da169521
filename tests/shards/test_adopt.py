import gzip
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.adopt import adopt_tars
from shards.errors import ShardCorruptError, ShardError
from shards.finish import restore_table
from shards.index import INDEX_NAME, read_index, write_index
from shards.loader import ShardLoader
from shards.order import InOrder
from shards.reader import Split, read_split
from shards.schema import MELD_LABELS, MODALITIES, FeatureSpec, Modality, Sample
from shards.stream import ShardStream
from shards.table import TABLE_NAME, dialogue_number
from shards.verify import verify_split
from tests.foreign import members_of, payloads_of, write_tar
from tests.samples import loader_in_order, make_sample, make_spec, with_byte_changed, write_split

ORDER = ("json", "tokens.npy", "frames.npy", "logmel.npy")


def make_samples(count: int = 7) -> list[Sample]:
    return [make_sample(i, absent=("video", "audio") if i == 1 else ()) for i in range(count)]


def write_by_tarfile(directory: Path, samples: list[Sample], *, tar_format: int, extras: bool) -> None:
    for number, start in enumerate(range(0, len(samples), 3)):
        pairs: list[tuple[str, bytes]] = []
        for sample in samples[start : start + 3]:
            payloads = payloads_of(sample)
            if extras:
                pairs += [(f"./{sample.meta.key}.mp4", b"a clip"), (f"./{sample.meta.key}.0.png", b"a picture")]
            pairs += [(f"./{name}", content) for name, content in members_of(sample.meta.key, payloads, ORDER)]
        if extras:
            pairs += [("README", b"read me"), ("__meta__.json", b"{}")]
        write_tar(directory / f"part-{number}.tar", pairs, tar_format=tar_format)


def write_by_webdataset(directory: Path, samples: list[Sample]) -> None:
    directory.mkdir(parents=True)
    with webdataset.ShardWriter(f"{directory}/part-%d.tar", maxcount=3, verbose=0) as writer:
        for sample in samples:
            meta = {name: value for name, value in json.loads(payloads_of(sample)["json"]).items() if name != "key"}
            arrays = {f"{name}.npy": getattr(sample, name) for name in ("frames", "logmel", "tokens")}
            writer.write({"__key__": sample.meta.key, "json": meta, "cls": 3, **arrays})


WRITERS: dict[str, Callable[[Path, list[Sample]], None]] = {
    "GNU": lambda directory, samples: write_by_tarfile(directory, samples, tar_format=tarfile.GNU_FORMAT, extras=False),
    "pax, extras": lambda directory, samples: write_by_tarfile(
        directory, samples, tar_format=tarfile.PAX_FORMAT, extras=True
    ),
    "webdataset.ShardWriter": write_by_webdataset,
}


@pytest.fixture(params=list(WRITERS.values()), ids=list(WRITERS))
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Tars of another program, not indexed."""
    request.param(tmp_path / "data" / "train", make_samples())
    return tmp_path / "data" / "train"


def test_tars_of_others_become_a_split_with_the_same_arrays_and_labels(foreign: Path) -> None:
    [adopted] = adopt_tars(foreign.parent)
    assert (adopted.name, adopted.num_shards, adopted.num_samples) == ("train", 3, 7)
    found = list(read_split(foreign))
    for got, expected in zip(found, make_samples(), strict=True):
        for name in ("frames", "logmel", "tokens"):
            assert getattr(got, name).tobytes() == getattr(expected, name).tobytes()
        for name in ("key", "split", "labels", "num_frames", "num_hops", "num_tokens", "text", "speaker"):
            assert getattr(got.meta, name) == getattr(expected.meta, name), name
        assert {name: item.present for name, item in got.meta.presence.items()} == {
            name: item.present for name, item in expected.meta.presence.items()
        }
    assert [meta.key for meta in Split(foreign).metas()] == [sample.meta.key for sample in make_samples()]


def test_the_loader_gives_the_batches_that_the_stream_gives(foreign: Path) -> None:
    adopt_tars(foreign.parent)
    split = Split(foreign)
    loaded = loader_in_order(split, batch_size=3)
    urls = [str(path) for path in sorted(foreign.glob("*.tar"))]
    for ours, theirs in zip(
        loaded, ShardStream(urls, spec=split.spec, label_sets=split.label_sets, batch_size=3), strict=True
    ):
        for name in ("frames", "logmel", "tokens", "num_frames", "num_hops", "num_tokens", "present", "samples"):
            assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes()
        assert {task: labels.tolist() for task, labels in ours.labels.items()} == {
            task: labels.tolist() for task, labels in theirs.labels.items()
        }


def without_index(root: Path, samples: list[Sample], spec: FeatureSpec) -> Path:
    """Write a split of ours and leave nothing of it but the tars."""
    write_split(root, samples, spec=spec)
    for name in (INDEX_NAME, TABLE_NAME):
        (root / "train" / name).unlink()
    return root / "train"


@pytest.mark.parametrize("names", [("video",), ("text", "audio"), MODALITIES], ids=" ".join)
def test_encoded_tars_become_a_split_with_the_same_features(tmp_path: Path, names: tuple[Modality, ...]) -> None:
    spec = make_spec(widths={name: 3 + len(name) for name in names})
    samples = [make_sample(i, spec=spec, absent=("video",) if i == 1 else ()) for i in range(7)]
    directory = without_index(tmp_path, samples, spec)
    adopt_tars(directory)
    split = Split(directory)
    assert {name: encoding.width for name, encoding in split.spec.encoded.items()} == {
        name: encoding.width for name, encoding in spec.encoded.items()
    }
    assert {encoding.encoder for encoding in split.spec.encoded.values()} == {"unknown"}
    for got, expected in zip(read_split(directory), samples, strict=True):
        for name in MODALITIES:
            assert got.array(name).tobytes() == expected.array(name).tobytes()
            assert got.meta.presence[name].present == expected.meta.presence[name].present
    assert verify_split(directory).problems == ()
    [batch] = loader_in_order(split, batch_size=7)
    assert list(batch.features) == list(spec.encoded)
    urls = [str(path) for path in sorted(directory.glob("*.tar"))]
    [streamed] = ShardStream(urls, spec=split.spec, label_sets=split.label_sets, batch_size=7)
    for field in ("num_frames", "num_hops", "num_tokens", "present"):
        assert getattr(streamed, field).tolist() == getattr(batch, field).tolist()


def test_an_array_by_the_name_of_an_encoded_one_is_ignored_beside_the_raw_one(tmp_path: Path) -> None:
    payloads = payloads_of(make_sample(0))
    write_tar(tmp_path / "train" / "a.tar", members_of("a", {**payloads, "video.npy": b"what another program wants"}))
    [adopted] = adopt_tars(tmp_path)
    assert adopted.ignored == ("video.npy",)
    assert not Split(tmp_path / "train").spec.encoded


def test_raw_and_encoded_samples_in_one_folder_are_refused(tmp_path: Path) -> None:
    spec = make_spec(widths={"audio": 4})
    directory = without_index(tmp_path, [make_sample(i) for i in range(3)], make_spec())
    write_tar(directory / "z.tar", members_of("b", payloads_of(make_sample(4, spec=spec), spec=spec)))
    with pytest.raises(ShardError, match=r"audio\.npy \(4,\).*logmel\.npy \(6, 10\)"):
        adopt_tars(directory)


def test_the_dialogues_of_foreign_tars_are_known_where_their_json_tells_them(tmp_path: Path) -> None:
    samples = [make_sample(i) for i in range(7)]
    pairs: list[tuple[str, bytes]] = []
    for sample in samples:
        payloads = payloads_of(sample)
        fields = json.loads(payloads["json"])
        dialogue = {"dialogue_id": int(fields["dialogue_id"])} if sample is not samples[6] else {}
        text = json.dumps({"labels": fields["labels"], **dialogue}).encode()
        pairs += members_of(sample.meta.key, {**payloads, "json": text})
    write_tar(tmp_path / "train" / "a.tar", pairs)
    adopt_tars(tmp_path)
    split = Split(tmp_path / "train")
    assert split.rows["dialogue"].tolist() == [dialogue_number("0")] * 5 + [dialogue_number("1"), 0]
    [batch] = ShardLoader(split, order=InOrder(7), batch_size=7, dialogue_turns=2)
    assert batch.window.tolist() == [[-1, 0], [0, 1], [1, 2], [2, 3], [3, 4], [-1, 5], [-1, 6]]


def test_the_tars_are_not_changed_and_verify_finds_nothing(foreign: Path) -> None:
    before = {path: path.read_bytes() for path in foreign.glob("*.tar")}
    adopt_tars(foreign.parent)
    assert {path: path.read_bytes() for path in foreign.glob("*.tar")} == before
    assert {path.name for path in foreign.iterdir()} - {path.name for path in before} == {INDEX_NAME, TABLE_NAME}
    assert verify_split(foreign).problems == ()


def test_verify_finds_a_byte_that_was_changed_and_a_lost_table_is_made_again(tmp_path: Path) -> None:
    WRITERS["GNU"](tmp_path / "train", make_samples())
    adopt_tars(tmp_path)
    table = (tmp_path / "train" / TABLE_NAME).read_bytes()
    (tmp_path / "train" / TABLE_NAME).unlink()
    restore_table(tmp_path / "train")
    assert (tmp_path / "train" / TABLE_NAME).read_bytes() == table
    shard = tmp_path / "train" / "part-1.tar"
    shard.write_bytes(with_byte_changed(shard.read_bytes(), int(Split(tmp_path / "train").rows["video_offset"][4])))
    problems = [problem.what for problem in verify_split(tmp_path / "train").problems]
    assert any("SHA-256" in what for what in problems)
    assert any("train-dia0-utt4: its row in samples.npy says something else" in what for what in problems)
    with pytest.raises(ShardCorruptError, match="sample 4 of the split is damaged"):
        list(read_split(tmp_path / "train"))


def test_verify_reads_a_foreign_shard_with_a_sample_more_or_less(tmp_path: Path) -> None:
    WRITERS["GNU"](tmp_path / "train", make_samples(3))
    adopt_tars(tmp_path)
    index = read_index(tmp_path / "train")
    shard = tmp_path / "train" / "part-0.tar"
    for count in (2, 4):
        pairs = [
            pair for sample in make_samples(9)[:count] for pair in members_of(sample.meta.key, payloads_of(sample))
        ]
        write_tar(shard, pairs)
        info = replace(index.shards[0], bytes=shard.stat().st_size)
        write_index(tmp_path / "train", replace(index, shards=(info,)))
        problems = [problem.what for problem in verify_split(tmp_path / "train").problems]
        assert "holds another number of samples than the 3 its index says" in problems


def test_what_the_tars_do_not_tell_is_unknown_and_the_vocabulary_is_what_the_tokens_need(tmp_path: Path) -> None:
    WRITERS["GNU"](tmp_path / "train", make_samples())
    WRITERS["GNU"](tmp_path / "dev", make_samples(2))
    adopt_tars(tmp_path)
    spec = Split(tmp_path / "train").spec
    assert (spec.video.shape, spec.audio.shape, spec.text.shape) == ((4, 8, 8, 3), (6, 10), (12,))
    assert {spec.video.decoder, spec.video.sampling, spec.audio.scale, spec.text.tokenizer} == {"unknown"}
    assert (spec.audio.sample_rate, spec.text.pad_id) == (0, 0)
    assert spec.text.vocab_size == max(int(sample.tokens.max()) for sample in make_samples()) + 1
    assert Split(tmp_path / "dev").spec == spec  # of all splits: what is trained on one is scored on another
    assert FeatureSpec.from_json(spec.to_json()) == spec


def test_a_folder_of_tars_alone_is_a_split_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["GNU"](tmp_path / "mine", make_samples())
    monkeypatch.chdir(tmp_path / "mine")
    [adopted] = adopt_tars(Path())
    assert adopted.name == "mine"
    assert len(Split(tmp_path / "mine")) == 7


def test_other_members_are_said_to_be_ignored(tmp_path: Path) -> None:
    WRITERS["pax, extras"](tmp_path / "train", make_samples())
    assert adopt_tars(tmp_path)[0].ignored == ("0.png", "README", "mp4")


def write_labels(directory: Path, *labels: dict[str, Any]) -> Path:
    """Write one sample for each `labels` of a json that has nothing else."""
    payloads = payloads_of(make_sample(0))
    pairs: list[tuple[str, bytes]] = []
    for number, item in enumerate(labels):
        pairs += members_of(f"s{number}", {**payloads, "json": json.dumps({"labels": item}).encode()})
    return write_tar(directory / "a.tar", pairs)


def test_names_without_indices_are_sorted_and_lengths_are_full(tmp_path: Path) -> None:
    write_labels(tmp_path / "train", {"b": "x", "a": "two"}, {"b": "x", "a": "one"}, {"b": "x", "a": "two"})
    adopt_tars(tmp_path)
    split = Split(tmp_path / "train")
    assert [(labels.task, labels.names) for labels in split.label_sets] == [("a", ("one", "two")), ("b", ("x",))]
    assert split.rows["labels"].tolist() == [[1, 0], [0, 0], [1, 0]]
    assert split.rows[["num_frames", "num_hops", "num_tokens", "present"]].tolist() == [(4, 10, 12, 7)] * 3
    assert split.meta(1).key == "s1"


def test_indices_order_the_names_over_all_splits(tmp_path: Path) -> None:
    write_labels(tmp_path / "train", {"a": {"name": "z", "index": 0}}, {"a": {"name": "m", "index": 1}})
    write_labels(tmp_path / "dev", {"a": {"name": "b", "index": 2}})
    adopt_tars(tmp_path)
    for name in ("train", "dev"):
        assert Split(tmp_path / name).label_sets[0].names == ("z", "m", "b")
    assert Split(tmp_path / "dev").rows["labels"].tolist() == [[2]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.booleans())
def test_a_sample_keeps_the_label_that_its_json_has(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[int], with_index: bool
) -> None:
    names = "fedcba"
    dense = {number: place for place, number in enumerate(sorted(set(chosen)))}
    directory = tmp_path_factory.mktemp("labels")
    items = [{"name": names[i], "index": dense[i]} if with_index else names[i] for i in chosen]
    write_labels(directory / "train", *({"a": item} for item in items))
    adopt_tars(directory)
    split = Split(directory / "train")
    found = [split.label_sets[0].names[index] for index in split.rows["labels"][:, 0]]
    assert found == [names[i] for i in chosen] == [split.meta(i).labels["a"] for i in range(len(split))]


X, Y = {"name": "x", "index": 0}, {"name": "y", "index": 1}
BAD_LABELS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "two names of an index": ([{"a": X}, {"a": {"name": "y", "index": 0}}], r"y with index 0; before, index 0 was x"),
    "two indices of a name": ([{"a": X}, {"a": {"name": "x", "index": 1}}], r"x with index 1; before, x had index 0"),
    "an index for some": ([{"a": X}, {"a": "y"}], "'y': -1"),
    "a name with and without": ([{"a": X}, {"a": "x"}], "before, x had index 0"),
    "a gap": ([{"a": X}, {"a": {"name": "y", "index": 2}}], "without a gap"),
    "another task": ([{"a": X}, {"b": X}], r"label tasks of s1 are \['b'\], those of s0 in .*a\.tar \['a'\]"),
    "no label": ([{}], "the json of s0 has no labels"),
    "no name": ([{"a": {"index": 0}}], "s0.json: the label of a is"),
    "a number": ([{"a": 3}], "s0.json: the label of a is 3; needed is a name"),
    "too many": ([{"a": str(i)} for i in range(1100)], "more than 1,000 different labels"),
}


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_labels_that_do_not_make_classes_are_an_error(
    tmp_path: Path, labels: list[dict[str, Any]], message: str
) -> None:
    write_labels(tmp_path / "train", *labels)
    with pytest.raises(ShardError, match=message):
        adopt_tars(tmp_path)
    assert not (tmp_path / "train" / INDEX_NAME).exists()


GOOD = payloads_of(make_sample(0))
OTHER_SHAPE = payloads_of(make_sample(0, spec=make_spec(num_hops=9)), spec=make_spec(num_hops=9))
BAD_TARS: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "no tokens": ([*members_of("a", GOOD, ("json", "frames.npy", "logmel.npy"))], r"a lacks tokens\.npy"),
    "a dot in the key": ([*members_of("a.b", GOOD)], r"a\.b\.frames\.npy has a dot in its key"),
    "a folder in the key": ([*members_of("x/a", GOOD)], "a sample key is .*'x/a'"),
    "a member twice": ([*members_of("a", GOOD), ("a.json", b"{}")], r"a\.json comes twice"),
    "a key twice": ([*members_of("a", GOOD), *members_of("b", GOOD), *members_of("a", GOOD)], "key a comes twice"),
    "raw and JPEG": ([*members_of("a", {**GOOD, "frames.jpg": b"x"})], "both frames.npy and frames.jpg"),
    "other shapes": ([*members_of("a", GOOD), *members_of("b", OTHER_SHAPE)], r"shapes of b are .*\(6, 9\).*of a in"),
    "frames of floats": ([*members_of("a", {**GOOD, "frames.npy": GOOD["logmel.npy"]})], r"a\.frames\.npy: it is \(6"),
    "cut values": ([*members_of("a", {**GOOD, "logmel.npy": GOOD["logmel.npy"][:-1]})], r"a\.logmel\.npy: .*119 bytes"),
    "no npy": ([*members_of("a", {**GOOD, "tokens.npy": b"1 2 3"})], r"a\.tokens\.npy: it does not begin"),
    "no json": ([*members_of("a", {**GOOD, "json": b"joy"})], r"a\.json: "),
}


@pytest.mark.parametrize(("pairs", "message"), BAD_TARS.values(), ids=BAD_TARS)
def test_a_tar_that_cannot_be_used_is_an_error_with_tar_and_member(
    tmp_path: Path, pairs: list[tuple[str, bytes]], message: str
) -> None:
    path = write_tar(tmp_path / "train" / "a.tar", pairs)
    with pytest.raises(ShardError, match=message) as caught:
        adopt_tars(tmp_path)
    assert f"file: {path}" in str(caught.value)
    assert [item.name for item in (tmp_path / "train").iterdir()] == ["a.tar"]


def test_negative_tokens_are_an_error(tmp_path: Path) -> None:
    sample = make_sample(0)
    sample.tokens[3] = -100
    write_tar(tmp_path / "a.tar", members_of("a", payloads_of(sample)))
    with pytest.raises(ShardError, match=r"a\.tokens\.npy: -100 is no token id"):
        adopt_tars(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE], ids=["hard link", "symbolic link"])
def test_a_link_is_an_error_with_its_name(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", members_of("a", GOOD))
    with tarfile.open(path, "a:") as tar:
        member = tarfile.TarInfo("b.frames.npy")
        member.type, member.linkname = kind, "a.frames.npy"
        tar.addfile(member)
    with pytest.raises(ShardError, match=r"b\.frames\.npy is a link"):
        adopt_tars(tmp_path)


def test_a_key_in_two_tars_of_a_split_is_an_error(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, members_of("same", GOOD))
    with pytest.raises(ShardError, match=r"same is also in a\.tar(?s:.*)b\.tar"):
        adopt_tars(tmp_path)


def test_a_tar_cut_anywhere_is_not_indexed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*members_of("a", GOOD, ORDER), *members_of("b", GOOD, ORDER)])
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    for size in range(0, last.offset_data + last.size, 173):
        path.write_bytes(whole[:size])
        with pytest.raises(ShardError, match=r"a\.tar"):
            adopt_tars(tmp_path)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_a_compressed_tar_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "a.tar", members_of("a", GOOD))
    content = path.read_bytes()
    path.unlink()
    (tmp_path / name).write_bytes(gzip.compress(content))
    with pytest.raises(ShardError, match=rf"compressed(?s:.*){name}(?s:.*)gzip -d"):
        adopt_tars(tmp_path)


def test_two_tars_in_one_file_are_an_error(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", members_of("a", GOOD))
    path.write_bytes(path.read_bytes() + write_tar(tmp_path / "x" / "b.tar", members_of("b", GOOD)).read_bytes())
    (tmp_path / "x" / "b.tar").unlink()
    with pytest.raises(ShardError, match="two tars one after the other"):
        adopt_tars(tmp_path)


def test_folders_without_a_tar_or_with_tars_at_two_depths_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="there are no tars here"):
        adopt_tars(tmp_path)
    with pytest.raises(ShardError, match="there is no such folder"):
        adopt_tars(tmp_path / "nowhere")
    write_tar(tmp_path / "train" / "a.tar", [])
    with pytest.raises(ShardError, match="no samples in these tars"):
        adopt_tars(tmp_path)
    write_tar(tmp_path / "a.tar", members_of("a", GOOD))
    with pytest.raises(ShardError, match="in the folder and in train/ below it"):
        adopt_tars(tmp_path)


def test_an_index_that_knows_more_than_the_tars_is_kept(tmp_path: Path) -> None:
    write_split(tmp_path, make_samples())
    before = (tmp_path / "train" / INDEX_NAME).read_bytes()
    with pytest.raises(ShardError, match="knows more than the tars tell"):
        adopt_tars(tmp_path)
    (tmp_path / "train" / INDEX_NAME).write_bytes(before[:-9])
    with pytest.raises(ShardError, match="the index is damaged"):
        adopt_tars(tmp_path)


def test_our_own_tars_without_an_index_are_indexed_by_what_they_hold(tmp_path: Path) -> None:
    write_split(tmp_path, make_samples(7))
    table = (tmp_path / "train" / TABLE_NAME).read_bytes()
    (tmp_path / "train" / INDEX_NAME).unlink()
    adopt_tars(tmp_path)
    assert (tmp_path / "train" / TABLE_NAME).read_bytes() == table
    assert Split(tmp_path / "train").label_sets == MELD_LABELS


def test_indexing_again_takes_up_what_has_changed(tmp_path: Path) -> None:
    write_labels(tmp_path / "train", {"a": "x"})
    adopt_tars(tmp_path)
    write_labels(tmp_path / "train", {"a": "x"}, {"a": "y"})
    adopt_tars(tmp_path)
    assert Split(tmp_path / "train").label_counts() == {"a": {"x": 1, "y": 1}}


def test_square_frames_in_a_jpeg_are_found_and_others_refused(tmp_path: Path) -> None:
    spec = make_spec(storage="jpeg", size=16)
    samples = [make_sample(i, spec=spec) for i in range(3)]
    write_tar(
        tmp_path / "train" / "a.tar",
        [pair for item in samples for pair in members_of(item.meta.key, payloads_of(item, spec=spec))],
    )
    adopt_tars(tmp_path)
    split = Split(tmp_path / "train")
    assert (split.spec.video.shape, split.spec.video.storage) == ((4, 16, 16, 3), "jpeg")
    assert verify_split(tmp_path / "train").problems == ()
    batch = next(iter(loader_in_order(split, batch_size=3)))
    assert batch.frames.shape == (3, 4, 16, 16, 3)
    np.testing.assert_array_equal(split.sample(1).frames, samples[1].frames)


def test_a_sample_in_two_splits_is_said_and_a_key_that_comes_again_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ids may start again in every split, as MELD's do; the same content under the same key is the same sample."""
    samples = make_samples(4)
    write_by_webdataset(tmp_path / "train", samples)
    write_by_webdataset(tmp_path / "dev", samples[:2])
    other = replace(samples[3].meta, key=samples[0].meta.key)
    write_by_webdataset(tmp_path / "test", [replace(samples[3], meta=other)])
    adopt_tars(tmp_path)
    key = samples[0].meta.key
    assert [record.getMessage() for record in caplog.records] == [
        f"2 samples are in dev and in train, {key} for one: scores on the second flatter what is trained on the first"
    ]
