"""The limit: one thread copies the payloads from mapped files into one batch, and does nothing else."""

import mmap
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source, read_tars


def convert(source: Source, folder: Path) -> None:
    """Point at the plain tars."""
    (folder / "tars").symlink_to(source.tars.resolve(), target_is_directory=True)


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Map the tars, find every payload, and make the one batch."""
    assert workers == 1
    _, example = next(read_tars(folder / "tars"))
    rows = Batch(*(np.empty((batch_size, *example[field].shape), example[field].dtype) for field in FIELDS))
    flat = [array.reshape(batch_size, -1).view(np.uint8) for array in rows]
    payloads = {field: list(_payloads(folder / "tars", field, example[field].nbytes)) for field in FIELDS}

    def epoch() -> Iterator[Batch]:
        for start in range(0, len(payloads["labels"]), batch_size):
            size = min(batch_size, len(payloads["labels"]) - start)
            for field, array in zip(FIELDS, flat, strict=True):
                for row in range(size):
                    array[row] = payloads[field][start + row]
            yield rows if size == batch_size else Batch(*(array[:size] for array in rows))

    return epoch


def _payloads(folder: Path, field: str, size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield `(size,)` uint8 views of the values of one field: an npy file ends with them."""
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as file:
            content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(f".{field}.npy"):
                    end = member.offset_data + member.size
                    yield content[end - size : end]


PEER = Peer(
    title="copy limit",
    environment="",
    needs_torch=False,
    requirements=(),
    modules=(),
    variants={1: "one thread"},
    settings="`numpy` copies every payload from mapped tars into one batch, in their order: no loader can be faster "
    "with one thread",
    convert=convert,
    open=open_loader,
)
