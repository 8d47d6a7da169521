"""How fast batches come off the shards, against the speed of memory and against stock webdataset, in one process.

    python -m benchmarks.loader                      # on samples it makes for itself
    python -m benchmarks.loader --split data/shards/train

All ways read the same tars, whose pages are in memory after the first round, and take turns; the table gives medians.
`copy limit` is one thread copying the same payloads into one batch that is used again and again: nothing can be faster.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from shards.codec import ARRAY_MEMBERS, array_shapes
from shards.loader import ShardLoader
from shards.order import Shuffled
from shards.reader import Split
from tests.samples import make_sample, make_spec, write_split


def copy_limit(split: Split, batch_size: int) -> Iterator[int]:
    """Copy every payload into one batch, in the order of the shards, with nothing around it."""
    batch = {
        name: np.empty((batch_size, int(np.prod(shape)) * ARRAY_MEMBERS[name].itemsize), np.uint8)
        for name, shape in array_shapes(split.spec).items()
    }
    payloads = [[(name, split.array_payload(name, i)) for name in batch] for i in range(len(split))]
    for start in range(0, len(split), batch_size):
        chunk = payloads[start : start + batch_size]
        for row, arrays in enumerate(chunk):
            for name, payload in arrays:
                batch[name][row] = payload
        yield len(chunk)


def ours(split: Split, batch_size: int, *, num_readers: int) -> Iterator[int]:
    """Iterate one shuffled epoch of the loader."""
    for batch in ShardLoader(split, order=Shuffled(len(split), 0), batch_size=batch_size, num_readers=num_readers):
        yield len(batch)


def stock_webdataset(split: Split, batch_size: int) -> Iterator[int]:
    """Iterate the tars with stock webdataset: decode and batch, as its documentation shows."""
    urls = [split.files.where(number) for number in range(len(split.index.shards))]
    dataset: Any = (
        webdataset.WebDataset(urls, shardshuffle=False)
        .decode()
        .to_tuple("frames.npy", "logmel.npy", "tokens.npy", "json")
        .batched(batch_size)
    )
    for batch in dataset:
        yield len(batch[0])


def measure(split: Split, *, batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Return samples/s of each way, one figure a round, the ways taking turns."""
    ways: dict[str, Callable[[], Iterator[int]]] = {
        "copy limit": lambda: copy_limit(split, batch_size),
        "mmsent, 1 reader": lambda: ours(split, batch_size, num_readers=1),
        "mmsent, 2 readers": lambda: ours(split, batch_size, num_readers=2),
        "stock webdataset": lambda: stock_webdataset(split, batch_size),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            count = sum(way())
            seconds = time.perf_counter() - start
            if count != len(split):
                raise RuntimeError(f"{name} gave {count} of {len(split)} samples")
            if number:  # the first round warms the page cache
                rates[name].append(count / seconds)
    return rates


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, help="a split's folder; made for the run if not given")
    parser.add_argument("--samples", type=int, default=1000, help="how many to make (642 kB each)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.split
        if directory is None:
            spec = make_spec(num_frames=16, size=112, num_mels=64, num_hops=300)
            samples = (make_sample(i, spec=spec) for i in range(options.samples))
            write_split(Path(scratch), samples, spec=spec, samples_per_shard=128)
            directory = Path(scratch) / "train"
        rates = measure(Split(directory), batch_size=options.batch_size, rounds=options.rounds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    if options.json:
        sys.stdout.write(json.dumps(rates, indent=1) + "\n")
        return
    limit, stock = medians["copy limit"], medians["stock webdataset"]
    lines = ["| way | samples/s (lowest, highest) | of the copy limit | times stock webdataset |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {medians[name]:,.0f} ({min(values):,.0f}, {max(values):,.0f}) "
        f"| {medians[name] / limit:.2f} | {medians[name] / stock:.1f} |"
        for name, values in rates.items()
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
