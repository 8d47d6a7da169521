"""NVIDIA DALI on the CPU: its WebDataset reader over the plain tars."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source


def convert(source: Source, folder: Path) -> None:
    """Point at the plain tars; the reader finds the members itself when it opens them."""
    (folder / "tars").symlink_to(source.tars.resolve(), target_is_directory=True)


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Build one pipeline, which goes on from epoch to epoch."""
    from nvidia.dali import fn, pipeline_def

    paths = [str(path) for path in sorted((folder / "tars").glob("*.tar"))]

    @pipeline_def(batch_size=batch_size, num_threads=workers, device_id=None, seed=0)  # type: ignore[untyped-decorator]
    def arrays() -> tuple[object, ...]:
        members = fn.readers.webdataset(
            paths=paths,
            ext=[f"{field}.npy" for field in FIELDS],
            random_shuffle=True,
            initial_fill=256,
            pad_last_batch=True,
            missing_component_behavior="error",
            name="reader",
        )
        return tuple(fn.decoders.numpy(member) for member in members)

    pipeline = arrays()
    pipeline.build()
    num_samples = pipeline.reader_meta("reader")["epoch_size"]

    def epoch() -> Iterator[Batch]:
        for start in range(0, num_samples, batch_size):
            fields = (np.asarray(field.as_tensor()) for field in pipeline.run())
            size = min(batch_size, num_samples - start)  # the last batch is padded with a repeated sample
            yield Batch(*(array[:size] for array in fields))

    return epoch


PEER = Peer(
    title="NVIDIA DALI",
    environment="dali",
    needs_torch=False,
    requirements=("nvidia-dali-cuda120", "numpy"),
    modules=("nvidia.dali",),
    variants={1: "1 thread", 2: "2 threads"},
    settings="`fn.readers.webdataset` (mapped files, `random_shuffle` with a buffer of 256) and `fn.decoders.numpy` on "
    "the CPU; batches taken as views, not copies",
    convert=convert,
    open=open_loader,
)
