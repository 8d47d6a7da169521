"""What opening, shuffling and seeking cost with many samples, and how fast shards come off a cold disk.

    python -m benchmarks.scale                               # splits of up to 10 million samples, without payloads
    python -m benchmarks.scale --cold data/shards/train      # block shuffle against reading the same files in order

The splits of the first are made up: index and samples table are whole, the tars are holes of the right size. `dd` in
the second is one thread that reads whole files in order, 4 MiB at a time. Before each way the files are dropped from
the page cache of this machine; a host below it may have a cache of its own.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from shards.format.codec import array_members
from shards.format.index import Index, ShardInfo, write_index
from shards.format.samples_table import row_dtype, write_table
from shards.order.orders import BlockShuffled, Shuffled
from shards.reading.loader import ShardLoader
from shards.reading.planner import LoaderState
from shards.reading.split import Split
from shards.schema import MELD_LABELS
from shards.writing.shard_writer import shard_name
from tests.support.samples import make_spec

SAMPLES_PER_SHARD = 128
BATCH_SIZE = 32


def make_split(directory: Path, num_samples: int) -> None:
    """Write a split of default samples whose payloads are holes."""
    spec = make_spec(num_frames=16, size=112, num_mels=64, num_hops=300)
    sizes = {name: member.num_bytes for name, member in array_members(spec).items()}
    sample_bytes = 1024 * (1 + sum(sizes.values()) // 1024) + 4096
    rows = np.zeros(SAMPLES_PER_SHARD, row_dtype(len(MELD_LABELS)))
    start = np.arange(SAMPLES_PER_SHARD) * sample_bytes
    for modality, size in sizes.items():
        rows[f"{modality}_offset"] = start
        start = start + size
    rows["video_bytes"], rows["num_tokens"], rows["present"] = sizes["video"], 12, 7
    num_shards = -(-num_samples // SAMPLES_PER_SHARD)
    shards = []
    for number in range(num_shards):
        name = shard_name("train", number)
        with (directory / name).open("wb") as file:
            file.truncate(SAMPLES_PER_SHARD * sample_bytes)
        size = SAMPLES_PER_SHARD * sample_bytes
        shards.append(
            ShardInfo(name=name, bytes=size, num_samples=SAMPLES_PER_SHARD, sha256="0" * 64, inputs_sha256="0" * 64)
        )
    table = write_table(
        directory,
        (rows for _ in range(num_shards)),
        num_samples=num_shards * SAMPLES_PER_SHARD,
        num_tasks=len(MELD_LABELS),
    )
    index = Index(split="train", spec=spec, label_sets=MELD_LABELS, shards=tuple(shards), samples_sha256=table)
    write_index(directory, index)


def open_and_seek(directory: Path) -> str:
    """Open a split, go to the middle of a shuffled epoch and load; return a row of the table. For a fresh process."""
    before = _peak_megabytes()
    begin = time.perf_counter()
    split = Split(directory)
    opened = time.perf_counter()
    order = Shuffled(len(split), seed=0)
    loader = ShardLoader(split, order=order, batch_size=BATCH_SIZE)
    loader.seek(LoaderState(order=order.identity, epoch=3, position=len(split) // 2))
    batches = iter(loader)
    next(batches)
    first = time.perf_counter()
    memory = _peak_megabytes() - before
    steps = []
    for _ in range(200):
        asked = time.perf_counter()
        order.samples(3, len(split) // 2, len(split) // 2 + BATCH_SIZE)
        split.places(np.arange(BATCH_SIZE, dtype=np.int64) * (len(split) // BATCH_SIZE))
        steps.append(time.perf_counter() - asked)
    step = statistics.median(steps) * 1e6
    return f"{len(split):,} | {opened - begin:.2f} | {first - opened:.2f} | {memory:,.0f} | {step:.0f}"


def cold(directory: Path, rounds: int) -> None:
    """Print MB/s of the loader with block shuffle, in order of blocks of 8 shards, against `dd`."""
    split = Split(directory)
    paths = [Path(split.files.where(number)) for number in range(len(split.index.shards))]
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    sizes = tuple(shard.num_samples for shard in split.index.shards)
    rates: dict[str, list[float]] = {"dd": [], "block shuffle": []}
    for number in range(rounds):
        for name in rates:
            fresh = Split(directory)
            gc.collect()  # a map of a round before would keep its pages
            _drop(paths)
            begin = time.perf_counter()
            if name == "dd":
                _read_in_order(paths)
            else:
                order = BlockShuffled(sizes, seed=number)
                for batch in ShardLoader(fresh, order=order, batch_size=BATCH_SIZE, num_readers=2):
                    del batch
            rates[name].append(megabytes / (time.perf_counter() - begin))
    ratio = statistics.median(a / b for a, b in zip(rates["block shuffle"], rates["dd"], strict=True))
    lines = ["| cold, way | MB/s (lowest, highest) |", "|---|---|"]
    lines += [
        f"| {name} | {statistics.median(found):,.0f} ({min(found):,.0f}, {max(found):,.0f}) |"
        for name, found in rates.items()
    ]
    sys.stdout.write("\n".join([*lines, f"Median of the ratios: {ratio:.2f}"]) + "\n")


def _read_in_order(paths: list[Path]) -> None:
    buffer = bytearray(4 << 20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _drop(paths: list[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _peak_megabytes() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(fields["VmHWM"].split()[0]) / 1000  # not `ru_maxrss`, which begins with that of the parent


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[14_000, 1_000_000, 10_000_000])
    parser.add_argument("--cold", type=Path, metavar="SPLIT", help="a split's folder: measure the disk instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # a fresh process for each size
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(open_and_seek(options.one) + "\n")
        return
    if options.cold:
        cold(options.cold, options.rounds)
        return
    columns = ("samples", "open, s", "seek and first batch, s", "memory, MB", "order and places of a step, us")
    sys.stdout.write(f"| {' | '.join(columns)} |\n|---|---|---|---|---|\n")
    for num_samples in options.samples:
        with tempfile.TemporaryDirectory() as scratch:
            make_split(Path(scratch), num_samples)
            command = [sys.executable, "-m", "benchmarks.scale", "--one", scratch]
            row = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            sys.stdout.write(f"| {row} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
