"""Clips through worker processes, in order: a clip that crashes or hangs its decoder costs itself, never the run."""

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import TimeoutError as ClipTimeoutError
from dataclasses import dataclass
from itertools import islice
from multiprocessing.context import BaseContext
from pathlib import Path

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from preprocess.annotations import Utterance
from preprocess.config import PreprocessConfig
from preprocess.extract import Extract, absent_extract, extract, start_worker
from shards.schema import FeatureSpec

__all__ = ["extract_all"]

_AHEAD = 16
"""Clips in flight per worker: enough that the others go on while one decodes 4 minutes, and few enough that the results
waiting in the parent (0.6 MB each by default) never pile up."""


def extract_all(
    root: Path, utterances: Iterable[Utterance], *, config: PreprocessConfig, spec: FeatureSpec, num_workers: int
) -> Generator[Extract]:
    """Extract utterance after utterance, each result in its place, on `num_workers` processes.

    Raises:
        Exception: whatever a worker raised that is not about its clip: a bug, with its traceback.
    """
    pool = ProcessPool(max_workers=num_workers, initializer=start_worker, context=_context())
    rows = iter(utterances)
    waiting: deque[_Task] = deque()
    try:
        while True:
            for row in islice(rows, _AHEAD * num_workers - len(waiting)):
                waiting.append(_schedule(pool, root, row, config=config, spec=spec))
            if not waiting:
                break
            task = waiting.popleft()
            extracted = _outcome(task)
            if extracted.died and config.decoder == "decord":
                trouble = extracted.video.reason
                again = _outcome(_schedule(pool, root, task.row, config=config, spec=spec, trouble=trouble))
                reason = f"{trouble}; with PyAV, {again.video.reason}"
                extracted = absent_extract(again.path, reason, died=True, killed=again.killed) if again.died else again
            yield extracted
        pool.close()
    finally:
        pool.stop()  # after close() and all results: nothing is left to stop
        pool.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    row: Utterance
    timeout_seconds: float
    future: "ProcessFuture[Extract] | None"
    """None for a row without a clip: there is nothing to decode."""


def _schedule(
    pool: ProcessPool, root: Path, row: Utterance, *, config: PreprocessConfig, spec: FeatureSpec, trouble: str = ""
) -> _Task:
    paths = [root / path for path in (row.clip, row.twin) if path]
    if not paths:
        return _Task(row=row, timeout_seconds=0, future=None)
    megabytes = sum(_size(path) for path in paths) / 1e6
    timeout_seconds = config.clip_timeout_seconds + 10 * megabytes  # 5 minutes of footage decode in about 10 s
    future = pool.schedule(
        extract,
        args=(root, row),
        kwargs={
            "decoder": config.decoder,
            "video": spec.video,
            "audio": spec.audio,
            "test_clips": config.test_clips,
            "trouble": trouble,
        },
        timeout=timeout_seconds,
    )
    return _Task(row=row, timeout_seconds=timeout_seconds, future=future)


def _size(path: Path) -> int:
    """Return the bytes of a clip; 0 where not even that can be read, which the worker will say."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _outcome(task: _Task) -> Extract:
    if task.future is None:
        return absent_extract("", f"the clip is missing: there is no {task.row.clip_name}")
    path = task.row.clip or task.row.twin
    try:
        extracted: Extract = task.future.result()
    except ClipTimeoutError:
        return absent_extract(
            path, f"the decoder hung: killed after {task.timeout_seconds:.0f} s", died=True, killed=True
        )
    except ProcessExpired as exc:
        # SIGKILL is not the decoder's own end: the system takes it from a process that fills the memory.
        killed = exc.exitcode == -signal.SIGKILL
        return absent_extract(path, f"the decoder crashed: {_death(exc.exitcode)}", died=True, killed=killed)
    return extracted


def _death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-exit_code}"


def _context() -> BaseContext:
    """Return how workers start.

    With a fork server the heavy imports happen once, and a worker that replaces a killed one is there at once; the
    server is a fresh process, so no thread of the parent is forked. Windows has none.
    """
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchaudio", "decord", "av", "preprocess.extract"])
    return context
