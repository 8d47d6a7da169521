"""Our own loader."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.peers.peer import Batch, Epoch, Peer, Source


def convert(source: Source, folder: Path) -> None:
    """Point at the shards: they are what `mmsent preprocess` writes."""
    (folder / "split").symlink_to(source.split.resolve(), target_is_directory=True)


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Open the loader as the trainer does; each epoch has an order of its own."""
    from shards.order.orders import Shuffled
    from shards.reading.loader import ShardLoader
    from shards.reading.split import Split

    split = Split(folder / "split")
    loader = ShardLoader(split, order=Shuffled(len(split), seed=0), batch_size=batch_size, num_readers=workers)

    def epoch() -> Iterator[Batch]:
        for batch in loader:
            labels = np.stack([batch.labels[task.task] for task in loader.split.label_sets], axis=1)
            yield Batch(batch.frames, batch.logmel, batch.tokens, labels)

    return epoch


PEER = Peer(
    title="mmsent",
    environment="",
    needs_torch=False,
    requirements=(),
    modules=("shards.reading.loader", "shards.reading.split"),
    variants={1: "1 reader", 2: "2 readers"},
    settings="`ShardLoader` over the shards as they are, global shuffle, reader threads, batches in memory used again",
    convert=convert,
    open=open_loader,
)
