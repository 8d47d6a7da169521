"""CPU time and memory of a process and all below it, read from /proc (Linux)."""

import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CLOCK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What processes hold, in MB."""

    own: float
    """Anonymous and shared memory, each page once: what would be gone from the machine. Mapped files are not in it."""
    resident: float
    """Sum of the resident sizes: mapped files are in it, and a page that two processes share is in it twice."""


def family_cpu_seconds() -> float:
    """Return user and system time of this process and of all below it, living or ended, since each began.

    The difference of two calls is exact to a clock tick (10 ms) for each process that lives below this one.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() + ended.ru_utime + ended.ru_stime
    for pid in family(os.getpid()):
        if pid != os.getpid() and (fields := _stat(pid)):
            seconds += sum(int(field) for field in fields[11:15]) / _CLOCK  # own and waited-for user and system time
    return seconds


def family_memory(pid: int) -> Memory:
    """Return what a process and all below it hold now; zero when it has ended."""
    own = resident = 0
    for member in family(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text("ascii").splitlines()[1:]
        except OSError:  # it has ended meanwhile
            continue
        kilobytes = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
        if kilobytes:
            own += kilobytes["Pss_Anon"] + kilobytes["Pss_Shmem"]
            resident += kilobytes["Rss"]
    return Memory(own=own * 1024 / 1e6, resident=resident * 1024 / 1e6)


def family(pid: int) -> set[int]:
    """Return a process and all below it that live now."""
    parents = dict(_parents())
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return below


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").glob("[0-9]*"):
        if fields := _stat(int(folder.name)):
            yield int(folder.name), int(fields[1])


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return []
