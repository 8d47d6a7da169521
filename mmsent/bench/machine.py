"""What a measurement was made on, for whoever reads its figures later."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from shards.machine import core_count
from shards.reading.split import Split

__all__ = ["describe_machine", "describe_samples"]


def describe_machine() -> str:
    """Say in a line what processor, device and libraries this is, and how busy the machine was lately."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    software = f"Python {platform.python_version()}, torch {version('torch')}, webdataset {version('webdataset')}"
    return f"{core_count()} cores of {_processor()}, {device}, {platform.system()}, {software}{load}"


def describe_samples(split: Split, *, batch_size: int) -> str:
    """Say in a line what was read: the split, the shapes of a sample, the batch."""
    spec = split.spec
    shapes = (spec.video.shape, spec.audio.shape, spec.text.shape)
    frames, logmel, tokens = ("x".join(map(str, shape)) for shape in shapes)
    storage = "" if spec.video.storage == "raw" else f" as {spec.video.storage}"
    return (
        f"{split.index.split} of {split.source.location}: {len(split):,} samples of frames {frames}{storage}, log-mel "
        f"{logmel}, tokens {tokens}; batches of {batch_size}"
    )


def _processor() -> str:
    """Return the processor's name; Linux keeps it in a file, other systems tell it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text("utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
