"""Grain over ArrayRecord files."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source, read_kinds, read_tars, write_kinds


class _Parse:
    """Bytes of a record to its arrays; a class because Grain sends it to its workers."""

    def __init__(self, folder: Path) -> None:
        self._kinds = read_kinds(folder)

    def __call__(self, record: bytes) -> Batch:
        arrays = []
        offset = 0
        for dtype, shape in self._kinds.values():
            array = np.frombuffer(record, dtype, count=math.prod(shape), offset=offset).reshape(shape)
            arrays.append(array)
            offset += array.nbytes
        return Batch(*arrays)


def convert(source: Source, folder: Path) -> None:
    """Write the bytes of all arrays of a sample as one uncompressed record, without groups, for random access."""
    from array_record.python.array_record_module import ArrayRecordWriter

    write_kinds(source.tars, folder)
    writer = ArrayRecordWriter(str(folder / "samples.array_record"), "group_size:1,uncompressed")
    for _, arrays in read_tars(source.tars):
        writer.write(b"".join(arrays[field].tobytes() for field in FIELDS))
    writer.close()


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Chain source, shuffle, parse and batch; each epoch has an order of its own."""
    import grain

    source = grain.sources.ArrayRecordDataSource([str(folder / "samples.array_record")])
    seeds = iter(range(1 << 30))

    def epoch() -> Iterator[Batch]:
        dataset = grain.MapDataset.source(source).shuffle(seed=next(seeds)).map(_Parse(folder)).batch(batch_size)
        iterable = dataset.to_iter_dataset()
        if workers:
            iterable = iterable.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=workers))
        yield from iterable

    return epoch


PEER = Peer(
    title="Grain",
    environment="grain",
    needs_torch=False,
    requirements=("grain", "array_record", "numpy"),
    modules=("grain", "array_record.python.array_record_module"),
    variants={0: "in process", 2: "2 worker processes"},
    settings="`MapDataset` over uncompressed ArrayRecord (`group_size:1`), global shuffle, its default threads; "
    "with workers `mp_prefetch`",
    convert=convert,
    open=open_loader,
)
