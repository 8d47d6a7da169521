"""Disks that are full or cannot be written: real ones where the tests run as root, a limit of the kernel elsewhere."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Let writing beyond `num_bytes` of a file fail with EFBIG. Python ignores the signal that would come with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def mounted(directory: Path, *, options: str) -> Iterator[None]:
    """Mount a file system in memory on `directory`, or skip the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    done = _mount(directory, options)
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


def remount(directory: Path, *, options: str) -> None:
    """Change the options of what `mounted` mounted."""
    assert _mount(directory, f"remount,{options}").returncode == 0


def _mount(directory: Path, options: str) -> "subprocess.CompletedProcess[str]":
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
