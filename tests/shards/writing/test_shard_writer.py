import hashlib
import json
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.errors import ShardCorruptError, ShardError
from shards.files import sha256_file
from shards.format.codec import members
from shards.format.index import ShardInfo
from shards.format.samples_table import row_dtype
from shards.schema import MELD_LABELS, PRESENT, Sample
from shards.spec import FeatureSpec
from shards.writing.shard_writer import Origin, read_record, read_rows, record_path, rows_path, shard_name, write_shard
from tests.support.disks import file_size_limit, mounted, remount
from tests.support.samples import make_sample, make_spec, with_byte_changed

ROOT = Path(__file__).parents[3]
SPEC = make_spec()

KILLED_AT_RENAME = """
import os, signal, sys
from pathlib import Path
from tests.support.samples import make_sample
from tests.shards.writing.test_shard_writer import write

left = int(sys.argv[2])

def kill_at_rename(event: str, args: object) -> None:
    global left
    if event == "os.rename":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill_at_rename)
write(Path(sys.argv[1]), [make_sample(i) for i in (7, 8, 9)])
"""
"""Arguments: the shard to write, and before which of its renames to die."""

KILLED_AMONG_SAMPLES = """
import os, signal, sys
from pathlib import Path
from tests.support.samples import make_sample
from tests.shards.writing.test_shard_writer import write

def samples():
    yield make_sample(0)
    yield make_sample(1)
    os.kill(os.getpid(), signal.SIGKILL)

write(Path(sys.argv[1]), samples())
"""


ORIGIN = Origin(
    rows_sha256="3" * 64,
    inputs_sha256="0" * 64,
    fingerprints={"video": "1" * 64},
    sources={"train-dia0-utt0": {"video": "2" * 64}},
)


def write(path: Path, samples: Iterable[Sample], *, spec: FeatureSpec = SPEC) -> ShardInfo:
    return write_shard(path, samples, spec=spec, label_sets=MELD_LABELS, origin=lambda: ORIGIN)


def samples_of(*numbers: int) -> list[Sample]:
    return [make_sample(number) for number in numbers]


