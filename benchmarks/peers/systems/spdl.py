"""SPDL: a pipeline of threads over mapped plain tars, with an index of their members."""

import mmap
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source


def convert(source: Source, folder: Path) -> None:
    """Point at the plain tars, and write down where their members are."""
    (folder / "tars").symlink_to(source.tars.resolve(), target_is_directory=True)
    places: dict[str, list[int]] = {}
    for number, path in enumerate(sorted(source.tars.glob("*.tar"))):
        with tarfile.open(path) as tar:
            for member in tar:
                key = member.name.partition(".")[0]
                places.setdefault(key, [number]).extend((member.offset_data, member.size))
    np.save(folder / "places.npy", np.array(list(places.values())))  # (num_samples, 1 + 2 per field)


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Map the tars; every epoch is a pipeline: rows of a batch, then its arrays, made by threads."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    places = np.load(folder / "places.npy")
    tars = []
    for path in sorted((folder / "tars").glob("*.tar")):
        with path.open("rb") as file:
            tars.append(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    random = np.random.default_rng(0)

    def load(rows: list[list[int]]) -> Batch:
        fields = []
        for field in range(len(FIELDS)):
            members = []
            for row in rows:
                start, size = row[1 + 2 * field], row[2 + 2 * field]
                members.append(spdl.io.load_npy(tars[row[0]][start : start + size]))
            fields.append(np.stack(members))
        return Batch(*fields)

    def epoch() -> Iterator[Batch]:
        order = random.permutation(len(places))
        batches = (places[order[start : start + batch_size]].tolist() for start in range(0, len(order), batch_size))
        pipeline = (
            PipelineBuilder()
            .add_source(batches)
            .pipe(load, concurrency=workers, max_failures=0)
            .add_sink(2)
            .build(num_threads=workers)
        )
        with pipeline.auto_stop():
            yield from pipeline

    return epoch


PEER = Peer(
    title="SPDL",
    environment="spdl",
    needs_torch=False,
    requirements=("spdl", "numpy"),
    modules=("spdl.io", "spdl.pipeline"),
    variants={1: "1 thread", 2: "2 threads"},
    settings="`PipelineBuilder` with threads; `spdl.io.load_npy` on views of mapped tars, batches by `numpy.stack`;"
    " global shuffle by an index of the members (SPDL itself brings neither)",
    convert=convert,
    open=open_loader,
)
