"""A few steps under PyTorch's profiler."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

__all__ = ["profiled"]

_LOG = logging.getLogger(__name__)

_SKIPPED, _WARM, _TAKEN = 2, 2, 4
"""Steps: those that allocate, tune and compile, those that warm the profiler up, and those that count."""


@contextmanager
def profiled(directory: Path) -> Iterator[Callable[[], None]]:
    """Profile the first steps that are steady, and write what they did.

    Writes `trace.json`, which chrome://tracing and https://ui.perfetto.dev show, and `operators.txt`, a table of what
    took longest. A run of fewer steps than it takes leaves nothing, with a warning.

    Args:
        directory: Folder to write to.

    Yields:
        What to call after each step.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    num_steps = 0

    def write(profiler: profile) -> None:
        if num_steps < _SKIPPED + _WARM + _TAKEN:
            return  # the run ended within them
        directory.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(directory / "trace.json"))
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=40)
        (directory / "operators.txt").write_text(table)
        _LOG.info("profile of %d steps: %s", _TAKEN, directory)

    def after_step() -> None:
        nonlocal num_steps
        num_steps += 1
        profiler.step()

    with profile(
        activities=activities,
        schedule=schedule(wait=_SKIPPED, warmup=_WARM, active=_TAKEN, repeat=1),
        on_trace_ready=write,
        record_shapes=True,
        acc_events=True,  # with one cycle the same, and without a warning about more
    ) as profiler:
        yield after_step
    if num_steps < _SKIPPED + _WARM + _TAKEN:
        _LOG.warning("no profile: the run made fewer than %d steps", _SKIPPED + _WARM + _TAKEN)
