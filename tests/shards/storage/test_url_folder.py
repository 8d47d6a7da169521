import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import botocore.exceptions
import fsspec
import gcsfs.retry
import pytest
import requests
import s3fs.errors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.errors import UrlError
from shards.storage.url_folder import RetryPolicy, UrlFolder, is_url
from tests.support.faulty_server import Fault, FaultyServer, folder_answer

QUICK = RetryPolicy(num_tries=4, first_wait_seconds=0.001, longest_wait_seconds=0.002, request_bytes=1000)
CONTENT = random.Random(0).randbytes(4500)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "train").mkdir()
    (folder / "train" / "a.tar").write_bytes(CONTENT)
    (folder / "train" / "index.json").write_bytes(b"{}")
    return folder


@pytest.fixture(scope="module")
def module_server(served: Path) -> Iterator[FaultyServer]:
    with FaultyServer(folder_answer(served)) as server:
        yield server


@pytest.fixture
def server(module_server: FaultyServer) -> FaultyServer:
    module_server.script([])
    return module_server


@pytest.fixture
def train(server: FaultyServer) -> UrlFolder:
    return UrlFolder(f"{server.url}/train", retries=QUICK)


def read_all(folder: UrlFolder, *, num_bytes: int = len(CONTENT)) -> bytes:
    return b"".join(folder.stream("a.tar", num_bytes=num_bytes))


@pytest.mark.parametrize(
    "url", ["s3://bucket/a", "hf://datasets/a/b", "HTTPS://host", "file:///a", "memory://", "a+b://c"]
)
def test_what_has_a_scheme_is_a_url(url: str) -> None:
    assert is_url(url)


@pytest.mark.parametrize("path", ["data/shards", "/data/shards", "C:\\data", "data/s3://odd", "://a", ""])
def test_a_path_is_no_url(path: str) -> None:
    assert not is_url(path)


def test_a_folder_that_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with a scheme"):
        UrlFolder("data/shards")


@pytest.mark.parametrize("kind", ["file", "memory", "http", "http, trailing slash"])
def test_a_folder_of_any_kind_is_listed_and_read(kind: str, served: Path, server: FaultyServer) -> None:
    if kind == "memory":
        memory = fsspec.filesystem("memory")
        memory.pipe({"/shards/train/a.tar": CONTENT, "/shards/train/index.json": b"{}"})
    urls = {
        "file": served.as_uri(),
        "memory": "memory://shards",
        "http": server.url,
        "http, trailing slash": f"{server.url}/",
    }
    root = UrlFolder(urls[kind], retries=QUICK)
    train = root.child("train")
    assert root.list() == ["train"]
    assert train.list() == ["a.tar", "index.json"]
    assert train.read("index.json") == b"{}"
    assert read_all(train) == CONTENT


@pytest.mark.parametrize("kind", ["file", "memory", "http"])
def test_a_file_that_is_not_there_is_an_error_that_names_its_url(kind: str, served: Path, server: FaultyServer) -> None:
    url = {"file": served.as_uri(), "memory": "memory://nowhere", "http": server.url}[kind]
    with pytest.raises(UrlError, match=r"(?s)no such file or folder.*/none\.tar"):
        UrlFolder(url, retries=QUICK).read("none.tar")
    assert len(server.requests) == (kind == "http")  # and it is not asked for again


@pytest.mark.parametrize("kind", ["file", "memory", "http"])
def test_a_folder_that_is_not_there_cannot_be_listed(kind: str, served: Path, server: FaultyServer) -> None:
    url = {"file": served.as_uri(), "memory": "memory://nowhere", "http": server.url}[kind]
    with pytest.raises(UrlError, match=r"(?s)no such file or folder.*/dev/"):
        UrlFolder(url, retries=QUICK).child("dev").list()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_not_tried_again_and_speaks_of_credentials(
    status: int, server: FaultyServer, train: UrlFolder
) -> None:
    server.script([Fault("status", status=status)])
    with pytest.raises(UrlError, match=rf"(?s)may not be read: .*{status}.*a\.tar.*credentials"):
        train.read("a.tar")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault("status", status=status) for status in (408, 429, 500, 502, 503, 504)),
        *(Fault("reset", where=where) for where in (0, 0.5)),
        *(Fault("cut", where=where) for where in (0, 0.5)),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(fault: Fault, server: FaultyServer, train: UrlFolder) -> None:
    server.script([fault] * (QUICK.num_tries - 1))
    assert train.read("a.tar") == CONTENT
    assert len(server.requests) == QUICK.num_tries


