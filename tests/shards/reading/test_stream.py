import gzip
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.format.codec import RAW_DTYPES, npy_header
from shards.reading.host_batch import HostBatch
from shards.reading.loader import ShardLoader
from shards.reading.split import Split
from shards.reading.stream import ShardStream
from shards.schema import MELD_LABELS, LabelSet
from shards.spec import FeatureSpec
from tests.support.commands import environment
from tests.support.samples import loader_in_order, make_sample, make_spec, write_split
from tests.support.tars import members_of, payloads_of, write_tar

NUM_SAMPLES = 7


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stream")
    write_split(root, [make_sample(i, absent=("video", "audio") if i == 1 else ()) for i in range(NUM_SAMPLES)])
    return root / "train"


def stream_of(*urls: str | Path, spec: FeatureSpec | None = None, **options: Any) -> ShardStream:
    options = {"label_sets": MELD_LABELS, "batch_size": 3, **options}
    return ShardStream([str(url) for url in urls], spec=spec or make_spec(), **options)


def assert_same_batches(got: list[HostBatch], expected: ShardLoader) -> None:
    loaded = 0
    for ours, theirs in zip(got, expected, strict=True):
        for name in (
            "frames",
            "logmel",
            "tokens",
            "num_frames",
            "num_hops",
            "num_tokens",
            "present",
            "samples",
            "window",
        ):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes()), name
        assert {name: features.tobytes() for name, features in ours.features.items()} == {
            name: features.tobytes() for name, features in theirs.features.items()
        }
        assert {task: labels.tolist() for task, labels in ours.labels.items()} == {
            task: labels.tolist() for task, labels in theirs.labels.items()
        }
        assert all(labels.dtype == np.int64 for labels in ours.labels.values())
        assert (len(ours), ours.global_size) == (len(theirs), theirs.global_size)
        loaded += len(ours)
    assert loaded == NUM_SAMPLES


@pytest.mark.parametrize(
    "urls",
    [
        ("{}/train-{{00000..00002}}.tar",),
        ("{}/train-00000.tar", "pipe:cat {}/train-00001.tar", "file:{}/train-00002.tar"),
    ],
    ids=["braces", "file and pipe"],
)
def test_a_stream_gives_the_batches_of_the_loader(directory: Path, urls: tuple[str, ...]) -> None:
    got = list(stream_of(*(url.format(directory) for url in urls)))
    assert_same_batches(got, loader_in_order(Split(directory), batch_size=3))


def test_jpeg_frames_are_decoded_as_the_loader_does(tmp_path: Path) -> None:
    spec = make_spec(storage="jpeg", size=16)
    write_split(tmp_path, [make_sample(i, spec=spec) for i in range(NUM_SAMPLES)], spec=spec)
    got = list(stream_of(f"{tmp_path}/train/train-{{00000..00002}}.tar", spec=spec))
    assert_same_batches(got, loader_in_order(Split(tmp_path / "train"), batch_size=3))


def test_features_of_encoded_tars_come_as_from_the_loader(tmp_path: Path) -> None:
    spec = make_spec(widths={"video": 5, "text": 3})
    write_split(tmp_path, [make_sample(i, spec=spec) for i in range(NUM_SAMPLES)], spec=spec)
    got = list(stream_of(f"{tmp_path}/train/train-{{00000..00002}}.tar", spec=spec))
    assert [list(batch.features) for batch in got] == [["video", "text"]] * 3
    assert_same_batches(got, loader_in_order(Split(tmp_path / "train"), batch_size=3))


def test_raw_tars_read_as_encoded_ones_are_refused_and_the_other_way_round(directory: Path, tmp_path: Path) -> None:
    spec = make_spec(widths={"video": 5})
    with pytest.raises(ShardError, match=r"(?s)a sample lacks video\.npy.*train-dia0-utt0.*encoded are video"):
        list(stream_of(f"{directory}/train-00000.tar", spec=spec))
    write_split(tmp_path, [make_sample(0, spec=spec)], spec=spec)
    with pytest.raises(ShardError, match=r"a sample lacks frames\.npy"):
        list(stream_of(f"{tmp_path}/train/train-00000.tar"))
    wider = make_spec(widths={"video": 6})
    with pytest.raises(ShardError, match=r"video\.npy cannot be used: it is \(5,\), the spec says \(6,\)"):
        list(stream_of(f"{tmp_path}/train/train-00000.tar", spec=wider))


