"""Megatron Energon over the plain tars."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.peer import FIELDS, Batch, Epoch, Peer, Source


def convert(source: Source, folder: Path) -> None:
    """Link the tars and index them with its own command."""
    tars = folder / "tars"
    tars.mkdir()
    for path in source.tars.glob("*.tar"):
        (tars / path.name).hardlink_to(path)
    command = [
        str(Path(sys.executable).parent / "energon"),
        "prepare",
        str(tars),
        "--non-interactive",
        "--num-workers",
        "1",
    ]
    command += ["--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"]
    subprocess.run(command, check=True)


def open_loader(folder: Path, batch_size: int, workers: int) -> Epoch:
    """Cook the arrays into its sample type and let it batch; one epoch instead of its endless stream."""
    import torch
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        edataclass,
        get_loader,
        get_train_dataset,
        stateless,
    )

    @edataclass
    class Utterance(Sample):  # type: ignore[misc]
        frames: torch.Tensor
        logmel: torch.Tensor
        tokens: torch.Tensor
        labels: torch.Tensor

    @stateless  # type: ignore[untyped-decorator]
    def cook(sample: dict[str, Any]) -> Utterance:
        return Utterance(
            **basic_sample_keys(sample),
            **{field: torch.as_tensor(sample[f"{field}.npy"]) for field in FIELDS},
        )

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc]
        cookers = (Cooker(cook),)

        @stateless  # type: ignore[untyped-decorator]
        def encode_batch(self, batch: Utterance) -> dict[str, torch.Tensor]:
            """Leave what only this function knows: a worker has to send it."""
            return {field: getattr(batch, field) for field in FIELDS}

    dataset = get_train_dataset(
        folder / "tars",
        batch_size=batch_size,
        shuffle_buffer_size=100,
        max_samples_per_sequence=100,
        repeat=False,
        task_encoder=Encoder(),
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
    )
    loader = get_loader(dataset)

    def epoch() -> Iterator[Batch]:
        for batch in loader:
            yield Batch(*(batch[field].numpy() for field in FIELDS))

    return epoch


PEER = Peer(
    title="Megatron Energon",
    environment="energon",
    needs_torch=True,
    requirements=("megatron-energon", "numpy"),
    modules=("torch", "megatron.energon"),
    variants={0: "in process", 2: "2 worker processes"},
    settings="`energon prepare` (`CrudeWebdataset`), a cooker that makes tensors, its own batching; shuffle buffer of "
    "100, one epoch (`repeat=False`) in `get_loader`",
    convert=convert,
    open=open_loader,
)
