"""A virtual environment for each group of peers, so that none of their libraries becomes one of ours."""

import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

from benchmarks.peers.peer import Peer

__all__ = ["PeerError", "find_python", "install"]


class PeerError(Exception):
    """A peer cannot be measured; the message says why and goes into the table."""


def find_python(peer: Peer, work: Path) -> Path:
    """Return the interpreter of a peer's environment.

    Raises:
        PeerError: if it was not made yet, or could not be.
    """
    if not peer.environment:
        return Path(sys.executable)
    folder = work / "environments" / peer.environment
    failure = folder / "failure.txt"
    if failure.is_file():
        raise PeerError(f"not installed: {failure.read_text('utf-8')}")
    if not (folder / "installed.txt").is_file():
        raise PeerError("not installed: run with --install")
    return folder / "bin" / "python"


def install(peers: Iterable[Peer], work: Path) -> None:
    """Make the environments of the peers and install into each what they require, once.

    What fails is written down, for `find_python` to say.
    """
    wanted: dict[str, list[str]] = {}
    for peer in peers:
        if peer.environment:
            wanted.setdefault(peer.environment, []).extend(peer.requirements)
    for name, requirements in wanted.items():
        lines = "\n".join(sorted(set(requirements)))
        folder = work / "environments" / name
        stamp = folder / "installed.txt"
        if stamp.is_file() and stamp.read_text("utf-8") == lines:
            continue
        stamp.unlink(missing_ok=True)
        (folder / "failure.txt").unlink(missing_ok=True)
        venv.create(folder, with_pip=True, symlinks=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *sorted(set(requirements))]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[-1] if errors else f"pip ended with {done.returncode}"
            (folder / "failure.txt").write_text(reason, "utf-8")
        else:
            stamp.write_text(lines, "utf-8")
