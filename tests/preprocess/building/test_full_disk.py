"""`mmsent preprocess` on a disk without enough room: it says so, keeps what is finished, and goes on when there is."""

import os
import re
from pathlib import Path

import pytest

from tests.support.clips import write_meld
from tests.support.commands import digests_of, left_alive, mmsent, start_mmsent
from tests.support.disks import mounted, remount

pytestmark = pytest.mark.slow

PAGE = os.sysconf("SC_PAGE_SIZE")
MOST_STEPS = 60
NAMED = re.compile(r"^  file: (.+)$", re.MULTILINE)


def preprocess(meld: Path, out: Path) -> list[str | Path]:
    options = [
        "--text-encoder",
        "scratch",
        "--frames",
        "1",
        "--size",
        "16x16",
        "--set",
        "preprocess.num_hops=2",
        "--workers",
        "1",
    ]
    return [
        "preprocess",
        meld,
        "--out",
        out,
        "--set",
        "preprocess.samples_per_shard=2",
        "--set",
        "preprocess.max_failed_fraction=1",
        *options,
    ]


@pytest.fixture(scope="module")
def meld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rows in two shards, as little as there can be: every page of room costs a run."""
    return write_meld(tmp_path_factory.mktemp("data") / "meld", train=3, dev=0, test=0)


@pytest.fixture(scope="module")
def whole(meld: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its shards, made where there is room."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = mmsent(*preprocess(meld, out))
    assert done.returncode == 0, done.stderr
    return out


def refused_or_done(meld: Path, out: Path) -> Path | None:
    """Run once; return the file that there was no room for, or None when all is made."""
    process = start_mmsent(*preprocess(meld, out))
    output, _ = process.communicate(timeout=120)
    assert left_alive(process.pid) == []
    if process.returncode == 0:
        return None
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert "No space left on device" in output
    assert "\n  next: " in output
    assert "same command again" in output
    named = NAMED.search(output)
    assert named is not None, output
    path = Path(named[1])
    assert path.is_relative_to(out), output
    return path.relative_to(out)


def finished_shards(out: Path) -> dict[str, int]:
    """Give every finished shard's time of change, which a shard that is kept does not get anew."""
    records = out.glob("train/.work/train-*.json")
    return {record.stem: (out / "train" / f"{record.stem}.tar").stat().st_mtime_ns for record in records}


def grow(meld: Path, out: Path, disk: Path, *, option: str, first: int, step: int) -> list[str]:
    """Give a disk more and more room until the command is done; return the files for which there was none, in turn."""
    hit: list[str] = []
    for number in range(MOST_STEPS):
        remount(disk, options=f"{option}={first + number * step}")
        before = finished_shards(out)
        path = refused_or_done(meld, out)
        assert before.items() <= finished_shards(out).items()
        assert list(out.rglob("*.tmp")) == []
        if path is None:
            return hit
        hit.append(path.as_posix())
    raise AssertionError(f"still no room after {MOST_STEPS} steps: {hit}")


def test_a_disk_that_grows_page_by_page_takes_all_in_the_end(meld: Path, whole: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, options=f"size={PAGE}"):
        hit = grow(meld, tmp_path / "out", tmp_path, option="size", first=PAGE, step=PAGE)
        assert digests_of(tmp_path / "out") == digests_of(whole)
    record, rows = "train/.work/train-00000.json", "train/.work/train-00000.npy"
    assert {"tokenizer/tokenizer.json", "train/train-00000.tar", rows, record, "train/train-00001.tar"} <= set(hit)


def test_a_disk_that_takes_one_file_more_each_time_takes_all_in_the_end(
    meld: Path, whole: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path, options="nr_inodes=2"):
        hit = grow(meld, tmp_path / "out", tmp_path, option="nr_inodes", first=2, step=1)
        assert digests_of(tmp_path / "out") == digests_of(whole)
    first = {"preprocess.json", "tokenizer/tokenizer.json", "train/train-00000.tar", "train/.work/train-00000.npy"}
    assert first | {"train/.work/plan.json", "train/train-00001.tar", "report.json"} <= set(hit)
