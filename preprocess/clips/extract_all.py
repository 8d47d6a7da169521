"""Clips through worker processes, in order: a clip that crashes or hangs its decoder costs itself, never the run."""

import re
import tempfile
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from pathlib import Path

from preprocess.clips.extract import MEDIA, Extract, Feature, Medium, absent_feature, extract, start_worker
from preprocess.clips.known_good import write_known_good
from preprocess.clips.process_pool import (
    Death,
    Workers,
    clip_timeout,
    in_order,
    machine_error,
    outcome_of,
    worker_context,
)
from preprocess.config import PreprocessConfig
from preprocess.datasets.annotations import Utterance
from shards.spec import FeatureSpec

__all__ = ["Request", "extract_all"]

_TRIES_AFTER_A_KILL = 3
"""Memory may have been short for a moment, and processes killed by a person must not change a byte. More than once,
since whoever kills workers one after the other may find the same clip in the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is wanted of a row's clip."""

    row: Utterance
    media: tuple[Medium, ...]
    """May be empty: the row is passed through without a look at its clip."""


def extract_all(
    root: Path, requests: Iterable[Request], *, config: PreprocessConfig, spec: FeatureSpec, num_workers: int
) -> Generator[Extract]:
    """Extract what is wanted of row after row, each result in its place, on `num_workers` processes.

    Raises:
        MachineError: if what fails is this machine and no clip.
        Exception: whatever a worker raised that is not about its clip: a bug, with its traceback.
    """
    workers = Workers(num_workers, initializer=start_worker, context=_context())
    with tempfile.TemporaryDirectory(prefix="mmsent-") as folder:
        clips = _Clips(workers, root, config=config, spec=spec, scratch=Path(folder))
        try:
            for task in in_order(requests, clips.start, num_workers=num_workers):
                yield clips.finish(task)
        finally:
            workers.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    request: Request
    timeout_seconds: float
    future: "Future[Extract] | None"
    """None where there is nothing to decode."""


class _Clips:
    """Gives requests to the workers, and finds out what in a clip ended a worker."""

    def __init__(
        self, workers: Workers, root: Path, *, config: PreprocessConfig, spec: FeatureSpec, scratch: Path
    ) -> None:
        self._workers = workers
        self._scratch = scratch
        self._root = root
        self._config = config
        self._spec = spec

    def start(self, request: Request, *, trouble: str = "") -> _Task:
        """Schedule a request; with `trouble`, by PyAV."""
        return self._started(self._root, request, trouble=trouble)

    def _started(self, root: Path, request: Request, *, trouble: str = "", least_seconds: float = 0.0) -> _Task:
        paths = [root / path for path in (request.row.clip, request.row.twin) if path]
        if not paths or not request.media:
            return _Task(request=request, timeout_seconds=0, future=None)
        most_seconds = max(least_seconds, self._config.clip_timeout_seconds)
        timeout_seconds = clip_timeout(most_seconds, num_bytes=sum(map(_size, paths)))
        future = self._workers.schedule(
            extract,
            args=(root, request.row),
            kwargs={
                "media": request.media,
                "decoder": self._config.decoder,
                "spec": self._spec,
                "test_clips": self._config.test_clips,
                "trouble": trouble,
            },
            timeout=timeout_seconds,
        )
        return _Task(request=request, timeout_seconds=timeout_seconds, future=future)

    def finish(self, task: _Task) -> Extract:
        """Wait for a request; what ended its worker is tried again, apart and then by PyAV."""
        request = task.request
        if task.future is None:
            why = f"the clip is missing: there is no {request.row.clip_name}"
            return Extract(path="", notes=(), features={medium: absent_feature(why) for medium in request.media})
        outcome = _outcome(task)
        for _ in range(_TRIES_AFTER_A_KILL):
            if isinstance(outcome, Extract) or not outcome.from_outside:
                break
            outcome = _outcome(self.start(request))
        if isinstance(outcome, Extract):
            lacks = [feature for feature in outcome.features.values() if _LACKS_MEMORY.search(feature.presence.reason)]
            if lacks:  # a damaged clip may ask for more memory than there is, too
                self._check_machine(lacks[0].presence.reason)
            return outcome
        self._check_machine(outcome.reason)
        return self._apart(request, outcome)

    def _check_machine(self, why: str) -> None:
        """Decode a clip that is known to be good, in the way in which another one has failed.

        Raises:
            MachineError: if that fails, too.
        """
        good = Request(row=write_known_good(self._scratch), media=MEDIA)
        outcome = _outcome(self._started(self._scratch, good, least_seconds=_PATIENCE_SECONDS))
        reasons = (
            [outcome.reason]
            if isinstance(outcome, Death)
            else [feature.presence.reason for feature in outcome.features.values() if not feature.presence.present]
        )
        if reasons:
            what = f"no clip can be decoded on this machine, one that is known to be good neither: {reasons[0]}"
            raise machine_error(f"{what} (the clip at hand: {why})" if reasons[0] != why else what)

    def _apart(self, request: Request, death: Death) -> Extract:
        """Read the media of a clip in processes of their own, so that each gives what it would give alone.

        The sound goes first: if it survives, it was the picture that died, which need not die again.
        """
        done: dict[Medium, Extract] = {}
        sound_died = False
        for medium in sorted(request.media):  # audio, video
            alone = Request(row=request.row, media=(medium,))
            outcome: Extract | Death = death
            if len(request.media) > 1 and (medium == "audio" or sound_died):
                outcome = _outcome(self.start(alone))
            sound_died = isinstance(outcome, Death)
            if isinstance(outcome, Death) and self._config.decoder == "decord":
                first = outcome
                outcome = _outcome(self.start(alone, trouble=first.reason))
                if isinstance(outcome, Death):
                    outcome = replace(outcome, reason=f"{first.reason}; with PyAV, {outcome.reason}")
                elif first.from_outside:  # without that it would have been Decord, and other bytes
                    feature = replace(outcome.features[medium], killed=True)
                    outcome = replace(outcome, features={medium: feature})
            if isinstance(outcome, Death):
                feature = absent_feature(outcome.reason, killed=outcome.timed_out or outcome.from_outside)
                path = request.row.clip or request.row.twin
                outcome = Extract(path=path, notes=(), features={medium: feature})
            done[medium] = outcome
        features: dict[Medium, Feature] = {medium: done[medium].features[medium] for medium in request.media}
        chosen = max(done.values(), key=lambda extracted: len(extracted.notes))  # a worker that died chose no clip
        return Extract(path=chosen.path, notes=chosen.notes, features=features)


_PATIENCE_SECONDS = 60.0
"""For the clip that is known to be good: a machine that is busy is none that fails."""
_LACKS_MEMORY = re.compile("cannot allocate|out of memory|bad_alloc|temporarily unavailable|unable to allocate", re.I)
"""In the words of FFmpeg, Python, C++ and NumPy."""


def _size(path: Path) -> int:
    """Return the bytes of a clip; 0 where not even that can be read, which the worker will say."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _outcome(task: _Task) -> Extract | Death:
    assert task.future is not None
    return outcome_of(task.future, timeout_seconds=task.timeout_seconds)


def _context() -> BaseContext:
    """Return how workers start. Decord is not among what the server imports: each worker does so on first use."""
    return worker_context(preload=["torch", "torchaudio", "av", "PIL.Image", "preprocess.clips.extract"])
