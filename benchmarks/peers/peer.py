"""What every loader in `benchmarks.peers.systems` is to the benchmark, and the plain tars they are all made from.

Imported inside the peers' own environments too: nothing but the standard library and NumPy.

Shape letters: B batch, T frames, H height, W width, M mel bins, S hops, L tokens, K tasks.
"""

import importlib
import io
import json
import pkgutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import systems

__all__ = [
    "FIELDS",
    "Batch",
    "Epoch",
    "Peer",
    "Source",
    "describe_arrays",
    "digest",
    "load_peer",
    "peer_names",
    "read_kinds",
    "read_tars",
    "write_kinds",
]

FIELDS = ("frames", "logmel", "tokens", "labels")


class Batch(NamedTuple):
    """What a training step needs. The arrays are valid until the next batch is asked for."""

    frames: NDArray[Any]
    """`(B, T, H, W, 3)` uint8."""
    logmel: NDArray[Any]
    """`(B, M, S)` float16."""
    tokens: NDArray[Any]
    """`(B, L)` int32."""
    labels: NDArray[Any]
    """`(B, K)` int64."""


Epoch = Callable[[], Iterator[Batch]]
"""Begins one epoch of a loader that is open: every sample exactly once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The samples on disk."""

    split: Path
    """Our own shards."""
    tars: Path
    """The same as plain WebDataset tars: `KEY.frames.npy`, `.logmel.npy`, `.tokens.npy`, `.labels.npy`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A loader and how it is used here."""

    title: str
    environment: str
    """Peers of the same name share a virtual environment; empty for the one that runs the benchmark."""
    needs_torch: bool
    """The environment is laid over one that has torch: several GB, installed once."""
    requirements: tuple[str, ...]
    """What pip installs; the first is the one whose version is shown."""
    modules: tuple[str, ...]
    """Imported before the clock starts."""
    variants: Mapping[int, str]
    """Numbers of workers to measure, and what to call each."""
    settings: str
    """How it is used, in a sentence, for the reader of the table."""
    convert: Callable[[Source, Path], None]
    """Makes the samples into the loader's own format in an empty folder."""
    open: Callable[[Path, int, int], Epoch]
    """Opens the folder for a batch size and a number of workers."""


def peer_names() -> list[str]:
    """Return the names of the files in `systems`."""
    return sorted(module.name for module in pkgutil.iter_modules(systems.__path__))


def load_peer(name: str) -> Peer:
    """Return the `PEER` of a file in `systems`; its library is not imported yet.

    Raises:
        ValueError: if there is no such file.
    """
    if name not in peer_names():
        raise ValueError(f"no peer is called {name!r}; there are {', '.join(peer_names())}")
    peer = importlib.import_module(f"{systems.__name__}.{name}").PEER
    assert isinstance(peer, Peer)
    return peer


def read_tars(folder: Path) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Yield key and arrays of every sample of the plain tars, in order."""
    for path in sorted(folder.glob("*.tar")):
        arrays: dict[str, NDArray[Any]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, field, _ = member.name.split(".")
                file = tar.extractfile(member)
                assert file is not None
                arrays[field] = np.load(io.BytesIO(file.read()), allow_pickle=False)
                if len(arrays) == len(FIELDS):
                    yield key, arrays
                    arrays = {}


def write_kinds(tars: Path, folder: Path) -> None:
    """Note dtype and shape of every field beside data that is nothing but the bytes."""
    _, arrays = next(read_tars(tars))
    kinds = {field: (str(arrays[field].dtype), arrays[field].shape) for field in FIELDS}
    (folder / "kinds.json").write_text(json.dumps(kinds), "utf-8")


def read_kinds(folder: Path) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return what `write_kinds` noted, by field, in the order of `FIELDS`."""
    kinds = json.loads((folder / "kinds.json").read_text("utf-8"))
    return {field: (np.dtype(dtype), tuple(shape)) for field, (dtype, shape) in kinds.items()}


def digest(batch: Batch) -> int:
    """Return the sum of the CRC-32 of the batch's samples: the same in any order and any batches."""
    total = 0
    for row in range(len(batch.labels)):
        crc32 = 0
        for array in batch:
            crc32 = zlib.crc32(np.ascontiguousarray(array[row]).data, crc32)
        total += crc32
    return total


def describe_arrays(batch: Batch) -> str:
    """Return dtypes and shapes without B, to compare."""
    return json.dumps([[str(array.dtype), *map(int, array.shape[1:])] for array in batch])
