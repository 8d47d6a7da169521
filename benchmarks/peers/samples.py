"""The samples that all loaders get: shards of our own format, and the same as plain tars."""

import io
import json
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers.child import Check
from benchmarks.peers.peer import FIELDS, Batch, Source, describe_arrays, digest
from shards.order.orders import InOrder
from shards.reading.loader import ShardLoader
from shards.reading.split import Split
from tests.support.samples import make_sample, make_spec, write_split

_SAMPLES_PER_TAR = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Where the samples are, and what every loader must give back."""

    source: Source
    expected: Check


def make_split(folder: Path, num_samples: int) -> Path:
    """Write random samples of the default size with the project's writer, once; return the split's folder."""
    root = folder / f"made-{num_samples}"
    if not (root / "train" / "index.json").is_file():
        spec = make_spec(num_frames=16, size=112, num_mels=64, num_hops=300)
        samples = (make_sample(i, spec=spec) for i in range(num_samples))
        write_split(root, samples, spec=spec, samples_per_shard=_SAMPLES_PER_TAR)
    return root / "train"


def export(directory: Path, tars: Path) -> Samples:
    """Write the samples of a split into plain tars, once.

    Raises:
        ValueError: if the split stores JPEG: then it is decoding that would be measured.
    """
    source = Source(split=directory, tars=tars)
    done = tars / "expected.json"
    if done.is_file():
        return Samples(source=source, expected=Check(**json.loads(done.read_text("utf-8"))))
    split = Split(directory)
    if split.spec.video.storage != "raw":
        raise ValueError(f"{directory} stores frames as {split.spec.video.storage}; this benchmark is about raw ones")
    tars.mkdir(parents=True, exist_ok=True)
    total = 0
    arrays = ""
    loader = ShardLoader(split, order=InOrder(len(split)), batch_size=_SAMPLES_PER_TAR)
    for number, batch in enumerate(loader):
        labels = np.stack([batch.labels[task.task] for task in split.label_sets], axis=1)
        plain = Batch(batch.frames, batch.logmel, batch.tokens, labels)
        total += digest(plain)
        arrays = describe_arrays(plain)
        with tarfile.open(tars / f"{number:05}.tar", "w") as tar:
            for row in range(len(labels)):
                _add(tar, f"{number:05}-{row:05}", Batch(*(array[row] for array in plain)))
    expected = Check(num_samples=len(split), digest=total, arrays=arrays)
    done.write_text(json.dumps(asdict(expected)), "utf-8")
    return Samples(source=source, expected=expected)


def _add(tar: tarfile.TarFile, key: str, arrays: Batch) -> None:
    for field, array in zip(FIELDS, arrays, strict=True):
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        member = tarfile.TarInfo(f"{key}.{field}.npy")
        member.size = content.tell()
        content.seek(0)
        tar.addfile(member, content)
