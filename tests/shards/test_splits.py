import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.errors import ShardError, UrlError
from shards.splits import open_split, split_sources
from shards.storage.cache import ShardCache
from shards.storage.url_folder import RetryPolicy, UrlFolder
from tests.support.faulty_server import FaultyServer, folder_answer
from tests.support.samples import make_sample, make_spec, write_split

SPEC = make_spec(num_frames=2, size=4, num_mels=3, num_hops=5)
NAMES = ["train", "dev", "test", "extra"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for name in sorted(NAMES):
        write_split(root, [make_sample(i, spec=SPEC, split=name) for i in range(2)], spec=SPEC, split=name)
    (root / "tokenizer").mkdir()
    (root / "report.json").write_text("{}")
    shutil.copytree(root / "dev", root / "begun")
    (root / "begun" / "index.json").unlink()
    return root


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "cache", max_bytes=1 << 20)


@pytest.fixture
def server(root: Path) -> Iterator[FaultyServer]:
    with FaultyServer(folder_answer(root)) as server:
        yield server


@pytest.mark.parametrize("kind", ["path", "text", "file", "http"])
def test_finished_splits_are_found_in_the_usual_order_and_others_after(
    root: Path, cache: ShardCache, server: FaultyServer, kind: str
) -> None:
    locations: dict[str, str | Path] = {"path": root, "text": str(root), "file": root.as_uri(), "http": server.url}
    location = locations[kind]
    sources = split_sources(location, cache=cache)
    assert list(sources) == NAMES
    for name, source in sources.items():
        assert source.location.endswith(f"/{name}")
        assert open_split(location, name, cache=cache).index.split == name


def test_a_split_is_the_same_by_path_and_by_url(root: Path, cache: ShardCache) -> None:
    here, there = open_split(root, "dev"), open_split(root.as_uri(), "dev", cache=cache)
    assert there.index == here.index
    assert there.rows.tobytes() == here.rows.tobytes()
    assert [there.sample(i).frames.tobytes() for i in range(2)] == [here.sample(i).frames.tobytes() for i in range(2)]


def test_a_url_may_end_in_a_slash(root: Path, cache: ShardCache) -> None:
    assert list(split_sources(f"{root.as_uri()}/", cache=cache)) == NAMES


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_split_that_is_not_there_is_an_error_that_names_those_that_are(
    root: Path, cache: ShardCache, scheme: str
) -> None:
    with pytest.raises(ShardError, match=rf"(?s)no finished split 'begun'.*{root}.*train, dev, test, extra"):
        open_split(f"{scheme}{root}", "begun", cache=cache)


def test_a_url_without_a_cache_is_an_error_with_the_remedy(root: Path) -> None:
    with pytest.raises(ShardError, match=rf"(?s)need a cache.*{root.as_uri()}.*--cache DIR"):
        split_sources(root.as_uri())


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_without_a_finished_split_is_an_error_that_names_it(
    tmp_path: Path, cache: ShardCache, scheme: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match=rf"(?s)no finished split.*{tmp_path}/empty.*mmsent preprocess"):
        split_sources(f"{scheme}{tmp_path}/empty", cache=cache)


def test_a_server_that_lists_nothing_is_asked_for_the_usual_splits(root: Path, cache: ShardCache) -> None:
    whole = folder_answer(root)

    def answer(request: bytes) -> tuple[bytes, bytes]:
        if b".json" in request.split(b"\r\n")[0]:
            return whole(request)
        return b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b""

    with FaultyServer(answer) as server:
        assert list(split_sources(server.url, cache=cache)) == ["train", "dev", "test"]


@pytest.fixture
def _few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = RetryPolicy(num_tries=2, first_wait_seconds=0.001, longest_wait_seconds=0.002)
    monkeypatch.setattr("shards.splits.UrlFolder", lambda url: UrlFolder(url, retries=quick))


def test_a_driver_that_is_not_there_is_named(cache: ShardCache) -> None:
    with pytest.raises(ShardError, match=r"(?s)^cannot be read.*nonsense.*nonsense://a.*driver"):
        split_sources("nonsense://a", cache=cache)


def test_a_server_that_lets_nobody_read_is_an_error_about_credentials(cache: ShardCache) -> None:
    forbidden = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b""
    with (
        FaultyServer(lambda request: forbidden) as server,
        pytest.raises(UrlError, match=r"(?s)^may not be read.*403.*next: check the credentials.*docs/remote.md"),
    ):
        split_sources(server.url, cache=cache)


@pytest.mark.usefixtures("_few_tries")
@pytest.mark.parametrize("broken", [b"/dev/index.json", b"/index.json", b"/"])
def test_a_server_in_trouble_is_an_error_and_not_a_split_less(root: Path, cache: ShardCache, broken: bytes) -> None:
    whole = folder_answer(root)

    def answer(request: bytes) -> tuple[bytes, bytes]:
        if broken in request.split(b" ")[1]:
            return b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b""
        return whole(request)

    with FaultyServer(answer) as server, pytest.raises(UrlError, match=rf"(?s)gave up.*503.*{server.url}"):
        split_sources(server.url, cache=cache)


@pytest.mark.usefixtures("_few_tries")
def test_a_server_that_is_not_there_is_an_error_at_once(cache: ShardCache) -> None:
    with pytest.raises(UrlError, match=r"(?s)gave up.*127\.0\.0\.1:9/shards"):
        split_sources("http://127.0.0.1:9/shards", cache=cache)
