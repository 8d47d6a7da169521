"""What this process may use of its machine: cores by affinity and quota, memory by what is free and allowed."""

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["core_count", "free_memory"]

_GROUPS = Path("/sys/fs/cgroup")


def core_count(*, groups: Path = _GROUPS, of_process: Path = Path("/proc/self/cgroup")) -> int:
    """Return the cores that this process may keep busy, at least 1.

    A container has its cores as a set of them (affinity) or as a share of the processor's time (quota); more processes
    than either are no faster, and each takes its memory.

    Args:
        groups: Where Linux shows control groups, https://docs.kernel.org/admin-guide/cgroup-v2.html
        of_process: Which of them this process is in.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups_of(groups, of_process):
        quota, _, period = _content(group / "cpu.max").partition(" ")
        if not quota:  # version 1
            quota, period = _content(group / "cpu.cfs_quota_us"), _content(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def free_memory(*, groups: Path = _GROUPS, of_process: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the bytes of memory that this process may still take; None where the system does not say.

    Args:
        groups: As of `core_count`.
        of_process: Likewise.
    """
    found = [
        1024 * int(line.split()[1])
        for line in _content(Path("/proc/meminfo")).splitlines()
        if line.startswith("MemAvailable:")
    ]
    for group in _groups_of(groups, of_process):
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, taken = _content(group / most), _content(group / used)
            if limit.isdigit() and taken.isdigit():
                found.append(max(0, int(limit) - int(taken)))
    return min(found, default=None)


def _groups_of(groups: Path, of_process: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those around them."""
    for line in _content(of_process).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        root = groups / controllers if controllers else groups
        for folder in (Path(path), *Path(path).parents):
            yield root / folder.relative_to("/") if folder.is_absolute() else root


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:  # another system, or a group that is not shown to us
        return ""
