"""Stock webdataset over the plain tars."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source


def convert(source: Source, folder: Path) -> None:
    """Point at the plain tars."""
    (folder / "tars").symlink_to(source.tars.resolve(), target_is_directory=True)


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Decode and batch in the pipeline, as its documentation shows; workers share the tars out."""
    import webdataset

    urls = [str(path) for path in sorted((folder / "tars").glob("*.tar"))]
    dataset: Any = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0)
        .shuffle(100)
        .decode()
        .to_tuple(*(f"{field}.npy" for field in FIELDS))
        .batched(batch_size)
    )
    loader: Any = dataset
    if workers:
        loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=True)

    def epoch() -> Iterator[Batch]:
        for batch in loader:
            yield Batch(*(np.asarray(field) for field in batch))

    return epoch


PEER = Peer(
    title="stock webdataset",
    environment="webdataset",
    needs_torch=True,
    requirements=("webdataset", "numpy"),
    modules=("torch", "webdataset"),
    variants={0: "in process", 2: "2 worker processes"},
    settings="`WebDataset(shardshuffle).shuffle(100).decode().to_tuple(…).batched(…)`; with workers in `WebLoader`",
    convert=convert,
    open=open_loader,
)
