"""Memory of preprocessing over many clips, and what the process that plans and writes needs of a core.

    python -m benchmarks.endurance MELD.Raw --rows 2000
    mmsent make-demo DIR --height 720 && python -m benchmarks.endurance DIR --rows 14000

Makes a MELD folder of so many rows with the clips of the given folder again and again (hard links), runs
`mmsent preprocess` on it, and reads memory and CPU time of its processes from /proc (Linux) meanwhile.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

from preprocess.datasets.meld import read_meld

_COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
_CLOCK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endurance:
    """What a run took."""

    rows: int
    seconds: float
    clips_per_second: float
    """Over the whole run, its start and the writing of shards included."""
    worker_early_megabytes: float
    """Largest worker when a tenth of the time had passed."""
    worker_megabytes: float
    """Largest worker at any time."""
    parent_megabytes: float
    parent_core_share: float
    """CPU time of the process that plans and writes, over the seconds of the run."""
    left_in_dev_shm: int
    """Files in /dev/shm that were not there before."""


def measure(meld: Path, *, num_rows: int, num_workers: int, decoder: str) -> Endurance:
    """Run the command over `num_rows` rows."""
    with tempfile.TemporaryDirectory(dir=meld.parent, prefix=".endurance-") as folder:
        data = Path(folder) / "meld"
        _write_rows(data, meld, num_rows)
        before = set(Path("/dev/shm").iterdir())
        command = [sys.executable, "-c", "from cli import main; main()", "preprocess", str(data), "--json"]
        command += ["--out", str(Path(folder) / "shards"), "--text-encoder", "scratch", "--frames", "16"]
        command += ["--workers", str(num_workers), "--set", f"preprocess.decoder={decoder}"]
        command += ["--set", "preprocess.max_failed_fraction=1"]
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        workers: list[tuple[float, float]] = []
        parent = cpu = 0.0
        while process.poll() is None:
            time.sleep(0.25)
            for pid, megabytes, seconds in _family(process.pid):
                if pid == process.pid:
                    parent, cpu = max(parent, megabytes), seconds
                else:
                    workers.append((time.monotonic() - start, megabytes))
        seconds = time.monotonic() - start
        if process.returncode:
            raise SystemExit(f"the command ended with {process.returncode}")
        return Endurance(
            rows=num_rows,
            seconds=seconds,
            clips_per_second=num_rows / seconds,
            worker_early_megabytes=max(size for when, size in workers if when <= max(seconds / 10, workers[0][0])),
            worker_megabytes=max(size for _, size in workers),
            parent_megabytes=parent,
            parent_core_share=cpu / seconds,
            left_in_dev_shm=len(set(Path("/dev/shm").iterdir()) - before),
        )


def _write_rows(data: Path, meld: Path, num_rows: int) -> None:
    """Write one training split whose rows have the clips of a MELD folder, in turn."""
    rows = [row for split in read_meld(meld).splits for row in split.utterances if row.clip]
    (data / "train_splits").mkdir(parents=True)
    with (data / "train_sent_emo.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for number, row in enumerate(islice(cycle(rows), num_rows)):
            labels = (row.labels["emotion"], row.labels["sentiment"])
            writer.writerow([row.text, row.speaker, *labels, number // 10, number % 10, "00:00:01,000", "00:00:04,000"])
            name = f"dia{number // 10}_utt{number % 10}.mp4"
            os.link(meld / row.clip, data / "train_splits" / name)


def _family(pid: int) -> Iterator[tuple[int, float, float]]:
    """Yield pid, resident MB and CPU seconds of a process and of those below it."""
    found: dict[int, tuple[int, float, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        megabytes = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        found[int(stat.parent.name)] = (int(fields[1]), megabytes, (int(fields[11]) + int(fields[12])) / _CLOCK)
    below = {pid}
    while more := {child for child, (parent, _, _) in found.items() if parent in below} - below:
        below |= more
    for member in below & found.keys():
        _, megabytes, seconds = found[member]
        yield member, megabytes, seconds


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meld", type=Path, help="a MELD folder")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--decoder", default="decord", choices=("decord", "pyav"))
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    found = measure(options.meld, num_rows=options.rows, num_workers=options.workers, decoder=options.decoder)
    if options.json:
        sys.stdout.write(json.dumps(asdict(found), indent=1) + "\n")
        return
    lines = [
        f"| rows | {found.rows:,} in {found.seconds:.0f} s, {found.clips_per_second:.1f} clips/s |",
        "|---|---|",
        f"| largest worker after a tenth of the time | {found.worker_early_megabytes:.0f} MB |",
        f"| largest worker at any time | {found.worker_megabytes:.0f} MB |",
        f"| process that plans and writes | {found.parent_megabytes:.0f} MB, {found.parent_core_share:.1%} of a core |",
        f"| left in /dev/shm | {found.left_in_dev_shm} files |",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
