"""Run the real command in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-c", "import sys; sys.argv[0] = 'mmsent'; import cli; cli.main()")


def environment() -> dict[str, str]:
    """Return the environment of a command: the packages of this checkout, no colours, 80 columns, no network."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}


def mmsent(*arguments: str | Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run `mmsent` with arguments and return what it printed and its exit code."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(), check=False)


def start_mmsent(*arguments: str | Path) -> "subprocess.Popen[str]":
    """Start `mmsent` in a process group of its own, to be killed by a test."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), start_new_session=True
    )


def left_alive(session: int) -> list[int]:
    """Return the processes of a session that do not end within 20 s, and end them."""
    deadline = time.monotonic() + 20
    while (left := _processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def _processes_of(session: int) -> list[int]:
    """Return the live processes of a session; a zombie is none."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8").rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
