"""Cases timed in alternating rounds, so that other load of the machine hits all of them alike."""

import math
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shards.errors import ExpectedError

__all__ = ["Case", "Group", "Kind", "Timing", "measure"]

Group = Literal["loading", "reading", "decoding", "training"]
"""What is compared: batches in memory, the same with every byte read, samples from raw clips, steps of training."""


Kind = Literal["limit", "ours", "other", "headroom", "fed"]
"""Part of a case in the comparison: the physical limit, this project's, what users would pick instead; and the trainer
on one batch that is on its device already, and on the loader's batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to time."""

    name: str
    run: Callable[[], int]
    """Do it once, and return how many samples that were."""
    kind: Kind
    group: Group
    """Cases of a group are compared with each other."""
    num_readers: int = 0
    """Threads of the loader in it."""
    prepare: Callable[[], None] | None = None
    """Called once before the first run; without it, that is `run` itself, uncounted: it brings files into memory."""
    once_if_over_seconds: float = math.inf
    """A run that took longer than this is not repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What was measured of a case, one figure per run."""

    name: str
    kind: Kind
    group: Group
    num_readers: int
    samples_per_second: tuple[float, ...]
    """Empty if it cannot be done here."""
    cpu_seconds_per_1000: tuple[float, ...]
    """Of all threads of this process, and of worker processes that ended."""
    failure: str = ""
    """Why it cannot be done here."""

    @property
    def median(self) -> float:
        """Samples per second; 0 if it cannot be done here."""
        return statistics.median(self.samples_per_second) if self.samples_per_second else 0.0

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest samples per second."""
        rates = self.samples_per_second or (0.0,)
        return min(rates), max(rates)

    def times(self, other: "Timing") -> float:
        """Return how many times as fast as another case this one was; within a group, the median over the rounds."""
        if self.group != other.group or len(self.samples_per_second) != len(other.samples_per_second):
            return self.median / other.median
        pairs = zip(self.samples_per_second, other.samples_per_second, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


def measure(
    cases: Sequence[Case], *, rounds: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Timing]:
    """Time cases group by group, within a group in turns: all once in each round.

    Groups come one after the other, since a trainer's memory would push the shards out of the page cache.

    Args:
        cases: What to time. The `ExpectedError` or `ImportError` of one is its result, and any error of one of the kind
            `other`; it is not tried again.
        rounds: Rounds that count.
        on_progress: Called with the runs that are done and those that there will be.
    """
    found = {id(case): _Runs() for case in cases}
    done, total = 0, len(cases) * (rounds + 1)
    for group in dict.fromkeys(case.group for case in cases):
        for number in range(rounds + 1):
            for case in cases:
                if case.group == group:
                    found[id(case)].add(case, warm_up=number == 0)
                    done += 1
                    on_progress(done, total)
    return [found[id(case)].timing(case) for case in cases]


@dataclass(slots=True)
class _Runs:
    """What was measured of a case so far."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    failure: str = ""
    too_long: bool = False

    def add(self, case: Case, *, warm_up: bool) -> None:
        """Run a case once more, unless it cannot be done or takes too long to be repeated."""
        if self.failure or self.too_long:
            return
        try:
            if warm_up and case.prepare is not None:
                case.prepare()
                return
            start, start_cpu = time.perf_counter(), _cpu_seconds()
            num_samples = case.run()
        except (ExpectedError, ImportError) as exc:
            self.failure = str(exc)
            return
        except Exception as exc:
            if case.kind != "other":
                raise
            self.failure = f"{type(exc).__name__}: {exc}"  # a worker without shared memory, a file it cannot decode
            return
        seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - start_cpu
        if not warm_up:
            self.rates.append(num_samples / seconds)
            self.cpu.append(1000 * cpu_seconds / num_samples)
            self.too_long = seconds > case.once_if_over_seconds

    def timing(self, case: Case) -> Timing:
        """Return all of it."""
        return Timing(
            name=case.name,
            kind=case.kind,
            group=case.group,
            num_readers=case.num_readers,
            samples_per_second=tuple(self.rates) if not self.failure else (),
            cpu_seconds_per_1000=tuple(self.cpu) if not self.failure else (),
            failure=self.failure,
        )


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime  # `os.times` counts in hundredths of a second
