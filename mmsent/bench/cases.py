"""The cases that `mmsent bench` compares: memory, this loader, what users would pick instead, and the trainer."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mmsent.bench.timing import Case, Group
from mmsent.bench.train_bench import TrainBench
from mmsent.config import ModelConfig, TrainConfig
from shards.format.codec import members, pixels
from shards.order.orders import Shuffled
from shards.reading.loader import ShardLoader
from shards.reading.split import Split
from shards.schema import MODALITIES

__all__ = ["file_cases", "loader_cases", "train_cases"]

_WORKERS = 2
"""Processes that loaders with workers are given besides none."""

_FILES = 256
"""Samples that are written to files of their own; more would not change the rate, only take disk."""


def loader_cases(split: Split, *, num_samples: int, batch_size: int, readers: Sequence[int]) -> list[Case]:
    """Return the cases of bringing the first samples of a split into batches, all over the same tars.

    Args:
        split: Where the samples are.
        num_samples: About how many: those of as many whole shards as it takes.
        batch_size: Samples of a batch.
        readers: Numbers of loader threads to try.
    """
    num_shards = int(np.searchsorted(split.shard_ends, num_samples)) + 1
    wanted, num_samples = num_samples, int(split.shard_ends[min(num_shards, len(split.shard_ends)) - 1])
    num_passes = -(-wanted // num_samples)  # over a small split several, or the start of a pass is all that is timed
    urls = [split.files.where(number) for number in range(min(num_shards, len(split.index.shards)))]
    loaders = {
        num_readers: ShardLoader(split, order=Shuffled(num_samples, 0), batch_size=batch_size, num_readers=num_readers)
        for num_readers in readers
    }
    views = _payloads(split, num_samples)
    batch = [np.empty((batch_size, member.num_bytes), np.uint8) for member in split.arrays.values()]
    cases = []
    what = "the JPEGs" if split.arrays["video"].is_jpeg else "memory"  # the loader also decodes them
    choices: tuple[tuple[Group, Look], ...] = (("loading", _glance), ("reading", _read_all))
    for group, look in choices:
        copy = partial(_repeat, partial(_copy, views, batch, look), num_passes)
        cases.append(Case(name=f"copying {what}, one thread", kind="limit", group=group, run=copy))
        for num_readers, loader in loaders.items():
            name = f"mmsent, {num_readers} reader{'s' * (num_readers > 1)}"
            run = partial(_repeat, partial(_iterate, loader, look), num_passes)
            cases.append(Case(name=name, kind="ours", group=group, num_readers=num_readers, run=run))
    for num_workers in (0, _WORKERS):
        run = partial(_stock_webdataset, urls, members(split.spec), batch_size, num_workers, num_samples)
        name = f"stock webdataset{_with(num_workers)}"
        cases.append(Case(name=name, kind="other", group="loading", run=run))
    return cases


@contextmanager
def file_cases(split: Split, *, batch_size: int) -> Iterator[list[Case]]:
    """Write some samples to a file per array in a temporary folder; give the cases of loading them with torch."""
    with tempfile.TemporaryDirectory(prefix="mmsent-bench-") as folder:
        num_samples = min(_FILES, len(split))
        for i in range(num_samples):
            sample = split.sample(i)
            for name, member in split.arrays.items():
                array = pixels(sample.frames, split.spec.video) if member.is_jpeg else sample.array(name)
                np.save(Path(folder) / f"{i}.{name}.npy", array)
        files = _Files(Path(folder), num_samples)
        yield [
            Case(
                name=f"torch DataLoader over files{_with(num_workers)}",
                kind="other",
                group="loading",
                run=partial(_torch_files, files, batch_size, num_workers),
            )
            for num_workers in (0, _WORKERS)
        ]


def train_cases(split: Split, *, model_config: ModelConfig, train_config: TrainConfig, seconds: float) -> list[Case]:
    """Return the cases of training for about so many seconds each: on one batch again and again, and on the loader's.

    Preparing them builds the model, which raises `EncoderError` where its weights cannot be had.
    """
    bench = TrainBench(split, model_config=model_config, train_config=train_config, seconds=seconds)
    common: dict[str, Any] = {"group": "training", "prepare": bench.prepare, "once_if_over_seconds": 4 * seconds}
    return [
        Case(name="trainer, one batch again", kind="headroom", run=bench.run_headroom, **common),
        Case(
            name="trainer, loader's batches",
            kind="fed",
            num_readers=train_config.num_readers,
            run=bench.run_fed,
            **common,
        ),
    ]


Look = Callable[[Any], None]


def _with(num_workers: int) -> str:
    return f", {num_workers} workers" if num_workers else ""


def _glance(array: Any) -> None:
    """Leave an array as it is."""


def _read_all(array: Any) -> None:
    """Read every byte of an array, as a model would."""
    flat = array.reshape(-1).view(np.uint8)
    np.bitwise_xor.reduce(flat[: len(flat) // 8 * 8].view(np.uint64))


def _payloads(split: Split, num_samples: int) -> list[list[Any]]:
    """Return views of all arrays of the first samples, so that nothing but the copy is left to time."""
    return [[split.array_payload(name, i) for name in MODALITIES] for i in range(num_samples)]


def _copy(views: list[list[Any]], batch: list[NDArray[np.uint8]], look: Look) -> int:
    """Copy every payload into one batch, in the order of the shards, with nothing around it."""
    batch_size = len(batch[0])
    for start in range(0, len(views), batch_size):
        chunk = views[start : start + batch_size]
        for row, payloads in enumerate(chunk):
            for array, payload in zip(batch, payloads, strict=True):
                array[row, : len(payload)] = payload  # a JPEG is shorter than its pixels
        for array in batch:
            look(array[: len(chunk)])
    return len(views)


def _repeat(run: Callable[[], int], num_passes: int) -> int:
    return sum(run() for _ in range(num_passes))


def _iterate(loader: ShardLoader, look: Look) -> int:
    num_samples = 0
    for batch in loader:
        for array in (batch.frames, batch.logmel, batch.tokens, *batch.features.values()):
            look(array)
        num_samples += len(batch)
    return num_samples


def _stock_webdataset(
    urls: list[str], extensions: Sequence[str], batch_size: int, num_workers: int, num_samples: int
) -> int:
    """Iterate the tars with stock webdataset: decode and batch, as its documentation shows."""
    import webdataset

    dataset: Any = (
        webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple(*extensions).batched(batch_size)
    )
    if num_workers:
        dataset = DataLoader(dataset, batch_size=None, num_workers=min(num_workers, len(urls)))
    found = sum(len(batch[0]) for batch in dataset)
    if found != num_samples:
        raise RuntimeError(f"stock webdataset gave {found} of {num_samples} samples")
    return found


class _Files(TorchDataset[dict[str, Any]]):
    """Samples in a file per array, as many data sets are kept."""

    def __init__(self, folder: Path, num_samples: int) -> None:
        self._folder = folder
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: torch.from_numpy(np.load(self._folder / f"{index}.{name}.npy")) for name in MODALITIES}


def _torch_files(files: _Files, batch_size: int, num_workers: int) -> int:
    loader: Any = DataLoader(files, batch_size=batch_size, shuffle=True, num_workers=num_workers)
    return sum(len(batch["text"]) for batch in loader)
