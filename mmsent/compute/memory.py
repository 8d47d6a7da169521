"""What a GPU's memory was too small for, in words that say what to change."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from mmsent.compute.precision import ResolvedPrecision
from mmsent.config import TrainConfig
from mmsent.errors import DeviceMemoryError
from shards.errors import describe

__all__ = ["device_memory_named", "training_memory_named"]


@contextmanager
def device_memory_named(
    doing: str, *, batch_size: int, precision: ResolvedPrecision, then: str, num_parts: int = 1
) -> Iterator[None]:
    """Turn a GPU's lack of memory into an error that names what needed it, how much, and what to change.

    Args:
        doing: Work that is done meanwhile: `training`, say.
        batch_size: Samples of a batch.
        precision: Number format of the forward pass.
        then: What to change.
        num_parts: Parts in which a batch is computed.

    Raises:
        DeviceMemoryError: in place of torch's own.
    """
    try:
        yield
    except torch.OutOfMemoryError as exc:
        parts = f" in {num_parts} parts" if num_parts > 1 else ""
        batches = f"batches of {batch_size}{parts} in {precision}"
        what = f"the GPU's memory is too small for {doing} on {batches}{_needed(exc)}"
        raise DeviceMemoryError(describe(what, then=then)) from exc


def training_memory_named(config: TrainConfig, precision: ResolvedPrecision) -> AbstractContextManager[None]:
    """Return `device_memory_named` for steps of training, with the options that make them smaller."""
    choices = []
    if config.accumulation_steps < config.batch_size:
        more = min(config.batch_size, 2 * config.accumulation_steps)
        choices.append(f"pass `--set train.accumulation_steps={more}`, which computes the same batch in {more} parts")
    if config.batch_size > 1:
        choices.append(f"pass a smaller `--batch-size`, {config.batch_size // 2} say")
    if precision == "fp32":
        choices.append("pass `--precision bf16`")
    return device_memory_named(
        "training",
        batch_size=config.batch_size,
        precision=precision,
        then=", or ".join(choices) or "free the GPU of other programs, or take one with more memory",
        num_parts=config.accumulation_steps,
    )


def _needed(exc: torch.OutOfMemoryError) -> str:
    """Return from torch's message how much was asked for beyond what there was: `: 2.00 GiB more of 79.11 GiB`."""
    asked = re.search(r"Tried to allocate ([\d.]+ \w+)", str(exc))
    total = re.search(r"total capacity of ([\d.]+ \w+)", str(exc))
    free = re.search(r"of which ([\d.]+ \w+) is free", str(exc))
    allowed = re.search(r"([\d.]+ \w+) allowed", str(exc))
    if asked is None:
        return ""
    words = f": {asked[1]} more were asked for"
    if total is not None and free is not None:
        words += f", {free[1]} of {total[1]} are free"
    if allowed is not None:
        words += f", {allowed[1]} are allowed to this process"
    return words
