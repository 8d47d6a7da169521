"""A GPU's lack of memory, told in words that say what to change. The error itself is made up: there is no GPU here."""

import pytest
import torch

from mmsent.compute.memory import device_memory_named, training_memory_named
from mmsent.config import TrainConfig
from mmsent.errors import DeviceMemoryError

MESSAGE = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.50 GiB is "
    "free. Including non-PyTorch memory, this process has 77.60 GiB memory in use."
)


def test_the_error_names_batch_size_precision_parts_and_what_was_needed() -> None:
    config = TrainConfig(batch_size=256, accumulation_steps=2)
    with pytest.raises(DeviceMemoryError) as caught, training_memory_named(config, "fp32"):
        raise torch.OutOfMemoryError(MESSAGE)
    words = str(caught.value)
    assert "batches of 256 in 2 parts in fp32" in words
    assert "2.00 GiB more were asked for, 1.50 GiB of 79.11 GiB are free" in words
    for remedy in ("--set train.accumulation_steps=4", "--batch-size", "--precision bf16"):
        assert remedy in words


def test_no_remedy_is_named_that_cannot_help() -> None:
    with pytest.raises(DeviceMemoryError) as caught, training_memory_named(TrainConfig(batch_size=1), "bf16"):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert "--" not in str(caught.value)


def test_other_errors_pass_as_they_are() -> None:
    with (
        pytest.raises(RuntimeError, match="other"),
        device_memory_named("encoding", batch_size=2, precision="bf16", then="nothing"),
    ):
        raise RuntimeError("other")
