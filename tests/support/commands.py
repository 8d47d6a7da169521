"""Run the real command in a process of its own, and look for what it leaves behind."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.warm_start import ROOT, environment, start_python

__all__ = [
    "COMMAND", "ROOT", "digests_of", "environment", "in_shared_memory", "left_alive", "left_in_shared_memory", "mmsent",
    "start_mmsent", "workers_of",
]  # fmt: skip

COMMAND = (sys.executable, "-c", "import sys; sys.argv[0] = 'mmsent'; from cli import main; main()")


def mmsent(
    *arguments: str | Path, timeout: float = 600, cwd: Path | None = None, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `mmsent` with arguments, in a folder if one is given, and return what it printed and its exit code.

    `fresh` starts it from nothing.
    """
    with start_python(*COMMAND[1:], *map(str, arguments), cwd=cwd, fresh=fresh) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start_mmsent(*arguments: str | Path, fresh: bool = False) -> "subprocess.Popen[str]":
    """Start `mmsent` in a process group of its own, to be killed by a test; `fresh` starts it from nothing."""
    words = (*COMMAND[1:], *map(str, arguments))
    return start_python(*words, stderr=subprocess.STDOUT, new_session=True, fresh=fresh)


def left_alive(session: int) -> list[int]:
    """Return the processes of a session that do not end within 20 s, and end them."""
    deadline = time.monotonic() + 20
    while (left := _processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def workers_of(process: int) -> list[int]:
    """Return the live processes that decode for a run: the children of its fork server, itself a child of the run."""
    parents = {pid: parent for pid, (parent, _) in _live_processes().items()}
    return [pid for pid, parent in parents.items() if parents.get(parent) == process]


def in_shared_memory() -> set[str]:
    """Return the names of what programs have put into `/dev/shm`."""
    return {path.name for path in Path("/dev/shm").glob("*")}


def left_in_shared_memory(before: set[str]) -> set[str]:
    """Return what came into `/dev/shm` since `before` and is used by no live process: other programs may run."""
    new = in_shared_memory() - before
    for maps in Path("/proc").glob("[0-9]*/maps") if new else ():
        try:
            mapped = maps.read_text("utf-8")
        except OSError:
            continue
        new = {name for name in new if f"/dev/shm/{name}" not in mapped}
    return new & in_shared_memory()


def digests_of(out: Path) -> dict[str, str]:
    """Digest every tar, samples table and index of a folder of shards by its path in it."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("*/*.tar", "*/*.npy", "*/index.json")
        for path in out.glob(pattern)
    }


def _processes_of(session: int) -> list[int]:
    return [pid for pid, (_, its_session) in _live_processes().items() if its_session == session]


def _live_processes() -> dict[int, tuple[int, int]]:
    """Return parent and session of every process by its number; a zombie is none."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8").rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if fields[0] != "Z":
            found[int(stat.parent.name)] = (int(fields[1]), int(fields[3]))
    return found
