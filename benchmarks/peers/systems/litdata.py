"""LitData: chunks made by `optimize`, read by its streaming loader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source, read_tars


class _Samples:
    """Gives the arrays of sample after sample; a class because `optimize` sends it to another process."""

    def __init__(self, tars: Path) -> None:
        self._tars = tars

    def __call__(self, number: int) -> Iterator[dict[str, Any]]:
        for _, arrays in read_tars(self._tars):
            yield {field: arrays[field] for field in FIELDS}


def convert(source: Source, folder: Path) -> None:
    """Write chunks of 64 MB, as its documentation does."""
    import litdata

    litdata.optimize(
        fn=_Samples(source.tars),
        inputs=[0],
        output_dir=str(folder / "chunks"),
        chunk_bytes="64MB",
        num_workers=1,
    )


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Open the chunks with its dataset and loader."""
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(folder / "chunks"), shuffle=True, batch_decode="item")
    loader = StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0)

    def epoch() -> Iterator[Batch]:
        for batch in loader:
            yield Batch(*(batch[field].numpy() for field in FIELDS))

    return epoch


PEER = Peer(
    title="LitData",
    environment="litdata",
    needs_torch=True,
    requirements=("litdata", "numpy"),
    modules=("torch", "litdata"),
    variants={0: "in process", 2: "2 worker processes"},
    settings="`optimize` into chunks of 64 MB; `StreamingDataset(shuffle=True, batch_decode='item')` (its default "
    "decodes neighbours that a shuffled order never uses) in `StreamingDataLoader`",
    convert=convert,
    open=open_loader,
)