def test_after_the_last_try_the_error_names_url_tries_and_reason(server: FaultyServer, train: UrlFolder) -> None:
    server.script([Fault("status", status=503)] * QUICK.num_tries)
    with pytest.raises(UrlError, match=r"(?s)after 4 tries.*503.*http://.*/train/a\.tar"):
        train.read("a.tar")
    assert len(server.requests) == QUICK.num_tries


def test_a_server_that_is_gone_is_tried_again_and_named(served: Path) -> None:
    with FaultyServer(folder_answer(served)) as server:
        folder = UrlFolder(server.url, retries=QUICK)
    with pytest.raises(UrlError, match=r"(?s)after 4 tries.*http://.*index\.json"):
        folder.read("index.json")


def test_waits_between_tries_are_those_of_the_policy(server: FaultyServer) -> None:
    waits: list[float] = []
    policy = RetryPolicy(num_tries=5, first_wait_seconds=1, longest_wait_seconds=3)
    server.script([Fault("reset")] * 4)
    UrlFolder(f"{server.url}/train", retries=policy, sleep=waits.append).read("a.tar")
    assert [low <= wait <= 2 * low for low, wait in zip([0.5, 1, 1.5, 1.5], waits, strict=True)] == [True] * 4


@given(num_failures=st.integers(1, 10_000), fraction=st.floats(0, 1))
def test_a_wait_lies_in_the_upper_half_of_a_doubling_that_is_capped(num_failures: int, fraction: float) -> None:
    policy = RetryPolicy(first_wait_seconds=0.5, longest_wait_seconds=30)
    full = min(0.5 * 2.0 ** min(num_failures - 1, 20), 30)
    assert full / 2 <= policy.wait_seconds(num_failures, fraction) <= full


