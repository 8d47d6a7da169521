"""A virtual environment for each group of peers, so that none of their libraries becomes one of ours."""

import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

from benchmarks.peers.peer import Peer

__all__ = ["PeerError", "find_python", "install"]

_TORCH = "torch"
_PIP_SECONDS = 1200
"""A resolver that finds no versions that go together can try for hours."""


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
    wanted: dict[str, set[str]] = {}
    over_torch = set()
    for peer in peers:
        if peer.environment:
            wanted.setdefault(peer.environment, set()).update(peer.requirements)
        if peer.needs_torch:
            over_torch.add(peer.environment)
    if over_torch:
        _install(work / "environments" / _TORCH, {"torch", "numpy"}, over=None)
    for name, requirements in wanted.items():
        over = work / "environments" / _TORCH if name in over_torch else None
        _install(work / "environments" / name, requirements, over=over)


def _install(folder: Path, requirements: set[str], *, over: Path | None) -> None:
    """Make one environment; pip takes what is in `over` for installed, and what it adds comes before it."""
    lines = "\n".join(sorted(requirements))
    stamp = folder / "installed.txt"
    if stamp.is_file() and stamp.read_text("utf-8") == lines:
        return
    stamp.unlink(missing_ok=True)
    (folder / "failure.txt").unlink(missing_ok=True)
    venv.create(folder, with_pip=True, symlinks=True)
    if over:
        (site,) = (folder / "lib").glob("python*/site-packages")
        (site / "over.pth").write_text(f"{over / site.relative_to(folder)}\n", "utf-8")
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *sorted(requirements)]
    try:
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, timeout=_PIP_SECONDS
        )
    except subprocess.TimeoutExpired:
        (folder / "failure.txt").write_text(f"pip took more than {_PIP_SECONDS} s", "utf-8")
        return
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else f"pip ended with {done.returncode}"
        (folder / "failure.txt").write_text(reason, "utf-8")
    else:
        stamp.write_text(lines, "utf-8")
