"""A real S3 server, in a process of its own, behind a proxy that misbehaves; all of it on the loopback."""

import hashlib
import itertools
import os
import random
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.errors import UrlError
from shards.order.orders import BlockShuffled, InOrder, Order, Shuffled
from shards.reading.loader import ShardLoader
from shards.reading.split import Split
from shards.storage.cache import ShardCache
from shards.storage.prefetch import Prefetcher
from shards.storage.url_folder import RetryPolicy, UrlFolder
from shards.storage.url_source import UrlSource
from tests.support.faulty_server import KINDS, Fault, FaultyServer, proxy_answer, wait_until
from tests.support.samples import make_sample, write_split

pytestmark = pytest.mark.slow

QUICK = RetryPolicy(num_tries=4, first_wait_seconds=0.001, longest_wait_seconds=0.002, request_bytes=40_000)
SIZE = 100_000
CONTENTS = [random.Random(number).randbytes(SIZE) for number in range(6)]
ORDER = [(f"{number}.tar", SIZE, hashlib.sha256(content).hexdigest()) for number, content in enumerate(CONTENTS)]
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start moto's server and put the files there."""
    log = tmp_path_factory.mktemp("moto") / "log"  # not a pipe: it tells of each request, and would wait for a reader
    with log.open("w") as file:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stderr=file, stdout=file)
    try:
        wait_until(lambda: "Running on" in log.read_text(), seconds=60)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text())
        assert found is not None
        port = int(found.group(1))
        put(f"http://127.0.0.1:{port}/bucket", b"")
        for (name, _, _), content in zip(ORDER, CONTENTS, strict=True):
            put(f"http://127.0.0.1:{port}/bucket/shards/train/{name}", content)
        put(f"http://127.0.0.1:{port}/bucket/shards/train/index.json", b"{}")
        yield port
    finally:
        process.kill()
        process.wait()


def put(url: str, content: bytes) -> None:
    headers = {"Content-Type": "application/octet-stream"}  # urllib's own is that of a form, which moto would parse
    with urllib.request.urlopen(urllib.request.Request(url, content, headers, method="PUT"), timeout=30):
        pass


@pytest.fixture(scope="module")
def proxy(s3_port: int) -> Iterator[FaultyServer]:
    with FaultyServer(proxy_answer(s3_port)) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {**SETTINGS, "AWS_ENDPOINT_URL": server.url}.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield server


@pytest.fixture
def server(proxy: FaultyServer) -> FaultyServer:
    proxy.script([])
    return proxy


@pytest.fixture
def train(server: FaultyServer) -> UrlFolder:
    return UrlFolder("s3://bucket/shards", retries=QUICK).child("train")


def test_a_bucket_is_listed_and_read(train: UrlFolder) -> None:
    assert UrlFolder("s3://bucket/shards").list() == ["train"]
    assert train.list() == [*(f"{number}.tar" for number in range(6)), "index.json"]
    assert train.read("index.json") == b"{}"


def test_a_listing_shows_what_came_since_the_last_one(s3_port: int, train: UrlFolder) -> None:
    put(f"http://127.0.0.1:{s3_port}/bucket/growing/train/index.json", b"{}")
    root = UrlFolder("s3://bucket/growing")
    assert root.list() == ["train"]
    put(f"http://127.0.0.1:{s3_port}/bucket/growing/dev/index.json", b"{}")
    assert root.list() == ["dev", "train"]


def test_what_is_not_in_the_bucket_is_a_named_error(train: UrlFolder) -> None:
    with pytest.raises(UrlError, match=r"(?s)no such file.*s3://bucket/shards/train/none\.tar"):
        train.read("none.tar")
    with pytest.raises(UrlError, match=r"(?s)no such file.*s3://nowhere/train"):
        UrlFolder("s3://nowhere").child("train").list()


