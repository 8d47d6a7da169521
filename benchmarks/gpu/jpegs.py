"""Frames that are stored as JPEGs: decoded by the loader's threads, by the GPU, or not at all."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.setting import Setting
from shards.order.orders import Shuffled
from shards.reading.loader import ShardLoader
from shards.reading.split import Split

__all__ = ["jpegs"]


def jpegs(setting: Setting) -> None:
    """Compare samples per second of the loader on raw and JPEG shards, and of decoding on the GPU."""
    if not setting.has_time(30, "JPEG shards"):
        return
    sizes = setting.sizes
    splits = {storage: setting.train_split(storage, num_train=sizes.num_small) for storage in ("raw", "jpeg")}
    batch_size = sizes.batch_sizes[0]
    cores = len(os.sched_getaffinity(0))
    for storage, split in splits.items():
        for num_readers in sorted({2, cores}):
            rate = statistics.median(
                _loader_rate(split, batch_size, num_readers, seconds=sizes.seconds) for _ in range(sizes.rounds)
            )
            name = f"loader on {storage} shards, {num_readers} readers"
            setting.report.add("JPEG", name, samples_per_second=rate)
    if setting.device.type != "cuda":
        return
    from torchvision.io import decode_jpeg

    decode: Any = decode_jpeg  # not typed
    split = splits["jpeg"]
    encoded = [torch.from_numpy(np.array(split.sample(place).frames)) for place in range(batch_size)]
    ways: dict[str, Callable[[], object]] = {
        "decode_jpeg on the GPU, a list": partial(decode, encoded, device=setting.device),
        "decode_jpeg on the CPU, one thread": partial(_one_by_one, decode, encoded),
    }
    for name, run in ways.items():
        run()
        torch.cuda.synchronize()
        start, times = time.perf_counter(), 0
        while time.perf_counter() - start < sizes.seconds:
            run()
            torch.cuda.synchronize()
            times += 1
        rate = times * batch_size / (time.perf_counter() - start)
        setting.report.add("JPEG", name, samples_per_second=rate)


def _one_by_one(decode: Callable[[Tensor], Tensor], encoded: list[Tensor]) -> list[Tensor]:
    return [decode(one) for one in encoded]


def _loader_rate(split: Split, batch_size: int, num_readers: int, *, seconds: float) -> float:
    loader = ShardLoader(split, order=Shuffled(len(split), 0), batch_size=batch_size, num_readers=num_readers)
    batches = _forever(loader)
    next(batches)
    start, num_samples = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        num_samples += len(next(batches))
    return num_samples / (time.perf_counter() - start)


def _forever(loader: ShardLoader) -> Iterator[Any]:
    while True:
        yield from loader
