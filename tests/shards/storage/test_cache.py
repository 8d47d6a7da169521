import hashlib
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.errors import CacheFullError, ShardError, UrlError
from shards.storage.cache import Lease, LeaseStoppedError, ShardCache
from shards.storage.url_folder import RetryPolicy, UrlFolder
from tests.support.disks import mounted
from tests.support.faulty_server import KINDS, Fault, FaultyServer, folder_answer, wait_until

pytestmark = pytest.mark.slow

QUICK = RetryPolicy(num_tries=4, first_wait_seconds=0.001, longest_wait_seconds=0.002, request_bytes=300)
SIZE = 1000
NUM_FILES = 8
CONTENTS = {f"{number}.tar": random.Random(number).randbytes(SIZE) for number in range(NUM_FILES)}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyServer]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "copy").mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
        (folder / "copy" / f"copy-{name}").write_bytes(content)
    with FaultyServer(folder_answer(folder)) as server:
        yield server


@pytest.fixture
def server(module_server: FaultyServer) -> FaultyServer:
    module_server.script([])
    return module_server


@pytest.fixture
def folder(server: FaultyServer) -> UrlFolder:
    return UrlFolder(server.url, retries=QUICK)


@dataclass
class Files:
    """Leases of the files of the server, in short."""

    cache: ShardCache
    folder: UrlFolder

    def lease(self, number: int, *, stopped: Callable[[], bool] = lambda: False) -> Lease:
        name = f"{number}.tar"
        return self.cache.lease(self.folder, name, num_bytes=SIZE, sha256=DIGESTS[name], stopped=stopped)

    def use(self, *numbers: int) -> None:
        for number in numbers:
            with self.lease(number) as path:
                assert path.read_bytes() == CONTENTS[f"{number}.tar"]

    def here(self) -> set[int]:
        names = {digest: int(name.removesuffix(".tar")) for name, digest in DIGESTS.items()}
        return {names[path.name] for path in self.cache.directory.iterdir() if path.name in names}


@pytest.fixture
def files(tmp_path: Path, folder: UrlFolder) -> Files:
    return Files(ShardCache(tmp_path / "cache", max_bytes=3 * SIZE, room_timeout_seconds=0.2), folder)


def bytes_in(directory: Path) -> int:
    total = 0
    for path in directory.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # evicted between the two looks
            continue
    return total


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """Run code in a process of its own, with the names of this module."""
    head = "import sys, time\nfrom pathlib import Path\nfrom tests.shards.storage.test_cache import *\n"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", head + code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_ready(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output


LEASE_ONE = """
files = Files(ShardCache(Path(sys.argv[1]), max_bytes=int(sys.argv[2])), UrlFolder(sys.argv[3], retries=QUICK))
print("ready", flush=True)
files.use(int(sys.argv[4]))
"""


def test_a_file_is_downloaded_once_and_then_local(files: Files, server: FaultyServer) -> None:
    files.use(0)
    asked = len(server.requests)
    files.use(0, 0)
    assert len(server.requests) == asked


def test_the_same_content_of_another_url_is_the_same_entry(files: Files, server: FaultyServer) -> None:
    files.use(0)
    asked = len(server.requests)
    other = files.folder.child("copy")
    with files.cache.lease(other, "copy-0.tar", num_bytes=SIZE, sha256=DIGESTS["0.tar"]) as path:
        assert path.read_bytes() == CONTENTS["0.tar"]
    assert len(server.requests) == asked


def test_an_empty_file_is_leased(files: Files) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    with files.cache.lease(files.folder, "empty.tar", num_bytes=0, sha256=digest) as path:
        assert path.read_bytes() == b""


def test_a_flipped_bit_is_downloaded_again(files: Files, server: FaultyServer) -> None:
    server.script([Fault("flip")])
    files.use(0)
    assert len(server.requests) == 8


