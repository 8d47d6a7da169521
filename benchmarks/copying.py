"""What the loader's choices cost, side by side: how frames are copied, how many slots there are, and `check`.

    python -m benchmarks.copying                     # on samples it makes for itself
    python -m benchmarks.copying --split data/shards/train

One thread copies the frames of all samples in random order from mapped shards into the batches of a ring, once by
assignment (the C library's memcpy) and once by `shards.reading.split.copy_bytes`; then the loader with and without
`check`. All take turns; medians over the rounds, ratios within a round.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsent.bench.timing import Case, Timing, measure
from shards.order.orders import Shuffled
from shards.reading.loader import ShardLoader
from shards.reading.split import Split, copy_bytes
from tests.support.samples import make_sample, make_spec, write_split

BATCH_SIZE = 32
Copy = Callable[[NDArray[np.uint8], NDArray[np.uint8]], None]


def assign(payload: NDArray[np.uint8], copy: NDArray[np.uint8]) -> None:
    """Copy bytes by an assignment."""
    copy[:] = payload


def copy_all(payloads: list[Any], slots: NDArray[np.uint8], copy: Copy) -> int:
    """Copy payloads into the slots `(slots, B, bytes)`, one after the other and round again."""
    rows = slots.reshape(-1, slots.shape[2])
    for number, payload in enumerate(payloads):
        copy(payload, rows[number % len(rows)])
    return len(payloads)


def load_all(loader: ShardLoader) -> int:
    """Iterate one epoch of a loader."""
    return sum(len(batch) for batch in loader)


def cases(split: Split) -> list[Case]:
    """Return what is compared."""
    order = Shuffled(len(split), seed=0)
    payloads = [split.array_payload("video", int(i)) for i in order.samples(0, 0, len(split))]
    found = []
    for num_slots in (1, 2, 3, 4):
        slots = np.zeros((num_slots, BATCH_SIZE, len(payloads[0])), np.uint8)
        kinds: tuple[tuple[str, Copy], ...] = (("memcpy", assign), ("copy_bytes", copy_bytes))
        for name, copy in kinds:
            run = partial(copy_all, payloads, slots, copy)
            found.append(Case(name=f"{name}, {num_slots} slots", kind="other", group="loading", run=run))
    for check in (False, True):
        loader = ShardLoader(split, order=order, batch_size=BATCH_SIZE, num_readers=2, check=check)
        name = f"loader, check {check}"
        found.append(Case(name=name, kind="ours", group="loading", num_readers=2, run=partial(load_all, loader)))
    return found


def table(timings: list[Timing]) -> str:
    """Draw what was measured in Markdown, each case against the one before it that does the same work otherwise."""
    lines = ["| case | samples/s (lowest, highest) | times as fast as the line above |", "|---|---|---|"]
    for above, timing in zip([None, *timings], timings, strict=False):
        low, high = timing.spread
        compared = above is not None and not timing.name.startswith(("memcpy", "loader, check False"))
        ratio = f"{timing.times(above):.2f}" if compared and above is not None else ""
        lines.append(f"| {timing.name} | {timing.median:,.0f} ({low:,.0f}, {high:,.0f}) | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, help="a split's folder with raw storage; made for the run if not given")
    parser.add_argument("--samples", type=int, default=1000, help="how many to make (642 kB each)")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.split
        if directory is None:
            spec = make_spec(num_frames=16, size=112, num_mels=64, num_hops=300)
            samples = (make_sample(i, spec=spec) for i in range(options.samples))
            write_split(Path(scratch), samples, spec=spec, samples_per_shard=128)
            directory = Path(scratch) / "train"
        sys.stdout.write(table(measure(cases(Split(directory)), rounds=options.rounds)) + "\n")


if __name__ == "__main__":
    main()
