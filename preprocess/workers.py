"""Processes that may die of a clip: how they start, keep quiet and end."""

import os
import signal
import sys

from preprocess.pipe_lock import TracelessContext

__all__ = ["ending_in_words", "keep_quiet", "worker_context"]


def worker_context(*, preload: list[str]) -> TracelessContext:
    """Return how workers start: from a server that has imported `preload` once for all of them."""
    context = TracelessContext()
    context.set_forkserver_preload(preload)
    return context


def keep_quiet() -> None:
    """Keep native decoders' chatter off the terminal: what matters comes back as an exception."""
    sys.stderr.flush()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    os.close(silent)


def ending_in_words(exit_code: int) -> str:
    """Say how a process ended: `SIGABRT` or `exit code 7`."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-exit_code}"