def test_a_digest_wrong_twice_is_an_error_that_names_both_and_leaves_nothing(
    files: Files, server: FaultyServer
) -> None:
    wrong = bytearray(CONTENTS["0.tar"])
    wrong[150] ^= 1
    server.script([Fault("flip"), None, None, None, Fault("flip")])
    says = rf"(?s)want: {DIGESTS['0.tar']}.*got:  {hashlib.sha256(wrong).hexdigest()}.*{server.url}/0\.tar"
    with pytest.raises(UrlError, match=says):
        files.use(0)
    assert bytes_in(files.cache.directory) == 0
    files.use(0)


def test_a_failed_download_leaves_nothing(files: Files, server: FaultyServer) -> None:
    server.script([None, Fault("status", status=403)])
    with pytest.raises(UrlError, match="may not be read"):
        files.use(0)
    assert [path.name for path in files.cache.directory.iterdir()] == [".lock"]


def test_a_file_larger_than_the_cache_is_an_error_at_once(files: Files, server: FaultyServer) -> None:
    with pytest.raises(CacheFullError, match=r"(?s)3,001 bytes does not fit into a cache of 3,000.*at least 3,001"):
        files.cache.lease(files.folder, "0.tar", num_bytes=3001, sha256=DIGESTS["0.tar"])
    assert not server.requests


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_digest_that_is_none_never_becomes_a_path(sha256: str, files: Files) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        files.cache.lease(files.folder, "0.tar", num_bytes=SIZE, sha256=sha256)


def test_a_cache_without_room_for_a_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ShardCache(tmp_path, max_bytes=0)


def test_what_was_used_longest_ago_goes_first(files: Files) -> None:
    files.use(0, 1, 2)
    files.use(0)
    files.use(3)
    assert files.here() == {0, 2, 3}
    files.use(4)
    assert files.here() == {0, 3, 4}


def test_nothing_goes_while_there_is_room(files: Files) -> None:
    files.use(0, 1, 2)
    assert files.here() == {0, 1, 2}


def test_use_ends_with_the_release(files: Files) -> None:
    first = files.lease(0)
    files.use(1, 2)
    first.release()
    files.use(3)
    assert files.here() == {0, 2, 3}


def test_what_is_leased_stays(files: Files) -> None:
    with files.lease(0) as path:
        files.use(1, 2, 3, 4, 5)
        assert path.read_bytes() == CONTENTS["0.tar"]
        assert 0 in files.here()


def test_what_is_leased_twice_stays_until_the_second_release(files: Files) -> None:
    first, second = files.lease(0), files.lease(0)
    first.release()
    first.release()
    files.use(1, 2, 3)
    assert 0 in files.here()
    second.release()
    files.use(4, 5, 6)
    assert 0 not in files.here()


def test_what_is_mapped_can_be_read_after_its_eviction(files: Files) -> None:
    with files.lease(0) as path, path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    files.use(1, 2, 3)
    assert 0 not in files.here()
    assert mapped[:] == CONTENTS["0.tar"]
    mapped.close()


def test_when_all_is_in_use_the_error_says_how_large_the_cache_must_be(files: Files) -> None:
    leases = [files.lease(number) for number in range(3)]
    with pytest.raises(CacheFullError, match=r"(?s)all 3,000 bytes.*in use.*3\.tar.*at least 4,000 bytes"):
        files.lease(3)
    for lease in leases:
        lease.release()
    files.use(3)


