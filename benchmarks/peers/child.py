"""One step of the benchmark in a fresh process, inside the environment of the peer; the answer goes into a file.

    PYTHON -m benchmarks.peers.child TASK.json ANSWER.json

Nothing is imported but the standard library, NumPy and the peer. What libraries print does not matter.
"""

import importlib
import importlib.metadata
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.peers.peer import Batch, Epoch, Peer, Source, describe_arrays, digest, load_peer
from benchmarks.peers.processes import family_cpu_seconds, family_memory

__all__ = ["Check", "Conversion", "Task", "Timing", "Warmth", "read_every_byte"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to do, and with what."""

    step: Literal["convert", "check", "time", "fill"]
    peer: str
    folder: str
    """The peer's own."""
    split: str
    tars: str
    num_samples: int
    batch_size: int
    workers: int
    least_seconds: float
    """Whole epochs are repeated until so much time has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Answer to `convert`."""

    seconds: float
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Answer to `check`."""

    num_samples: int
    digest: int
    arrays: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Answer to `time`; all but the first batch is of the epochs after the first."""

    first_batch_seconds: float
    """From opening the folder to the first batch; imports are done."""
    samples_per_second: float
    cpu_seconds: float
    """Per 1,000 samples, user and system, this process and its workers."""
    reading_samples_per_second: float
    """The same with a consumer that reads every byte of each batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmth:
    """Answer to `fill`, which runs two epochs while another process looks at the memory."""

    imports_megabytes: float
    """Own memory before the folder was opened."""


def read_every_byte(batch: Batch) -> int:
    """Return the largest byte of the batch: the cheapest thing that depends on all of them."""
    return max(int(array.reshape(-1).view(np.uint8).max()) for array in batch)


def main() -> None:
    """Read the task, do it, write the answer."""
    task_file, answer_file = map(Path, sys.argv[1:])
    task = Task(**json.loads(task_file.read_text("utf-8")))
    peer = load_peer(task.peer)
    for module in peer.modules:
        importlib.import_module(module)
    steps: dict[str, Callable[[Task, Peer], Conversion | Check | Timing | Warmth]] = {
        "convert": _convert,
        "check": _check,
        "time": _time,
        "fill": _fill,
    }
    answer_file.write_text(json.dumps(asdict(steps[task.step](task, peer))), "utf-8")


def _convert(task: Task, peer: Peer) -> Conversion:
    start = time.perf_counter()
    peer.convert(Source(split=Path(task.split), tars=Path(task.tars)), Path(task.folder))
    seconds = time.perf_counter() - start
    version = ""
    if peer.environment:
        version = importlib.metadata.version(re.split(r"[<>=!~ \[]", peer.requirements[0])[0])
    return Conversion(seconds=seconds, version=version)


def _check(task: Task, peer: Peer) -> Check:
    count = total = 0
    arrays = set()
    for batch in _open(task, peer)():
        arrays.add(describe_arrays(batch))
        count += len(batch.labels)
        total += digest(batch)
    return Check(num_samples=count, digest=total, arrays=" and ".join(sorted(arrays)))


def _time(task: Task, peer: Peer) -> Timing:
    start = time.perf_counter()
    epoch = _open(task, peer)
    batches = epoch()
    count = len(next(batches).labels)
    first = time.perf_counter() - start
    _require_whole(count + sum(len(batch.labels) for batch in batches), task)
    plain, cpu = _rate(epoch, lambda batch: 0, task)
    reading, _ = _rate(epoch, read_every_byte, task)
    return Timing(
        first_batch_seconds=first,
        samples_per_second=plain,
        cpu_seconds=cpu,
        reading_samples_per_second=reading,
    )


def _fill(task: Task, peer: Peer) -> Warmth:
    imports = family_memory(os.getpid()).own
    epoch = _open(task, peer)
    for _ in range(2):
        _require_whole(sum(len(batch.labels) for batch in epoch()), task)
    return Warmth(imports_megabytes=imports)


def _open(task: Task, peer: Peer) -> Epoch:
    return peer.open(Path(task.folder), task.batch_size, task.workers)


def _rate(epoch: Callable[[], Iterator[Batch]], consume: Callable[[Batch], int], task: Task) -> tuple[float, float]:
    """Return samples/s and CPU seconds per 1,000 samples."""
    count = 0
    cpu = family_cpu_seconds()
    start = time.perf_counter()
    while (seconds := time.perf_counter() - start) < task.least_seconds:
        before = count
        for batch in epoch():
            consume(batch)
            count += len(batch.labels)
        _require_whole(count - before, task)
    return count / seconds, (family_cpu_seconds() - cpu) / count * 1000


def _require_whole(count: int, task: Task) -> None:
    if count != task.num_samples:
        raise RuntimeError(f"an epoch gave {count:,} samples instead of {task.num_samples:,}")


if __name__ == "__main__":
    main()
