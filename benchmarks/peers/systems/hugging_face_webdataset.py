"""Hugging Face datasets streaming the plain tars."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source


def convert(source: Source, folder: Path) -> None:
    """Point at the plain tars."""
    (folder / "tars").symlink_to(source.tars.resolve(), target_is_directory=True)


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Stream the tars with its WebDataset builder behind torch's loader; workers share the tars out."""
    from datasets import load_dataset
    from torch.utils.data import DataLoader

    files = [str(path) for path in sorted((folder / "tars").glob("*.tar"))]
    dataset = load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)
    dataset = dataset.shuffle(seed=0, buffer_size=100)

    def collate(rows: list[dict[str, Any]]) -> Batch:
        return Batch(*(np.stack([np.asarray(row[f"{field}.npy"]) for row in rows]) for field in FIELDS))

    loader = DataLoader(
        dataset, batch_size=batch_size, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
    )

    def epoch() -> Iterator[Batch]:
        yield from loader

    return epoch


PEER = Peer(
    title="Hugging Face datasets (webdataset)",
    environment="hugging_face",
    needs_torch=True,
    requirements=("datasets", "numpy"),
    modules=("torch", "datasets"),
    variants={0: "in process", 2: "2 worker processes"},
    settings="`load_dataset('webdataset', streaming=True).shuffle(buffer_size=100)` in torch's `DataLoader`",
    convert=convert,
    open=open_loader,
)
