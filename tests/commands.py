"""Run the real command in a process of its own."""

import os
import subprocess
import sys
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