def test_who_waits_for_room_goes_on_after_a_release(files: Files) -> None:
    files.cache.room_timeout_seconds = 60
    leases = [files.lease(number) for number in range(3)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(files.use, 3)
        time.sleep(0.1)
        assert not waiting.done()
        leases[1].release()
        waiting.result(timeout=20)
    assert files.here() == {0, 2, 3}


def test_who_waits_for_room_can_be_stopped(files: Files) -> None:
    files.cache.room_timeout_seconds = 60
    leases = [files.lease(number) for number in range(3)]
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(files.lease, 3, stopped=stop.is_set)
        stop.set()
        with pytest.raises(LeaseStoppedError):
            waiting.result(timeout=20)
    assert len(leases) == 3


def test_a_download_that_is_stopped_leaves_nothing(files: Files, server: FaultyServer) -> None:
    with pytest.raises(LeaseStoppedError):
        files.lease(0, stopped=lambda: len(server.requests) > 1)
    assert bytes_in(files.cache.directory) == 0


def test_files_of_others_are_counted_and_never_removed(files: Files) -> None:
    for name in ("notes.txt", "other.part", "a" * 63):
        (files.cache.directory / name).write_bytes(bytes(600))
    files.use(0)
    with pytest.raises(CacheFullError, match="at least 3,800"), files.lease(1):
        files.lease(0)
    assert bytes_in(files.cache.directory) == 1800 + SIZE


def test_an_entry_that_somebody_cut_is_downloaded_again(files: Files) -> None:
    files.use(0)
    os.truncate(files.cache.directory / DIGESTS["0.tar"], 500)
    files.use(0)


def test_a_part_of_a_dead_process_makes_room(files: Files) -> None:
    files.use(0)
    (files.cache.directory / f"{DIGESTS['7.tar']}.part").write_bytes(bytes(2 * SIZE))
    files.use(1, 2)
    assert files.here() == {0, 1, 2}
    assert bytes_in(files.cache.directory) == 3 * SIZE


def test_a_full_disk_is_a_named_error(tmp_path: Path, server: FaultyServer, folder: UrlFolder) -> None:
    with mounted(tmp_path, options="size=4k"):
        cache = ShardCache(tmp_path / "cache", max_bytes=100 * SIZE)
        (tmp_path / "filler").write_bytes(bytes(4096))
        with pytest.raises(ShardError, match=r"(?s)cannot be used: No space left.*cache.*make room"):
            Files(cache, folder).use(0)


def test_a_folder_that_cannot_be_made_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match=r"(?s)cannot be used.*file/cache"):
        ShardCache(tmp_path / "file" / "cache", max_bytes=1)


def test_a_forked_child_does_not_hold_what_its_parent_released(tmp_path: Path, server: FaultyServer) -> None:
    code = """
import os
files = Files(ShardCache(Path(sys.argv[1]), max_bytes=SIZE, room_timeout_seconds=1), UrlFolder(sys.argv[2]))
lease = files.lease(0)
child = os.fork()
if child == 0:
    time.sleep(60)
lease.release()
try:
    files.use(1)
finally:
    os.kill(child, 9)
"""
    finish(start(code, tmp_path, server.url))


def test_a_forked_child_does_not_release_what_its_parent_uses(tmp_path: Path, server: FaultyServer) -> None:
    code = """
import os
files = Files(ShardCache(Path(sys.argv[1]), max_bytes=3 * SIZE), UrlFolder(sys.argv[2]))
lease = files.lease(0)
child = os.fork()
if child == 0:
    lease.release()
    os._exit(0)
os.waitpid(child, 0)
files.use(1, 2, 3)
print(lease.path.exists())
"""
    assert finish(start(code, tmp_path, server.url)) == "True\n"


def test_threads_that_ask_for_the_same_file_download_it_once(files: Files, server: FaultyServer) -> None:
    server.script([Fault("delay", seconds=0.1)])
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(files.use, [0] * 8))
    assert len(server.requests) == 4


def test_processes_that_ask_for_the_same_file_download_it_once(tmp_path: Path, server: FaultyServer) -> None:
    server.script([Fault("delay", seconds=60)])
    processes = [start(LEASE_ONE, tmp_path, SIZE, server.url, 0) for _ in range(3)]
    for process in processes:
        wait_ready(process)
    time.sleep(0.1)
    server.go_on.set()
    for process in processes:
        finish(process)
    assert len(server.requests) == 4


