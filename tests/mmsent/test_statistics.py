import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.samples import make_sample, write_split


def test_statistics_are_taken_from_more_shards_than_a_process_may_open(tmp_path: Path) -> None:
    write_split(tmp_path, [make_sample(i) for i in range(300)], samples_per_shard=1)
    code = """
import resource, sys
from pathlib import Path
import pytest

from mmsent.statistics import logmel_statistics
from shards.reader import Split

resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
mean, _ = logmel_statistics(Split(Path(sys.argv[1])))
print(len(mean))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "train")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.stdout.strip().isdigit(), done.stderr


def test_few_shards_are_looked_at_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a URL each of them is a download before the first step."""
    write_split(tmp_path, [make_sample(i) for i in range(40)], samples_per_shard=1)
    split = Split(tmp_path / "train")
    touched: set[int] = set()
    bytes_of = split.files.bytes_of

    def noting(number: int) -> Any:
        touched.add(number)
        return bytes_of(number)

    monkeypatch.setattr(split.files, "bytes_of", noting)
    logmel_statistics(split)
    assert len(touched) == 16
    assert {0, 39} <= touched