def content(directory: Path) -> dict[str, bytes]:
    """Return all files below a folder: to see that nothing was left behind or changed."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def run_until_killed(script: str, *arguments: object) -> None:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def assert_record_is_true_or_absent(path: Path) -> None:
    record = read_record(path)
    if record is not None:
        info, _ = record
        assert sha256_file(path) == info.sha256
        assert len(read_rows(path)) == info.num_samples


def test_a_shard_is_named_for_its_split_and_number() -> None:
    assert shard_name("train", 7) == "train-00007.tar"


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train-00000.tar", samples_of(0, 1, 2))
    assert content(tmp_path / "first") == content(tmp_path / "second")
    assert len(content(tmp_path / "first")) == 3


def test_the_bytes_of_a_shard_are_those_of_the_format(tmp_path: Path) -> None:
    meta = replace(
        make_sample(0).meta,
        num_frames=4,
        num_hops=10,
        num_tokens=12,
        presence=dict.fromkeys(("video", "audio", "text"), PRESENT),
    )
    sample = Sample(
        meta=meta,
        frames=np.arange(4 * 8 * 8 * 3, dtype=np.uint32).astype(np.uint8).reshape(4, 8, 8, 3),
        logmel=np.arange(60, dtype=np.float16).reshape(6, 10),
        tokens=np.arange(12, dtype=np.int32),
    )
    info = write(tmp_path / "train-00000.tar", [sample])
    assert info.sha256 == "cac023ff2d1f396ac4853ae2ab87bd1ae167e9a221545a4b688a23e673f7a39b"
    rows_sha256 = sha256_file(rows_path(tmp_path / "train-00000.tar"))
    assert rows_sha256 == "e2d28ad05805944f907e5c179da44b83118e455181c3413986adf4391abc9d7a"


def test_the_bytes_of_an_encoded_shard_are_those_of_the_format(tmp_path: Path) -> None:
    spec = make_spec(widths={"video": 4, "text": 2})
    meta = replace(make_sample(0).meta, num_hops=10, num_tokens=12)
    sample = Sample(
        meta=meta,
        frames=np.empty(0, np.uint8),
        logmel=np.arange(60, dtype=np.float16).reshape(6, 10),
        tokens=np.empty(0, np.int32),
        features={"video": np.arange(4, dtype=np.float32), "text": np.array([-1, 0.5], np.float32)},
    )
    path = tmp_path / "train-00000.tar"
    info = write(path, [sample], spec=spec)
    with tarfile.open(path) as tar:
        found = [(member.name.partition(".")[2], member.size) for member in tar.getmembers()]
    json_bytes = found.pop()[1]
    assert found == [("video.npy", 128 + 16), ("logmel.npy", 128 + 120), ("text.npy", 128 + 8)]
    [row] = read_rows(path)
    raw = path.read_bytes()
    assert raw[row["video_offset"] :][:16] == np.arange(4, dtype="<f4").tobytes()
    assert raw[row["text_offset"] :][:8] == np.array([-1, 0.5], "<f4").tobytes()
    assert (row["video_bytes"], row["json_bytes"]) == (16, json_bytes)
    assert info.sha256 == "e5a7efb2b337bb39f7e335eefc39ae9266c7bb95bfc2ade14977fe9432a1b08c"


def test_headers_hold_no_time_and_no_owner(tmp_path: Path) -> None:
    write(tmp_path / "train-00000.tar", samples_of(0, 1))
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        found = {
            (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode, member.type)
            for member in tar
        }
    assert found == {(0, 0, 0, "", "", 0o644, tarfile.REGTYPE)}


def test_members_stand_in_the_order_of_the_format(tmp_path: Path) -> None:
    write(tmp_path / "train-00000.tar", samples_of(4, 2, 3))
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        assert tar.getnames() == [
            f"train-dia0-utt{number}.{extension}" for number in (4, 2, 3) for extension in members(make_spec())
        ]


def test_every_member_but_the_json_has_the_same_size_in_all_samples(tmp_path: Path) -> None:
    samples = [*samples_of(0, 1), make_sample(2, absent=("video",)), make_sample(3, absent=("video", "audio"))]
    write(tmp_path / "train-00000.tar", samples)
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        sizes = {member.name.partition(".")[2]: set[int]() for member in tar}
        for member in tar:
            sizes[member.name.partition(".")[2]].add(member.size)
    assert all(len(sizes[name]) == 1 for name in members(make_spec()) if name != "json")
    assert len(sizes["json"]) > 1


def test_the_info_of_a_shard_is_that_of_its_files(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    info = write(path, samples_of(0, 1, 2))
    assert info == ShardInfo(
        name="train-00000.tar",
        bytes=path.stat().st_size,
        num_samples=3,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        inputs_sha256="0" * 64,
    )


def test_the_digest_of_the_inputs_is_asked_for_after_the_last_sample(tmp_path: Path) -> None:
    asked_for: list[str] = []

    def samples() -> Iterator[Sample]:
        yield make_sample(0)
        asked_for.append("last sample")

    def origin() -> Origin:
        asked_for.append("digest")
        return Origin(rows_sha256="", inputs_sha256="7" * 64, fingerprints={}, sources={})

    path = tmp_path / "train-00000.tar"
    info = write_shard(path, samples(), spec=SPEC, label_sets=MELD_LABELS, origin=origin)
    assert asked_for == ["last sample", "digest"]
    assert info.inputs_sha256 == "7" * 64


def test_a_key_that_comes_twice_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train-dia0-utt1 comes twice"):
        write(tmp_path / "train-00000.tar", samples_of(0, 1, 1))
    assert content(tmp_path) == {}


def test_a_sample_that_does_not_fit_the_spec_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames must be"):
        write(tmp_path / "train-00000.tar", [make_sample(0), make_sample(1, spec=make_spec(size=9))])
    assert content(tmp_path) == {}


@pytest.mark.parametrize("exception", [KeyError("bug"), KeyboardInterrupt()], ids=["bug", "Ctrl-C"])
def test_samples_that_fail_midway_leave_the_good_shard_that_was_there(tmp_path: Path, exception: BaseException) -> None:
    path = tmp_path / "train-00000.tar"
    info = write(path, samples_of(0, 1, 2))
    before = content(tmp_path)

    def samples() -> Iterator[Sample]:
        yield make_sample(3)
        raise exception

    with pytest.raises(type(exception)):
        write(path, samples())
    assert content(tmp_path) == before
    assert read_record(path) == (info, ORIGIN)


def test_trouble_with_a_clip_is_not_called_trouble_with_the_shard(tmp_path: Path) -> None:
    def samples() -> Iterator[Sample]:
        yield make_sample(0)
        (tmp_path / "dia0.mp4").stat()

    with pytest.raises(FileNotFoundError, match=r"dia0\.mp4"):
        write(tmp_path / "train-00000.tar", samples())
    assert content(tmp_path) == {}


def test_a_folder_that_is_not_there_is_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "train" / "train-00000.tar"
    with pytest.raises(ShardError, match=rf"No such file(?s:.*)file: {re.escape(str(path))}"):
        write(path, samples_of(0))


def test_a_folder_that_is_a_file_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "train").write_bytes(b"")
    path = tmp_path / "train" / "train-00000.tar"
    with pytest.raises(ShardError, match=rf"Not a directory(?s:.*)file: {re.escape(str(path))}"):
        write(path, samples_of(0))


@pytest.mark.parametrize("room", [0, 1, 511, 4096, 9000, 10240, 20479])
def test_a_shard_that_cannot_grow_is_a_named_error_and_the_old_one_stays(tmp_path: Path, room: int) -> None:
    path = tmp_path / "train-00000.tar"
    write(path, samples_of(0, 1))
    before = content(tmp_path)
    with file_size_limit(room), pytest.raises(ShardError, match=rf"File too large(?s:.*){re.escape(str(path))}"):
        write(path, samples_of(2, 3))
    assert content(tmp_path) == before


@pytest.mark.parametrize("pages", range(7))
def test_a_full_disk_is_a_named_error_that_leaves_no_record_and_nothing_temporary(tmp_path: Path, pages: int) -> None:
    path = tmp_path / "train-00000.tar"
    # The tar takes five pages of 4 KiB, its rows and its record one each.
    with mounted(tmp_path, options=f"size={max(pages, 1) * 4}k,nr_inodes=100"):
        if pages == 0:
            (tmp_path / "other").write_bytes(b"x")
        with pytest.raises(ShardError, match=r"No space left(?s:.*)train-00000"):
            write(path, samples_of(0, 1))
        assert read_record(path) is None
        assert not [name for name in content(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize("num_files", range(1, 5))
def test_a_disk_without_room_for_another_file_is_a_named_error(tmp_path: Path, num_files: int) -> None:
    path = tmp_path / "train-00000.tar"
    # Four inodes are missing one after another: the tar's, the folder of records', the rows', the record's.
    with mounted(tmp_path, options=f"size=1m,nr_inodes={num_files}"):
        with pytest.raises(ShardError, match=r"No space left(?s:.*)train-00000"):
            write(path, samples_of(0, 1))
        assert read_record(path) is None
        assert not [name for name in content(tmp_path) if name.endswith(".tmp")]


def test_a_disk_with_just_enough_room_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    with mounted(tmp_path, options="size=28k,nr_inodes=5"):
        info = write(path, samples_of(0, 1))
        assert read_record(path) == (info, ORIGIN)


def test_a_full_disk_leaves_the_good_shard_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    with mounted(tmp_path, options="size=1m"):
        info = write(path, samples_of(0, 1))
        before = content(tmp_path)
        remount(tmp_path, options="size=40k")
        with pytest.raises(ShardError, match="No space left"):
            write(path, samples_of(2, 3))
        assert content(tmp_path) == before
        assert read_record(path) == (info, ORIGIN)


def test_a_disk_that_became_read_only_is_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    with mounted(tmp_path, options="size=1m"):
        write(path, samples_of(0, 1))
        remount(tmp_path, options="ro")
        with pytest.raises(ShardError, match=r"Read-only(?s:.*)train-00000"):
            write(path, samples_of(2, 3))


def test_a_record_is_that_of_the_shard(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    info = write(path, samples_of(0, 1))
    assert read_record(path) == (info, ORIGIN)
    assert record_path(path) == tmp_path / ".work" / "train-00000.json"


def test_the_record_of_a_cut_shard_is_none(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    write(path, samples_of(0, 1))
    whole = path.read_bytes()
    for size in (0, 512, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert read_record(path) is None


@pytest.mark.parametrize("change", ["gone", "cut", "damaged"])
def test_the_record_of_a_shard_whose_rows_are_not_whole_is_none_and_they_are_a_named_error(
    tmp_path: Path, change: str
) -> None:
    path = tmp_path / "train-00000.tar"
    write(path, samples_of(0, 1))
    rows = rows_path(path)
    whole = rows.read_bytes()
    rows.unlink()
    if change != "gone":
        rows.write_bytes(whole[:-1] if change == "cut" else with_byte_changed(whole, len(whole) - 1))
    assert read_record(path) is None
    with pytest.raises(ShardCorruptError, match=rf"rows of {path.name}(?s:.*){re.escape(str(rows))}"):
        read_rows(path)


def test_the_rows_of_a_shard_are_one_per_sample_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    samples = samples_of(4, 2, 3)
    write(path, samples)
    rows = read_rows(path)
    assert rows.dtype == row_dtype(len(MELD_LABELS))
    assert rows["num_tokens"].tolist() == [sample.meta.num_tokens for sample in samples]
    assert rows["video_offset"].tolist() == sorted(rows["video_offset"])


def test_the_record_of_a_shard_that_is_gone_is_none(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    write(path, samples_of(0, 1))
    path.unlink()
    assert read_record(path) is None


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"null", b"\xff", b'{"shard": {}}', b'{"shard": {"name": 1}}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "train-00000.tar"
    write(path, samples_of(0, 1))
    record_path(path).write_bytes(damaged)
    assert read_record(path) is None


def test_a_record_of_an_older_program_is_none(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    write(path, samples_of(0, 1))
    record = json.loads(record_path(path).read_bytes())
    record["shard"]["sidecar_sha256"] = record.pop("table_sha256")
    record_path(path).write_text(json.dumps(record))
    assert read_record(path) is None


def test_a_process_killed_among_samples_leaves_no_record_and_no_file_under_a_final_name(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    run_until_killed(KILLED_AMONG_SAMPLES, path)
    assert read_record(path) is None
    assert not list(tmp_path.glob("train-*"))
    write(path, samples_of(0, 1, 2))
    assert sorted(content(tmp_path)) == [".work/train-00000.json", ".work/train-00000.npy", "train-00000.tar"]


@pytest.mark.parametrize("rename", [1, 2, 3])
def test_a_process_killed_before_any_rename_leaves_a_true_record_or_none(tmp_path: Path, rename: int) -> None:
    path = tmp_path / "train-00000.tar"
    run_until_killed(KILLED_AT_RENAME, path, rename)
    assert read_record(path) is None


@pytest.mark.parametrize("rename", [1, 2, 3])
def test_a_process_killed_while_it_replaces_a_shard_leaves_a_true_record_or_none(tmp_path: Path, rename: int) -> None:
    path = tmp_path / "train-00000.tar"
    size = write(path, samples_of(0, 1, 2)).bytes
    run_until_killed(KILLED_AT_RENAME, path, rename)
    assert path.stat().st_size == size  # else the size alone would tell
    assert_record_is_true_or_absent(path)
