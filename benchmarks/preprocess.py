"""How preprocessing scales over worker processes, and what they take of memory.

    python -m benchmarks.preprocess ../shared/meld-mini
    python -m benchmarks.preprocess data/demo/meld --rounds 3

Runs the decoding of every row with 1 and with 2 workers in turn, on the same clips, and prints the medians. The rate is
from the first finished clip to the last, so that the start of Python and torch, the same for any number, is left out.
"""

import argparse
import json
import os
import statistics
import sys
import time
from itertools import chain
from pathlib import Path

from preprocess.annotations import Dataset
from preprocess.build import build_tokenizer, feature_spec
from preprocess.config import PreprocessConfig
from preprocess.extract import MEDIA
from preprocess.meld import read_meld
from preprocess.pool import Request, extract_all


def clips_per_second(dataset: Dataset, *, num_workers: int, repeat: int) -> tuple[float, float]:
    """Decode every row of a dataset `repeat` times.

    Returns:
        Clips/s from the first result to the last, and the largest worker's peak memory in MB.
    """
    config = PreprocessConfig(text_encoder="scratch")
    spec = feature_spec(config, build_tokenizer(dataset, config))
    rows = [Request(row=row, media=MEDIA) for split in dataset.splits for row in split.utterances if row.clip]
    repeated = chain.from_iterable([rows] * repeat)
    marks = []
    megabytes = 0.0
    for _ in extract_all(dataset.root, repeated, config=config, spec=spec, num_workers=num_workers):
        marks.append(time.perf_counter())
        if len(marks) % 20 == 0 or len(marks) == len(rows) * repeat:  # after the last result the workers still live
            megabytes = max(megabytes, peak_of_descendants())
    return (len(marks) - 1) / (marks[-1] - marks[0]), megabytes


def peak_of_descendants() -> float:
    """Return the largest peak resident set in MB among the processes below this one (Linux).

    It counts the pages of libraries, which the workers share with the fork server, in each of them.
    """
    parents: dict[int, int] = {}
    peaks: dict[int, float] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # it has ended meanwhile
            continue
        pid = int(status.parent.name)
        parents[pid] = int(fields["PPid"])
        peaks[pid] = float(fields.get("VmHWM", "0 kB").split()[0]) / 1000
    below = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= found
    return max((peaks[pid] for pid in below - {os.getpid()}), default=0.0)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meld", type=Path, help="a MELD folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1, help="go over the rows this often within a round")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    dataset = read_meld(options.meld)
    rates: dict[int, list[float]] = {1: [], 2: []}
    megabytes = 0.0
    for _ in range(options.rounds):
        for num_workers, values in rates.items():
            rate, peak = clips_per_second(dataset, num_workers=num_workers, repeat=options.repeat)
            values.append(rate)
            megabytes = max(megabytes, peak)
    ratio = statistics.median(two / one for one, two in zip(rates[1], rates[2], strict=True))
    if options.json:
        value = {"clips_per_second": rates, "ratio": ratio, "largest_worker_megabytes": megabytes}
        sys.stdout.write(json.dumps(value, indent=1) + "\n")
        return
    lines = ["| workers | clips/s (lowest, highest) |", "|---|---|"]
    lines += [
        f"| {num} | {statistics.median(values):.2f} ({min(values):.2f}, {max(values):.2f}) |"
        for num, values in rates.items()
    ]
    lines.append(f"\n2 workers are {ratio:.2f} times 1 worker (median of pairs); largest worker {megabytes:.0f} MB")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
