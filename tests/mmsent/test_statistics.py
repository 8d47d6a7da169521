import subprocess
import sys
from pathlib import Path

from tests.samples import make_sample, write_split


def test_statistics_are_taken_from_more_shards_than_a_process_may_open(tmp_path: Path) -> None:
    write_split(tmp_path, [make_sample(i) for i in range(300)], samples_per_shard=1)
    code = """
import resource, sys
from pathlib import Path
from mmsent.statistics import logmel_statistics
from shards.reader import Split

resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
mean, _ = logmel_statistics(Split(Path(sys.argv[1])))
print(len(mean))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "train")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.stdout.strip().isdigit(), done.stderr