@pytest.mark.parametrize("where", [0, 0.4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_in_a_request_is_mended(
    kind: str, where: float, tmp_path: Path, server: FaultyServer, train: UrlFolder
) -> None:
    fault = next(Fault(each, where=where) for each in KINDS if each == kind)
    server.script([None, fault])
    name, num_bytes, sha256 = ORDER[0]
    with ShardCache(tmp_path, max_bytes=SIZE).lease(train, name, num_bytes=num_bytes, sha256=sha256) as path:
        assert path.read_bytes() == CONTENTS[0]
    assert len(server.requests) > 3 or kind == "delay"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_does_not_recover_is_an_error_with_its_reason(
    status: int, server: FaultyServer, train: UrlFolder
) -> None:
    server.script([Fault("status", status=status)] * 1000)
    with pytest.raises(UrlError, match=rf"(?s)after 4 tries.*{status}.*s3://bucket/shards/train/0\.tar"):
        train.read("0.tar")


def test_a_refusal_is_an_error_at_once(server: FaultyServer, train: UrlFolder) -> None:
    server.script([Fault("status", status=403)] * 1000)
    with pytest.raises(UrlError, match=r"(?s)may not be read.*s3://bucket/shards/train/0\.tar.*credentials"):
        list(train.stream("0.tar", num_bytes=SIZE))
    assert len(server.requests) == 1


def test_an_object_shorter_than_its_index_says_is_an_error(train: UrlFolder) -> None:
    with pytest.raises(UrlError, match=r"(?s)ends after 100,000 of 200,000 bytes"):
        list(train.stream("0.tar", num_bytes=2 * SIZE))


@given(
    faults=st.lists(
        st.none()
        | st.builds(
            Fault,
            kind=st.sampled_from(KINDS),
            where=st.floats(0, 1),
            status=st.sampled_from([403, 429, 500, 503]),
            seconds=st.just(0.01),
        ),
        max_size=12,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_goes_wrong_files_have_the_right_bytes_or_there_is_a_named_error(
    faults: list[Fault | None],
    server: FaultyServer,
    train: UrlFolder,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server.script(faults)
    cache = ShardCache(tmp_path_factory.mktemp("cache"), max_bytes=2 * SIZE)
    with Prefetcher(cache, train, ORDER[:3], ahead_bytes=SIZE, num_threads=2) as prefetcher:
        for k in range(3):
            said = ""
            try:
                with prefetcher.get(k) as path:
                    assert path.read_bytes() == CONTENTS[k]
            except UrlError as exc:
                said = str(exc)
            assert not said or f"s3://bucket/shards/train/{k}.tar" in said


CONSUME = """
import sys
from pathlib import Path
from tests.shards.storage.test_url_folder_s3 import *
order = ORDER * int(sys.argv[2])
with Prefetcher(
    ShardCache(Path(sys.argv[1]), max_bytes=3 * SIZE),
    UrlFolder("s3://bucket/shards/train", retries=QUICK), order, ahead_bytes=SIZE, num_threads=2,
) as prefetcher:
    for k in range(len(order)):
        with prefetcher.get(k) as path:
            assert path.read_bytes() == CONTENTS[k % 6], "wrong bytes"
        print(k, flush=True)
"""


def consume(directory: Path, *, epochs: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CONSUME, str(directory), str(epochs)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_process_killed_at_any_moment_costs_its_successor_nothing(tmp_path: Path, server: FaultyServer) -> None:
    pattern = [None, Fault("delay", seconds=0.02), None, Fault("reset", where=0.4), None, None, Fault("flip")]
    for num_files in (1, 4, 9):
        server.script(itertools.islice(itertools.cycle(pattern), 400))
        victim = consume(tmp_path, epochs=100)
        assert victim.stdout is not None
        for _ in range(num_files):
            assert victim.stdout.readline()
        victim.kill()
        victim.communicate()
        server.script([])
        successor = consume(tmp_path, epochs=1)
        output, _ = successor.communicate(timeout=120)
        assert successor.returncode == 0
        assert output.split() == [str(k) for k in range(6)]
        assert not list(tmp_path.glob("*.part"))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * SIZE


def test_a_silent_server_does_not_keep_a_process_from_ending(tmp_path: Path, server: FaultyServer) -> None:
    code = f"""
from tests.shards.storage.test_url_folder_s3 import *
prefetcher = Prefetcher(ShardCache(Path({str(tmp_path)!r}), max_bytes=9 * SIZE),
    UrlFolder("s3://bucket/shards/train"), ORDER, ahead_bytes=SIZE)
print("ready", flush=True)
sys.stdin.readline()
raise SystemExit(3)
"""
    server.script([Fault("delay", seconds=60)] * 6)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdin=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(server.requests) > 0)
    process.communicate("\n", timeout=10)
    assert process.returncode == 3


def test_batches_from_a_faulty_bucket_are_those_of_the_folder(
    s3_port: int, server: FaultyServer, tmp_path: Path
) -> None:
    write_split(tmp_path, [make_sample(i) for i in range(24)], samples_per_shard=3)
    for path in filter(Path.is_file, (tmp_path / "train").iterdir()):
        put(f"http://127.0.0.1:{s3_port}/bucket/whole/train/{path.name}", path.read_bytes())
    local = Split(tmp_path / "train")
    largest = max(shard.bytes for shard in local.index.shards)
    faults = [None, Fault("delay"), Fault("reset"), None, Fault("cut"), Fault("shorten"), Fault("status", status=500)]
    orders: list[tuple[Order, int]] = [(InOrder(24), 5), (BlockShuffled((3,) * 8, 1, 2), 6), (Shuffled(24, 1), 8)]
    for number, (order, num_shards) in enumerate(orders):
        server.script(itertools.islice(itertools.cycle(faults), 60))
        cache = ShardCache(tmp_path / f"cache-{number}", max_bytes=num_shards * largest)
        remote = Split(UrlSource(UrlFolder("s3://bucket/whole/train", retries=QUICK), cache))
        batches = [
            [
                (batch.samples.tolist(), batch.frames.tobytes(), batch.logmel.tobytes(), batch.tokens.tobytes())
                for batch in ShardLoader(split, order=order, batch_size=3, num_readers=2)
            ]
            for split in (local, remote)
        ]
        assert batches[1] == batches[0]
        assert len(server.requests) > 8
        assert sum(path.stat().st_size for path in cache.directory.iterdir()) <= cache.max_bytes