@pytest.mark.parametrize(
    "wrong", [{"num_tries": 0}, {"request_bytes": 0}, {"first_wait_seconds": -1}, {"first_wait_seconds": 31}]
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must"):
        RetryPolicy(**wrong)


def test_a_stream_goes_on_where_it_stopped(server: FaultyServer, train: UrlFolder) -> None:
    server.script([None, Fault("cut"), Fault("shorten", where=0.25), None])
    assert read_all(train) == CONTENT
    asked = [asked for _, asked in server.requests]
    assert asked == ["0-999", "1000-1999", "1000-1999", "1250-2249", "2250-3249", "3250-4249", "4250-4499"]


def test_tries_are_counted_anew_after_each_piece(server: FaultyServer, train: UrlFolder) -> None:
    server.script([*[Fault("cut")] * 3, None] * 5)
    assert read_all(train) == CONTENT


def test_a_server_that_ignores_ranges_is_understood(served: Path) -> None:
    with FaultyServer(folder_answer(served, ranges=False)) as server:
        folder = UrlFolder(f"{server.url}/train", retries=QUICK)
        assert read_all(folder) == CONTENT
        assert len(server.requests) == 1
        server.script([Fault("shorten", where=0.1)])  # the first answer looks like a piece, the second has too much
        assert read_all(folder) == CONTENT


@pytest.mark.parametrize("kind", ["file", "memory", "http"])
def test_a_file_shorter_than_asked_for_is_an_error(kind: str, served: Path, server: FaultyServer) -> None:
    fsspec.filesystem("memory").pipe({"/short/a.tar": CONTENT})
    url = {"file": f"{served.as_uri()}/train", "memory": "memory://short", "http": f"{server.url}/train"}[kind]
    with pytest.raises(UrlError, match=r"(?s)ends after 4,500 of 9,000 bytes.*a\.tar"):
        read_all(UrlFolder(url, retries=QUICK), num_bytes=9000)


@given(
    faults=st.lists(
        st.builds(
            Fault,
            kind=st.sampled_from(["reset", "cut", "shorten", "delay", "status"]),
            where=st.floats(0, 1),
            status=st.sampled_from([403, 404, 429, 500, 503]),
            seconds=st.just(0.001),
        ),
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_goes_wrong_a_stream_gives_all_bytes_or_a_named_error(
    faults: list[Fault], server: FaultyServer, train: UrlFolder
) -> None:
    server.script(faults)
    got, said = b"", ""
    try:
        got = read_all(train)
    except UrlError as exc:
        said = str(exc)
    assert got == CONTENT or f"{train.url}/a.tar" in said


class Broken(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A file system whose driver raises what a test wants, once."""

    protocol = "broken"
    raises: list[Exception]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        if self.raises:
            raise self.raises.pop()
        return b"content"


def s3_error(code: str, status: int) -> Exception:
    response = {"Error": {"Code": code, "Message": "odd"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    translated = s3fs.errors.translate_boto_error(botocore.exceptions.ClientError(response, "GetObject"))
    assert isinstance(translated, Exception)
    return translated


def caused(exc: Exception, cause: Exception) -> Exception:
    exc.__cause__ = cause
    return exc


def broken(exc: Exception) -> UrlFolder:
    fsspec.register_implementation("broken", Broken, clobber=True)
    Broken.raises = [exc]
    return UrlFolder("broken://a", retries=QUICK)


@pytest.mark.parametrize(
    "exc",
    [
        s3_error("SlowDown", 503),
        s3_error("InternalError", 500),
        s3_error("RequestTimeout", 408),
        botocore.exceptions.EndpointConnectionError(endpoint_url="a"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="a"),
        botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        gcsfs.retry.HttpError({"code": 503, "message": "odd"}),
        gcsfs.retry.HttpError({"code": "429", "message": "odd"}),
        gcsfs.retry.ChecksumError("odd"),
        requests.exceptions.ProxyError(),
        requests.exceptions.ChunkedEncodingError(),
        aiohttp.ClientPayloadError(),
        aiohttp.ServerDisconnectedError(),
        caused(FileNotFoundError("a"), aiohttp.ClientOSError()),
        fsspec.exceptions.FSTimeoutError(),
        OSError(5, "odd"),
    ],
    ids=repr,
)
def test_passing_trouble_of_any_driver_is_tried_again(exc: Exception) -> None:
    assert broken(exc).read("b") == b"content"


@pytest.mark.parametrize(
    ("exc", "says"),
    [
        (s3_error("AccessDenied", 403), "may not be read"),
        (s3_error("NoSuchKey", 404), "no such file"),
        (s3_error("UnheardOf", 400), "cannot be read"),  # s3fs makes an input/output error of it
        (s3_error("InvalidRequest", 400), "cannot be read"),
        (botocore.exceptions.NoCredentialsError(), "may not be read"),
        (gcsfs.retry.HttpError({"code": 404, "message": "odd"}), "no such file"),
        (OSError("Forbidden: odd"), "cannot be read"),
        (IsADirectoryError("odd"), "cannot be read"),
        (ValueError("odd"), "cannot be read"),
    ],
    ids=repr,
)
def test_other_trouble_of_any_driver_is_an_error_at_once(exc: Exception, says: str) -> None:
    with pytest.raises(UrlError, match=rf"(?s){says}.*broken://a/b"):
        broken(exc).read("b")


def test_a_driver_that_is_missing_is_named_with_its_remedy() -> None:
    fsspec.register_implementation("nodriver", "no_such_module.Driver", errtxt="Install nodriverfs", clobber=True)
    with pytest.raises(UrlError, match=r"(?s)driver of nodriver://.*Install nodriverfs.*nodriver://a/b.*\[remote\]"):
        UrlFolder("nodriver://a").read("b")


def test_a_scheme_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(UrlError, match=r"(?s)nosuch.*nosuch://a/b"):
        UrlFolder("nosuch://a").read("b")


def test_a_folder_used_before_a_fork_works_after_it(server: FaultyServer) -> None:
    code = """
import os, sys
from shards.storage.url_folder import UrlFolder
folder = UrlFolder(sys.argv[1])
assert folder.read("index.json") == b"{}"
child = os.fork()
if child == 0:
    os._exit(0 if folder.read("index.json") == b"{}" else 1)
assert os.waitpid(child, 0)[1] == 0
assert folder.read("index.json") == b"{}"
"""
    command = [sys.executable, "-W", "ignore", "-c", code, f"{server.url}/train"]
    subprocess.run(command, check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])})
