import os
from pathlib import Path

import pytest

from shards.machine import core_count, free_memory


def write_group(root: Path, **files: str) -> tuple[Path, Path]:
    """Write a control group, `/job/step` of version 2; return the root of groups and the file of the process."""
    folder = root / "groups" / "job" / "step"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(content + "\n")
    (root / "cgroup").write_text("0::/job/step\n")
    return root / "groups", root / "cgroup"


@pytest.mark.parametrize(
    ("quota", "most"), [("100000 100000", 1), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 10**6)]
)
def test_a_quota_of_processor_time_counts_as_cores(tmp_path: Path, quota: str, most: int) -> None:
    groups, of_process = write_group(tmp_path, cpu_max=quota)
    assert core_count(groups=groups, of_process=of_process) == min(most, len(os.sched_getaffinity(0)))


def test_the_quota_of_a_group_around_counts_too(tmp_path: Path) -> None:
    groups, of_process = write_group(tmp_path, cpu_max="max 100000")
    (groups / "job" / "cpu.max").write_text("100000 100000\n")
    assert core_count(groups=groups, of_process=of_process) == 1


def test_groups_of_version_one_are_read_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "groups" / "cpu,cpuacct" / "job"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("100000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cgroup").write_text("4:cpu,cpuacct:/job\n")
    assert core_count(groups=tmp_path / "groups", of_process=tmp_path / "cgroup") == 1


def test_memory_is_what_is_free_or_what_the_group_may_still_take(tmp_path: Path) -> None:
    groups, of_process = write_group(tmp_path, memory_max="3000000", memory_current="1000000")
    assert free_memory(groups=groups, of_process=of_process) == 2_000_000
    without = free_memory(groups=tmp_path / "none", of_process=tmp_path / "none")
    assert without is None or without > 2_000_000