def test_who_waits_for_a_process_that_is_killed_downloads_itself(
    tmp_path: Path, server: FaultyServer, folder: UrlFolder
) -> None:
    server.script([None, Fault("delay", seconds=60)])
    killed = start(LEASE_ONE, tmp_path, SIZE, server.url, 0)
    wait_until(lambda: len(server.requests) == 2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Files(ShardCache(tmp_path, max_bytes=SIZE), folder).use, 0)
        time.sleep(0.2)
        assert not waiting.done()
        killed.kill()
        waiting.result(timeout=20)
    killed.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", DIGESTS["0.tar"]]


def test_after_a_kill_another_file_finds_room(tmp_path: Path, server: FaultyServer, folder: UrlFolder) -> None:
    server.script([None, Fault("delay", seconds=60)])
    killed = start(LEASE_ONE, tmp_path, SIZE, server.url, 0)
    wait_until(lambda: len(server.requests) == 2)
    killed.kill()
    killed.communicate()
    assert bytes_in(tmp_path) == SIZE  # its part
    files = Files(ShardCache(tmp_path, max_bytes=SIZE), folder)
    files.use(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", DIGESTS["1.tar"]]


FAULTS = st.builds(
    Fault,
    kind=st.sampled_from(KINDS),
    where=st.floats(0, 1),
    status=st.sampled_from([403, 404, 429, 500, 503]),
    seconds=st.just(0.001),
)


@given(faults=st.lists(st.none() | FAULTS, max_size=30), numbers=st.lists(st.integers(0, 4), max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_goes_wrong_a_lease_has_the_right_bytes_or_there_is_a_named_error(
    faults: list[Fault | None], numbers: list[int], server: FaultyServer, files: Files
) -> None:
    server.script(faults)
    for digest in DIGESTS.values():
        (files.cache.directory / digest).unlink(missing_ok=True)
    for number in numbers:
        said = ""
        try:
            files.use(number)
        except UrlError as exc:
            said = str(exc)
        assert not said or f"{server.url}/{number}.tar" in said
        assert bytes_in(files.cache.directory) == SIZE * len(files.here()) <= files.cache.max_bytes


STRESS = """
import random
choose = random.Random(int(sys.argv[4]))
files = Files(ShardCache(Path(sys.argv[1]), max_bytes=int(sys.argv[2])), UrlFolder(sys.argv[3], retries=QUICK))
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[5])
leases = []
done = 0
while time.monotonic() < end:
    number = choose.randrange(NUM_FILES)
    try:
        lease = files.lease(number)
    except UrlError:
        continue
    leases.append((number, lease))
    if len(leases) > 1:
        number, lease = leases.pop(choose.randrange(2))
        assert lease.path.read_bytes() == CONTENTS[f"{number}.tar"], "wrong bytes"
        lease.release()
        done += 1
print(done)
"""


def test_processes_under_stress_never_exceed_the_bound_nor_read_wrong_bytes(
    tmp_path: Path, server: FaultyServer, folder: UrlFolder
) -> None:
    # Each holds one file while it asks for another. Four that hold different ones wait for each other: until the kill.
    max_bytes = 9 * SIZE // 2
    choose = random.Random(0)
    kinds = [
        None,
        None,
        *(Fault(kind, where=0.4, seconds=0.01) for kind in ("reset", "cut", "flip", "delay", "status")),
    ]
    server.script(choose.choice(kinds) for _ in range(100_000))
    largest, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            largest[0] = max(largest[0], bytes_in(tmp_path))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        processes = [start(STRESS, tmp_path, max_bytes, server.url, seed, 8) for seed in range(3)]
        victim = start(STRESS, tmp_path, max_bytes, server.url, 3, 60)
        wait_ready(victim)
        time.sleep(2)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        counts = [int(finish(process).split()[-1]) for process in processes]
    finally:
        ended.set()
        watcher.join()
    assert min(counts) > 10
    assert 3 * SIZE <= largest[0] <= max_bytes
    server.script([])
    files = Files(ShardCache(tmp_path, max_bytes=max_bytes), folder)
    files.use(*range(NUM_FILES))
    assert bytes_in(tmp_path) == 4 * SIZE  # no part was left
