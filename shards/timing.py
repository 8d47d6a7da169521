"""Ways of doing the same thing, timed in turns: the moods of a machine that is shared meet all of them alike."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from shards.errors import ExpectedError

__all__ = ["Group", "Kind", "Timing", "Way", "measure"]

Group = Literal["loading", "reading", "decoding", "training"]
"""What is compared: batches in memory, the same with every byte read, samples from raw clips, steps of training."""


Kind = Literal["limit", "ours", "other", "headroom", "fed"]
"""What a way is in the comparison: the physical limit, this project's, what users would pick instead; and the trainer
on one batch that is on its device already, and on the loader's batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way."""

    name: str
    run: Callable[[], int]
    """Does it once, and returns how many samples that were."""
    kind: Kind
    group: Group
    """Ways of a group are compared with each other."""
    num_readers: int = 0
    """Threads of the loader in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What was measured of a way, one figure per round."""

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
        """Return the median over the rounds of how many times as fast as another way this one was."""
        pairs = zip(self.samples_per_second, other.samples_per_second, strict=False)
        return statistics.median([ours / theirs for ours, theirs in pairs] or [0.0])


def measure(
    ways: Sequence[Way], *, rounds: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Timing]:
    """Time all ways once in each round, after a round that is not counted: it brings files and code into memory.

    Args:
        ways: What to time. The `ExpectedError` or `ImportError` of one is its result; it is not tried again.
        rounds: Rounds that count.
        on_progress: Called with the runs that are done and those that there will be.
    """
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    cpu: dict[str, list[float]] = {way.name: [] for way in ways}
    failures: dict[str, str] = {}
    for number in range(rounds + 1):
        for place, way in enumerate(ways):
            if way.name not in failures:
                start, start_cpu = time.perf_counter(), _cpu_seconds()
                try:
                    num_samples = way.run()
                except (ExpectedError, ImportError) as exc:
                    failures[way.name] = str(exc)
                else:
                    seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - start_cpu
                    if number:
                        rates[way.name].append(num_samples / seconds)
                        cpu[way.name].append(1000 * cpu_seconds / num_samples)
            on_progress(number * len(ways) + place + 1, (rounds + 1) * len(ways))
    return [
        Timing(
            name=way.name,
            kind=way.kind,
            group=way.group,
            num_readers=way.num_readers,
            samples_per_second=tuple(rates[way.name]) if way.name not in failures else (),
            cpu_seconds_per_1000=tuple(cpu[way.name]) if way.name not in failures else (),
            failure=failures.get(way.name, ""),
        )
        for way in ways
    ]


def _cpu_seconds() -> float:
    return sum(os.times()[:4])  # user and system, of this process and of its children
