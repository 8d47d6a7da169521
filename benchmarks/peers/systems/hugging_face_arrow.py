"""Hugging Face datasets over arrow files, the arrays as bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source, read_kinds, read_tars, write_kinds


def convert(source: Source, folder: Path) -> None:
    """Write one arrow data set with binary columns, and what the bytes mean beside it."""
    from datasets import Dataset, Features, Value

    def rows() -> Iterator[dict[str, bytes]]:
        for _, arrays in read_tars(source.tars):
            yield {field: arrays[field].tobytes() for field in FIELDS}

    features = Features({field: Value("large_binary") for field in FIELDS})
    made = Dataset.from_generator(rows, features=features, cache_dir=str(folder / "cache"))
    made.save_to_disk(str(folder / "arrow"))
    write_kinds(source.tars, folder)


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Open the data set by index behind torch's loader: a whole batch is one access."""
    from datasets import load_from_disk
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    kinds = read_kinds(folder)
    dataset = load_from_disk(str(folder / "arrow")).with_format("arrow")

    def collate(table: Any) -> Batch:
        fields = []
        for field, (dtype, shape) in kinds.items():
            rows = [np.frombuffer(value.as_buffer(), dtype) for value in table[field]]
            fields.append(np.stack(rows).reshape(-1, *shape))
        return Batch(*fields)

    loader = DataLoader(
        dataset,
        sampler=BatchSampler(RandomSampler(dataset), batch_size, drop_last=False),
        batch_size=None,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda: iter(loader)


PEER = Peer(
    title="Hugging Face datasets (arrow)",
    environment="hugging_face",
    needs_torch=True,
    requirements=("datasets", "numpy"),
    modules=("torch", "datasets"),
    variants={0: "in process", 2: "2 worker processes"},
    settings="`load_from_disk(…).with_format('arrow')` with binary columns, a shuffled batch by one access, "
    "`numpy.frombuffer` and `numpy.stack`; in torch's `DataLoader`",
    convert=convert,
    open=open_loader,
)
