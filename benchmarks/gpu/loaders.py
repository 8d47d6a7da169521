"""The same model on the batches of what users would have: stock webdataset, and torch's `DataLoader` over files."""

import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from benchmarks.gpu.setting import Setting, free_memory
from benchmarks.gpu.throughput import StepKind, prepared, rate_of
from mmsent.batches.batch import Batch
from mmsent.config import Precision
from shards.format.codec import members
from shards.reading.split import Split
from shards.schema import MODALITIES

__all__ = ["loaders"]


def loaders(setting: Setting) -> None:
    """Time the model with frozen encoders, which asks most of a loader, on the batches of each."""
    precision: Precision = "bf16" if setting.device.type == "cuda" else "fp32"
    kind = StepKind(batch_size=setting.sizes.batch_sizes[0], precision=precision)
    if not setting.has_time(40, "loaders"):
        return
    with free_memory(setting.device):
        split = setting.train_split(num_train=setting.sizes.num_small)
        bench = prepared(setting, kind, split)
        ours = statistics.median(rate_of(bench, _forever(bench.feed)) for _ in range(setting.sizes.rounds))
        setting.report.add("loaders", f"mmsent, {kind.name}", samples_per_second=ours)
        files = _Files(split, setting.scratch / "files")
        for num_workers in setting.sizes.num_workers:
            ways = {"stock webdataset": _webdataset(split, kind.batch_size, num_workers)}
            ways["DataLoader over files"] = DataLoader(
                files, batch_size=kind.batch_size, shuffle=True, drop_last=True, **_processes(setting, num_workers)
            )
            for name, loader in ways.items():
                what = f"{name}, {num_workers} workers"
                if not setting.has_time(8, f"loaders: {what}"):
                    continue
                rate = rate_of(bench, _batches(loader, setting.device, kind.batch_size))
                setting.report.add("loaders", what, samples_per_second=rate, ours_is_times=ours / rate)


def _forever(batches: Any) -> Iterator[Batch]:
    while True:
        yield from batches


def _processes(setting: Setting, num_workers: int) -> dict[str, Any]:
    pinned = setting.device.type == "cuda"
    return {"num_workers": num_workers, "pin_memory": pinned, "persistent_workers": True, "prefetch_factor": 4}


def _batches(loader: Any, device: torch.device, batch_size: int) -> Iterator[Batch]:
    while True:
        for fields in loader:
            if len(fields["frames"]) == batch_size:  # webdataset's workers each leave a ragged one
                yield _on_device(fields, device)


def _on_device(fields: dict[str, Tensor], device: torch.device) -> Batch:
    """Copy what a loader gave to the device, as its users do, and cut texts to the longest as this project does."""
    size = len(fields["frames"])
    num_tokens = fields["num_tokens"]
    length = int(num_tokens.max())
    there = {name: tensor.to(device, non_blocking=True) for name, tensor in fields.items()}
    tokens = there["tokens"][:, :length].long()
    everywhere = torch.arange(size, device=device)
    return Batch(
        frames=there["frames"].permute(0, 4, 1, 2, 3),
        logmel=there["logmel"],
        num_hops=there["num_hops"],
        tokens=tokens,
        token_mask=torch.arange(length, device=device) < there["num_tokens"].unsqueeze(1),
        features={},
        rows=dict.fromkeys(MODALITIES, everywhere),
        window=everywhere.unsqueeze(1),
        labels={task: there[task] for task in ("emotion", "sentiment")},
        samples=torch.arange(size),
    )


class _Files(TorchDataset[dict[str, Any]]):
    """Samples in a file per array, as many data sets are kept."""

    def __init__(self, split: Split, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._rows = [_small_fields(split, place) for place in range(len(split))]
        for place in range(len(split)):
            sample = split.sample(place)
            for name in ("frames", "logmel", "tokens"):
                np.save(folder / f"{place}.{name}.npy", getattr(sample, name))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        arrays = {name: np.load(self._folder / f"{index}.{name}.npy") for name in ("frames", "logmel", "tokens")}
        return {**{name: torch.from_numpy(array) for name, array in arrays.items()}, **self._rows[index]}


def _small_fields(split: Split, place: int) -> dict[str, int]:
    row = split.rows[place]
    labels = {one.task: int(row["labels"][number]) for number, one in enumerate(split.label_sets)}
    return {"num_hops": int(row["num_hops"]), "num_tokens": int(row["num_tokens"]), **labels}


def _webdataset(split: Split, batch_size: int, num_workers: int) -> Any:
    """Return stock webdataset over the same tars in a `DataLoader`, as its documentation shows."""
    import webdataset

    urls = [split.files.where(number) for number in range(len(split.index.shards))]
    dataset: Any = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(batch_size).decode("rgb8")
    dataset = dataset.to_tuple(*members(split.spec)).map(partial(_fields, tuple(one.task for one in split.label_sets)))
    pinned = torch.cuda.is_available()
    return DataLoader(
        dataset.batched(batch_size, collation_fn=default_collate, partial=False),
        batch_size=None,
        num_workers=min(num_workers, len(urls)),
        pin_memory=pinned,
        persistent_workers=True,
        prefetch_factor=4,
    )


def _fields(tasks: tuple[str, ...], item: tuple[Any, ...]) -> dict[str, Any]:
    frames, logmel, tokens, meta = item
    fields = {"frames": frames, "logmel": logmel, "tokens": tokens}
    return {
        **{name: torch.from_numpy(array) for name, array in fields.items()},
        "num_hops": meta["num_hops"],
        "num_tokens": meta["num_tokens"],
        **{task: meta["labels"][task]["index"] for task in tasks},
    }
