"""What a run would take, from the annotations, the sizes of the files, and a few clips that are really decoded."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from preprocess.annotations import Dataset, Utterance
from preprocess.config import PreprocessConfig
from preprocess.extract import MEDIA
from preprocess.pool import Request, extract_all
from shards.codec import ARRAY_MEMBERS, array_shapes
from shards.schema import FeatureSpec, Modality
from shards.writer import read_record, shard_name

__all__ = ["Estimate", "estimate_run"]

_SAMPLE_CLIPS = 24
"""Clips decoded to measure; MELD's lengths vary so much that fewer mislead by half."""
_META_BYTES = 4_500
"""Of a sample besides its arrays: the JSON, about 800 bytes, and the headers and padding of a tar's four members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run would read, write and take."""

    num_rows: int
    num_clips: int
    """Rows that have one."""
    num_rows_done: int
    """Rows in shards that an earlier run into the same folder finished in the same way."""
    annotated_hours: float
    """Of all rows, by their annotations."""
    clip_bytes: int
    """A file that several rows are cut from counts once."""
    shard_bytes: Mapping[Modality, int]
    """Of all rows, by what takes them; text holds everything that is neither picture nor sound."""
    free_bytes: int
    """On the disk of the output folder."""
    clips_measured: int
    clips_per_second: float
    """Of those, on as many processes as asked for."""
    minutes: float
    """For the rows that are not done, at that rate per byte of clip."""

    @property
    def fits(self) -> bool:
        """Whether the disk has room for all shards."""
        return sum(self.shard_bytes.values()) <= self.free_bytes


def estimate_run(
    dataset: Dataset, out: Path, *, config: PreprocessConfig, spec: FeatureSpec, num_workers: int
) -> Estimate:
    """Measure on evenly spread clips what preprocessing a data set would take. Writes nothing."""
    rows = [row for split in dataset.splits for row in split.utterances]
    sizes = {row.key: _clip_bytes(dataset.root, row) for row in rows}
    with_clip = [row for row in rows if row.clip or row.twin]
    step = max(1, len(with_clip) // _SAMPLE_CLIPS)
    sample = with_clip[step // 2 :: step][:_SAMPLE_CLIPS]
    seconds, video_bytes = _measure(dataset.root, sample, config=config, spec=spec, num_workers=num_workers)
    done = _rows_done(dataset, out, config=config, spec=spec)
    left = sum(size for key, size in sizes.items() if key not in done)
    sampled = sum(sizes[row.key] for row in sample)
    fixed = {name: _array_bytes(spec, name) for name in ARRAY_MEMBERS}
    return Estimate(
        num_rows=len(rows),
        num_clips=len(with_clip),
        num_rows_done=len(done),
        annotated_hours=sum(max(0.0, row.annotated_seconds) for row in rows) / 3600,
        clip_bytes=sum({row.clip or row.twin: sizes[row.key] for row in rows}.values()),
        shard_bytes={
            "video": round(video_bytes * len(rows)) if spec.video.storage == "jpeg" else fixed["frames"] * len(rows),
            "audio": fixed["logmel"] * len(rows),
            "text": (fixed["tokens"] + _META_BYTES) * len(rows),
        },
        free_bytes=shutil.disk_usage(_nearest(out)).free,
        clips_measured=len(sample),
        clips_per_second=len(sample) / seconds if seconds else 0.0,
        minutes=seconds * left / sampled / 60 if sampled else 0.0,
    )


def _measure(
    root: Path, rows: list[Utterance], *, config: PreprocessConfig, spec: FeatureSpec, num_workers: int
) -> tuple[float, float]:
    """Return the seconds that decoding takes once the workers have started, and the mean bytes of a stored picture."""
    if not rows:
        return 0.0, 0.0
    warm_up = [rows[0]] * num_workers
    requests = (Request(row=row, media=MEDIA) for row in (*warm_up, *rows))
    start = 0.0
    stored = []
    for number, extracted in enumerate(
        extract_all(root, requests, config=config, spec=spec, num_workers=num_workers), start=1
    ):
        if number == num_workers:
            start = time.perf_counter()
        elif number > num_workers and extracted.video.presence.present:
            stored.append(extracted.video.array.nbytes)
    return time.perf_counter() - start, sum(stored) / max(1, len(stored))


def _rows_done(dataset: Dataset, out: Path, *, config: PreprocessConfig, spec: FeatureSpec) -> set[str]:
    """Return the keys in shards that were finished in the same way, without a look at the clips they came from."""
    done = set()
    for split in dataset.splits:
        for start in range(0, len(split.utterances), config.samples_per_shard):
            path = out / split.name / shard_name(split.name, start // config.samples_per_shard)
            record = read_record(path)
            if record is not None and record[1].fingerprints == spec.fingerprints():
                done |= {row.key for row in split.utterances[start : start + config.samples_per_shard]}
    return done


def _clip_bytes(root: Path, row: Utterance) -> int:
    path = row.clip or row.twin
    try:
        return (root / path).stat().st_size if path else 0
    except OSError:
        return 0


def _array_bytes(spec: FeatureSpec, name: str) -> int:
    size = ARRAY_MEMBERS[name].itemsize
    for length in array_shapes(spec)[name]:
        size *= length
    return size


def _nearest(path: Path) -> Path:
    """Return the path or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
