"""Runs every step of every peer in a fresh process: convert and check once, memory once, then rounds in turns."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.child import Check, Conversion, Task, Timing, Warmth
from benchmarks.peers.environments import PeerError, find_python
from benchmarks.peers.peer import Peer, load_peer
from benchmarks.peers.processes import Memory, family_memory
from benchmarks.peers.samples import Samples

__all__ = ["Options", "Row", "measure"]

_ROOT = Path(__file__).parent.parent.parent
_SAMPLING_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to measure."""

    batch_size: int
    rounds: int
    least_seconds: float
    """Of epochs in each round, with and without reading."""
    timeout_seconds: float
    """Of one process; a peer that needs more is reported with that."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One variant of a peer, and what was found so far."""

    peer: str
    title: str
    settings: str
    workers: int
    failure: str = ""
    """Why it could not be measured."""
    version: str = ""
    conversion_seconds: float = 0.0
    imports_megabytes: float = 0.0
    memory: Memory | None = None
    """The largest own and resident sizes over two epochs, each for itself."""
    timings: list[Timing] = field(default_factory=list)


def measure(
    names: Iterable[str], samples: Samples, work: Path, *, options: Options, on_step: Callable[[str], None]
) -> list[Row]:
    """Measure the peers; one that fails, whenever it does, keeps its rows with the reason."""
    rows = []
    for name in names:
        peer = load_peer(name)
        rows += [
            Row(peer=name, title=f"{peer.title}, {called}", settings=peer.settings, workers=workers)
            for workers, called in peer.variants.items()
        ]
    runner = _Runner(samples, work, options)
    for row in rows:
        on_step(f"{row.title}: convert, check, memory")
        _guard(row, runner.prepare)
    for number in range(options.rounds):
        for row in rows:
            if not row.failure:
                on_step(f"round {number + 1} of {options.rounds}: {row.title}")
                _guard(row, runner.time)
    return rows


def _guard(row: Row, step: Callable[[Row], None]) -> None:
    try:
        step(row)
    except PeerError as exc:
        row.failure = str(exc)


class _Runner:
    def __init__(self, samples: Samples, work: Path, options: Options) -> None:
        self._samples = samples
        self._work = work
        self._options = options
        self._not_converted: dict[str, str] = {}

    def prepare(self, row: Row) -> None:
        """Convert what was not converted yet, look whether the loader gives the samples, and how much it holds."""
        peer = load_peer(row.peer)
        conversion = self._convert(row, peer)
        row.version, row.conversion_seconds = conversion.version, conversion.seconds
        found = Check(**self._run(row, "check"))
        if found != self._samples.expected:
            raise PeerError(f"gives other samples: {found} instead of {self._samples.expected}")
        peak = Memory(own=0.0, resident=0.0)

        def look(pid: int) -> None:
            nonlocal peak
            now = family_memory(pid)
            peak = Memory(own=max(peak.own, now.own), resident=max(peak.resident, now.resident))

        row.imports_megabytes = Warmth(**self._run(row, "fill", look)).imports_megabytes
        row.memory = peak

    def time(self, row: Row) -> None:
        """Add one round."""
        row.timings.append(Timing(**self._run(row, "time")))

    def _folder(self, row: Row) -> Path:
        return self._samples.source.tars.parent / row.peer

    def _convert(self, row: Row, peer: Peer) -> Conversion:
        find_python(peer, self._work)
        done = self._folder(row) / "conversion.json"
        if done.is_file():
            return Conversion(**json.loads(done.read_text("utf-8")))
        shutil.rmtree(self._folder(row), ignore_errors=True)
        (self._folder(row) / "data").mkdir(parents=True)
        if peer.title in self._not_converted:
            raise PeerError(self._not_converted[peer.title])
        try:
            conversion = Conversion(**self._run(row, "convert"))
        except PeerError as exc:
            self._not_converted[peer.title] = str(exc)  # so that its other variants need not try again
            raise
        done.write_text(json.dumps(asdict(conversion)), "utf-8")
        return conversion

    def _run(self, row: Row, step: Any, look: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Do one step in a fresh process, looking at it meanwhile if asked to."""
        task = Task(
            step=step,
            peer=row.peer,
            folder=str(self._folder(row) / "data"),
            split=str(self._samples.source.split),
            tars=str(self._samples.source.tars),
            num_samples=self._samples.expected.num_samples,
            batch_size=self._options.batch_size,
            workers=row.workers,
            least_seconds=self._options.least_seconds,
        )
        with tempfile.TemporaryDirectory(dir=self._work) as scratch:
            return self._answer(row, task, Path(scratch), look)

    def _answer(self, row: Row, task: Task, scratch: Path, look: Callable[[int], None] | None) -> dict[str, Any]:
        task_file, answer_file, log_file = (scratch / name for name in ("task.json", "answer.json", "log.txt"))
        task_file.write_text(json.dumps(asdict(task)), "utf-8")
        python = find_python(load_peer(row.peer), self._work)
        command = [str(python), "-m", "benchmarks.peers.child", str(task_file), str(answer_file)]
        # A home of its own: some of them keep caches and records of use there.
        surroundings = {**os.environ, "PYTHONPATH": str(_ROOT), "HOME": str(scratch), "HF_HUB_OFFLINE": "1"}
        # torch stacks a batch by as many threads as there are cores unless told otherwise. On 2 cores one is 2 times as
        # fast for it, and 10 times when anything else runs.
        surroundings["OMP_NUM_THREADS"] = "1"
        deadline = time.monotonic() + self._options.timeout_seconds
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=scratch, env=surroundings, stdout=log, stderr=log, start_new_session=True
            )
            try:
                while process.poll() is None:
                    if time.monotonic() > deadline:
                        raise PeerError(f"{task.step} took more than {self._options.timeout_seconds:.0f} s")
                    if look:
                        look(process.pid)
                    time.sleep(_SAMPLING_SECONDS)
            finally:
                _end_group(process)
        if process.returncode or not answer_file.is_file():
            lines = log_file.read_text("utf-8", errors="replace").strip().splitlines()
            sys.stderr.write("\n".join(lines[-40:]) + "\n")
            raise PeerError(f"{task.step} ended with {process.returncode}: {lines[-1] if lines else 'no word'}")
        answer: dict[str, Any] = json.loads(answer_file.read_text("utf-8"))
        return answer


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and the workers that it left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
