"""torch's own DataLoader over one `.npy` file per array of each sample."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source, read_tars


class _Files:
    """A map-style dataset."""

    def __init__(self, folder: Path) -> None:
        self._keys = sorted(path.name for path in (folder / FIELDS[0]).iterdir())
        self._folders = [folder / field for field in FIELDS]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> tuple[NDArray[np.generic], ...]:
        return tuple(np.load(folder / self._keys[index]) for folder in self._folders)


def convert(source: Source, folder: Path) -> None:
    """Write one file per array of each sample."""
    for field in FIELDS:
        (folder / field).mkdir()
    for key, arrays in read_tars(source.tars):
        for field in FIELDS:
            np.save(folder / field / f"{key}.npy", arrays[field])


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Open the folder behind torch's loader with its default collate."""
    from torch.utils.data import DataLoader

    files: Any = _Files(folder)
    loader: Any = DataLoader(
        files, batch_size=batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )

    def epoch() -> Iterator[Batch]:
        for batch in loader:
            yield Batch(*(field.numpy() for field in batch))

    return epoch


PEER = Peer(
    title="torch DataLoader over .npy files",
    environment="torch_files",
    needs_torch=True,
    requirements=("torch", "numpy"),
    modules=("torch",),
    variants={0: "in process", 2: "2 worker processes"},
    settings="a map-style dataset that does `numpy.load` of four files per sample, global shuffle, default collate",
    convert=convert,
    open=open_loader,
)