def test_a_batch_stays_as_it_is_when_the_next_is_asked_for(directory: Path) -> None:
    batches = iter(stream_of(f"{directory}/train-{{00000..00002}}.tar"))
    first = next(batches)
    before = first.frames.copy()
    next(batches)
    np.testing.assert_array_equal(first.frames, before)


class _Handler(SimpleHTTPRequestHandler):
    """Serve a folder; of a file named `cut…` send the first half and hang up."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        outputfile.write(content[: len(content) // 2] if "/cut" in self.path else content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(tmp_path))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", tmp_path
        httpd.shutdown()
        thread.join()


def test_shards_come_over_http(server: tuple[str, Path], directory: Path) -> None:
    url, root = server
    for path in directory.glob("*.tar"):
        (root / path.name).write_bytes(path.read_bytes())
    got = list(stream_of(f"{url}/train-{{00000..00002}}.tar"))
    assert_same_batches(got, loader_in_order(Split(directory), batch_size=3))


@pytest.mark.parametrize("name", ["cut.tar", "not-there.tar"])
def test_a_server_that_sends_half_or_nothing_is_an_error(server: tuple[str, Path], directory: Path, name: str) -> None:
    url, root = server
    (root / "cut.tar").write_bytes((directory / "train-00000.tar").read_bytes())
    with pytest.raises(ShardError, match=rf"ended with exit code \d+\n  file: {url}/{name}"):
        list(stream_of(f"{url}/{name}"))


ORDERS = {
    "ours": ("frames.npy", "logmel.npy", "tokens.npy", "json"),
    "zeros last": ("json", "tokens.npy", "logmel.npy", "frames.npy"),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("through", ["{}", "pipe:cat {}"], ids=["file", "pipe"])
def test_a_tar_cut_anywhere_is_an_error_never_fewer_samples(
    tmp_path: Path, order: tuple[str, ...], through: str
) -> None:
    samples = [make_sample(i, absent=("video",)) for i in range(2)]  # frames of zeros look like the end of an archive
    path = write_tar(
        tmp_path / "cut.tar",
        (member for item in samples for member in members_of(item.meta.key, payloads_of(item), order)),
    )
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    stream = stream_of(through.format(path))
    step = 512 if through == "{}" else 2048
    for size in [*range(0, len(whole), step), *range(7, len(whole), step)]:
        path.write_bytes(whole[:size])
        if size >= end + 512:  # at least one block of zeros is left to say that here is the end
            assert sum(len(batch) for batch in stream) == len(samples)
            continue
        with pytest.raises(ShardError, match=r"cut\.tar"):
            list(stream)


def test_a_header_damaged_anywhere_is_an_error(tmp_path: Path) -> None:
    items = [make_sample(i) for i in range(2)]
    path = write_tar(
        tmp_path / "a.tar", (pair for item in items for pair in members_of(item.meta.key, payloads_of(item)))
    )
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    for offset in headers:
        path.write_bytes(whole[: offset + 3] + b"~" + whole[offset + 4 :])
        with pytest.raises(ShardError, match=r"a\.tar"):
            list(stream_of(path))


GOOD = payloads_of(make_sample(0))
META = json.loads(GOOD["json"])


def with_json(**changes: Any) -> dict[str, bytes]:
    return {**GOOD, "json": json.dumps({**META, **changes}).encode()}


BAD_SAMPLES: dict[str, tuple[dict[str, bytes], str]] = {
    "no tokens": ({name: value for name, value in GOOD.items() if name != "tokens.npy"}, r"lacks tokens\.npy"),
    "no member of ours": ({"mp4": b"x"}, r"lacks frames\.npy, logmel\.npy, tokens\.npy, json"),
    "another shape": (
        {**GOOD, "logmel.npy": npy_header((6, 11), RAW_DTYPES["audio"]) + bytes(6 * 11 * 2)},
        r"logmel\.npy cannot be used: it is \(6, 11\), the spec says \(6, 10\)",
    ),
    "another dtype": (
        {**GOOD, "logmel.npy": npy_header((6, 10), RAW_DTYPES["text"]) + bytes(240)},
        "of float16 values",
    ),
    "too few values": ({**GOOD, "tokens.npy": GOOD["tokens.npy"][:-4]}, "cannot be read"),
    "no npy": ({**GOOD, "frames.npy": b"hello"}, "does not begin with the .npy header of uint8 values"),
    "a pickle": ({**GOOD, "frames.npy": b"\x80\x04."}, "does not begin with the .npy header"),
    "no json": ({**GOOD, "json": b"{"}, "cannot be read: JSONDecodeError"),
    "a json list": ({**GOOD, "json": b"[]"}, "cannot be read"),
    "an unknown label": (
        with_json(labels={"emotion": {"name": "joyful"}, "sentiment": {"name": "positive"}}),
        "has no label 'joyful'",
    ),
    "a task without label": (with_json(labels={"emotion": {"name": "joy"}}), "no label of sentiment"),
    "no labels": (with_json(labels={}), "no label of emotion, only of nothing"),
    "too many hops": (with_json(num_hops=11), "a number from 0 to 10"),
    "a length that is no number": (with_json(num_tokens=True), "a number from 0 to 12"),
    "no presence": (with_json(presence={}), "cannot be read: KeyError"),
}


@pytest.mark.parametrize(("payloads", "message"), BAD_SAMPLES.values(), ids=BAD_SAMPLES)
def test_a_sample_that_cannot_be_used_is_an_error_with_tar_and_key(
    tmp_path: Path, payloads: dict[str, bytes], message: str
) -> None:
    pairs = [*members_of("good", GOOD), *members_of("bad", payloads), *members_of("fine", GOOD)]
    path = write_tar(tmp_path / "a.tar", pairs)
    with pytest.raises(ShardError, match=message) as caught:
        list(stream_of(path, batch_size=1))
    assert f"file: {path}, bad\n" in str(caught.value)


BAD_MEMBERS = {
    "a dot in the key": ([*members_of("a.b", GOOD)], r"a key ends at its first dot"),
    "a member twice": ([*members_of("a", GOOD), ("a.json", b"{}")], r"a\.json comes twice"),
    "a key twice, apart": ([*members_of("a", GOOD), *members_of("b", GOOD), *members_of("a", GOOD)], "comes twice"),
    "samples woven together": (
        [(f"{key}.{name}", GOOD[name]) for name in GOOD for key in "ab"],
        "one after another under one key",
    ),
}


@pytest.mark.parametrize(("pairs", "message"), BAD_MEMBERS.values(), ids=BAD_MEMBERS)
def test_members_that_cannot_be_told_apart_are_an_error(
    tmp_path: Path, pairs: list[tuple[str, bytes]], message: str
) -> None:
    path = write_tar(tmp_path / "a.tar", pairs)
    with pytest.raises(ShardError, match=message) as caught:
        list(stream_of(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE], ids=["hard link", "symbolic link"])
def test_a_link_in_place_of_a_member_is_an_error(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", members_of("a", GOOD))
    with tarfile.open(path, "a:") as tar:
        for name in GOOD:
            member = tarfile.TarInfo(f"b.{name}")
            member.type, member.linkname = kind, f"a.{name}"
            tar.addfile(member)
    with pytest.raises(ShardError, match=r"b\.frames\.npy is a link"):
        list(stream_of(path))


def test_members_that_are_not_ours_are_ignored(tmp_path: Path) -> None:
    payloads = {"txt": b"hello", **GOOD, "0.png": b"png"}
    pairs = [("__meta__.json", b"{}"), ("README", b"hi"), *members_of("./some/where/x", payloads)]
    [batch] = list(stream_of(write_tar(tmp_path / "a.tar", pairs, tar_format=tarfile.PAX_FORMAT)))
    assert batch.frames[0].tobytes() == make_sample(0).frames.tobytes()


def test_a_label_index_follows_from_the_name_and_the_given_labels(tmp_path: Path) -> None:
    turned = [replace(labels, names=labels.names[::-1]) for labels in MELD_LABELS]
    [batch] = list(stream_of(write_tar(tmp_path / "a.tar", members_of("a", GOOD)), label_sets=turned))
    assert META["labels"]["emotion"] == {"index": 0, "name": "anger"}
    assert batch.labels["emotion"].tolist() == [6]


@settings(max_examples=25, deadline=None)
@given(
    batch_size=st.integers(1, NUM_SAMPLES + 1),
    shuffle_buffer=st.integers(0, NUM_SAMPLES + 1),
    seed=st.integers(0, 2**64),
)
def test_every_sample_comes_once_in_a_pass_and_equal_arguments_give_equal_passes(
    directory: Path, batch_size: int, shuffle_buffer: int, seed: int
) -> None:
    def passes() -> list[list[int]]:
        stream = stream_of(
            f"{directory}/train-{{00000..00002}}.tar", batch_size=batch_size, shuffle_buffer=shuffle_buffer, seed=seed
        )
        return [[hops for batch in stream for hops in batch.frames.sum(axis=(1, 2, 3, 4)).tolist()] for _ in range(2)]

    first, second = passes()
    assert sorted(first) == sorted(second)
    assert len(first) == NUM_SAMPLES
    assert [first, second] == passes()
    assert shuffle_buffer > 0 or first == second


def test_passes_and_seeds_differ_in_their_order(directory: Path) -> None:
    def order(stream: ShardStream) -> list[int]:
        return [sum for batch in stream for sum in batch.frames.sum(axis=(1, 2, 3, 4)).tolist()]

    url = f"{directory}/train-{{00000..00002}}.tar"
    stream = stream_of(url, shuffle_buffer=NUM_SAMPLES, seed=1)
    orders = [order(stream), order(stream), order(stream_of(url, shuffle_buffer=NUM_SAMPLES, seed=2))]
    assert len({tuple(item) for item in orders}) == 3


def test_a_command_that_fails_is_an_error_although_all_samples_came(directory: Path) -> None:
    with pytest.raises(ShardError, match=r"ended with exit code 3\n  file: pipe:cat"):
        list(stream_of(f"pipe:cat {directory}/train-00000.tar; exit 3"))


def test_two_tars_in_one_pipe_are_an_error_not_the_first_of_them(directory: Path) -> None:
    with pytest.raises(ShardError, match="two tars are two URLs"):
        list(stream_of(f"pipe:cat {directory}/train-00000.tar {directory}/train-00001.tar"))


def test_a_compressed_tar_is_read_through_its_program_and_refused_with_that_advice(
    directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress((directory / "train-00000.tar").read_bytes()))
    with pytest.raises(ShardError, match="pipe:gzip -dc FILE"):
        list(stream_of(path))
    assert [len(batch) for batch in stream_of(f"pipe:gzip -dc {path}")] == [3]


@pytest.mark.parametrize("url", ["not-there.tar", "nothing://a.tar"])
def test_what_cannot_be_opened_is_named(url: str) -> None:
    with pytest.raises(ShardError, match=f"cannot be opened(?s:.*)file: {url}"):
        list(stream_of(url))


def test_tars_without_a_sample_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no samples in these tars"):
        list(stream_of(write_tar(tmp_path / "a.tar", [])))


def test_a_stream_that_is_left_ends_its_command(directory: Path, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    command = f"trap 'touch {ended}' EXIT; cat {directory}/train-00000.tar; yes"
    batches = iter(stream_of(f"pipe:{command}", batch_size=1))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert ended.exists()


def read_in_secure_mode(url: str) -> "subprocess.CompletedProcess[str]":
    code = (
        "import sys\nfrom shards.reading.stream import ShardStream\nfrom tests.support.samples import make_spec\n"
        "print(sum(map(len, ShardStream([sys.argv[1]], spec=make_spec(), label_sets=(), batch_size=1))))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, url],
        env={**environment(), "WDS_SECURE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_secure_mode_refuses_a_pipe_and_says_why(directory: Path) -> None:
    done = read_in_secure_mode(f"pipe:cat {directory}/train-00000.tar")
    assert "ShardError: a tar cannot be opened" in done.stderr
    assert "next: unset WDS_SECURE" in done.stderr


def test_secure_mode_reads_a_file(directory: Path) -> None:
    done = read_in_secure_mode(str(directory / "train-00000.tar"))
    assert done.stdout == "3\n", done.stderr


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"shuffle_buffer": -1}, {"seed": -1}], ids=lambda options: next(iter(options))
)
def test_a_count_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}={next(iter(options.values()))}"):
        stream_of("a.tar", **options)


def test_urls_are_a_list_that_is_not_empty() -> None:
    refused: tuple[Sequence[str], ...] = ("a.tar", [])
    for urls in refused:
        with pytest.raises(ValueError, match="a list of at least one"):
            ShardStream(urls, spec=make_spec(), label_sets=(LabelSet(task="a", names=("b",)),), batch_size=1)
