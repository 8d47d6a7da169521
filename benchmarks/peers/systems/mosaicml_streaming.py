"""MosaicML Streaming: MDS shards of ndarray columns."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source, read_tars


def convert(source: Source, folder: Path) -> None:
    """Write MDS shards with arrays of fixed shape and dtype, uncompressed, of the default size (64 MiB)."""
    from streaming import MDSWriter

    _, example = next(read_tars(source.tars))
    columns = {field: f"ndarray:{example[field].dtype}:{','.join(map(str, example[field].shape))}" for field in FIELDS}
    with MDSWriter(out=str(folder / "mds"), columns=columns) as writer:
        for _, arrays in read_tars(source.tars):
            writer.write({field: arrays[field] for field in FIELDS})


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Open the folder as a local dataset behind torch's loader, as its quick start does."""
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    dataset = StreamingDataset(local=str(folder / "mds"), shuffle=True, batch_size=batch_size)
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0)

    def epoch() -> Iterator[Batch]:
        for batch in loader:
            yield Batch(*(batch[field].numpy() for field in FIELDS))

    return epoch


PEER = Peer(
    title="MosaicML Streaming",
    environment="mosaicml_streaming",
    needs_torch=True,
    requirements=("mosaicml-streaming", "numpy"),
    modules=("torch", "streaming"),
    variants={0: "in process", 2: "2 worker processes"},
    settings="MDS of `ndarray` columns, uncompressed, local; `StreamingDataset(shuffle=True)` in torch's `DataLoader`",
    convert=convert,
    open=open_loader,
)
