"""What a run would take, from the annotations, the sizes of the files, and a few clips that are really decoded."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from preprocess.building.digests import rows_sha256
from preprocess.building.kept import RecordedShard, recorded_shard
from preprocess.building.plan import plan_shards
from preprocess.clips.extract import MEDIA, Medium
from preprocess.clips.extract_all import Request, extract_all
from preprocess.config import Part, PreprocessConfig
from preprocess.datasets.annotations import Dataset, Utterance
from shards.format.codec import array_members
from shards.schema import Modality
from shards.spec import FeatureSpec

__all__ = ["Estimate", "estimate_run"]

T = TypeVar("T")

_SAMPLE_CLIPS = 24
"""Clips decoded to measure; MELD's lengths vary so much that fewer mislead by half."""
_META_BYTES = 4_500
"""What a sample takes besides its arrays: JSON, about 800 bytes, and headers and padding of a tar's four members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run would read, write and take."""

    num_rows: int
    """Rows of the shards that are this run's: all, or its part of them."""
    num_clips: int
    """Rows that have one."""
    num_rows_done: int
    """Rows in shards that an earlier run into the same folder finished in the same way."""
    annotated_hours: float
    """Footage of all rows, by their annotations."""
    clip_bytes: int
    """A file that several rows are cut from counts once."""
    shard_bytes: Mapping[Modality, int]
    """Size of all rows by what takes it; text holds everything that is neither picture nor sound."""
    needed_bytes: int
    """What the shards that are to be made take beyond those they replace."""
    free_bytes: int
    """Room on the disk of the output folder."""
    clips_measured: int
    clips_per_second: float
    """Rate of those on as many processes as asked for, decoding what is to be decoded: picture, sound or both."""
    minutes: float
    """Time for all that is to be decoded, at that rate per byte of clip."""

    @property
    def fits(self) -> bool:
        """Whether the disk has room for the shards that are to be made."""
        return self.needed_bytes <= self.free_bytes


def estimate_run(
    dataset: Dataset, out: Path, *, config: PreprocessConfig, spec: FeatureSpec, part: Part, num_workers: int
) -> Estimate:
    """Measure on evenly spread clips what preprocessing a data set would take. Writes nothing.

    What older shards hold is believed without a look at the clips that it came from.
    """
    shards = _shards(dataset, out, config=config, spec=spec, part=part)
    rows = [row for shard in shards for row in shard.rows]
    sizes = {row.key: _clip_bytes(dataset.root, row) for row in rows}
    with_clip = [row for row in rows if row.clip or row.twin]
    wanted = [request for shard in shards for request in shard.requests]
    sample = _spread(wanted)
    seconds, pictures = _measure(dataset.root, sample, config=config, spec=spec, num_workers=num_workers)
    if spec.video.storage == "jpeg" and not pictures:  # none is to be decoded, but how large they are is asked
        some = [Request(row=row, media=("video",)) for row in _spread(with_clip)]
        _, pictures = _measure(dataset.root, some, config=config, spec=spec, num_workers=num_workers)
    of_sample = _sample_bytes(spec, pictures)
    to_make = [shard for shard in shards if not shard.done]
    sampled = sum(sizes[request.row.key] for request in sample)
    return Estimate(
        num_rows=len(rows),
        num_clips=len(with_clip),
        num_rows_done=sum(len(shard.rows) for shard in shards if shard.done),
        annotated_hours=sum(max(0.0, row.annotated_seconds) for row in rows) / 3600,
        clip_bytes=sum({row.clip or row.twin: sizes[row.key] for row in rows}.values()),
        shard_bytes={name: round(size * len(rows)) for name, size in of_sample.items()},
        needed_bytes=sum(round(len(shard.rows) * sum(of_sample.values())) - shard.old_bytes for shard in to_make),
        free_bytes=shutil.disk_usage(_nearest(out)).free,
        clips_measured=len(sample),
        clips_per_second=len(sample) / seconds if seconds else 0.0,
        minutes=seconds * sum(sizes[request.row.key] for request in wanted) / sampled / 60 if sampled else 0.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """A shard of the plan, and what there is of it."""

    rows: tuple[Utterance, ...]
    requests: tuple[Request, ...]
    """What is to be decoded of the rows that have a clip."""
    done: bool
    """Whether it is kept as it is."""
    old_bytes: int


def _shards(dataset: Dataset, out: Path, *, config: PreprocessConfig, spec: FeatureSpec, part: Part) -> list[_Shard]:
    found = []
    for split in dataset.splits:
        plan = plan_shards(
            split.name,
            split.utterances,
            samples_per_shard=config.samples_per_shard,
            context_utterances=config.context_utterances,
        )
        for shard in plan:
            if not part.makes(shard.index):
                continue
            path = out / split.name / shard.name
            recorded = recorded_shard(path, spec=spec)
            requests = (
                Request(row=row, media=_to_decode(row, recorded)) for row in shard.utterances if row.clip or row.twin
            )
            found.append(
                _Shard(
                    rows=shard.utterances,
                    requests=tuple(request for request in requests if request.media),
                    done=recorded is not None
                    and recorded.settled
                    and recorded.of_rows(rows_sha256(shard.utterances, dataset.label_sets)),
                    old_bytes=path.stat().st_size if path.is_file() else 0,
                )
            )
    return found


def _to_decode(row: Utterance, recorded: RecordedShard | None) -> tuple[Medium, ...]:
    """Return the media of a row that no older shard holds."""
    return tuple(medium for medium in MEDIA if recorded is None or not recorded.source(row.key, medium))


def _spread(items: Sequence[T]) -> Sequence[T]:
    """Choose as many as are measured, evenly spread; all where there are no more."""
    step = max(1, len(items) // _SAMPLE_CLIPS)
    return items[step // 2 :: step][:_SAMPLE_CLIPS]


def _sample_bytes(spec: FeatureSpec, pictures: Sequence[int]) -> dict[Modality, float]:
    """Return what a sample takes; `pictures` holds the sizes of some as they are stored."""
    size = {name: member.num_bytes for name, member in array_members(spec).items()}
    video = sum(pictures) / max(1, len(pictures)) if spec.video.storage == "jpeg" else size["video"]
    return {"video": video, "audio": size["audio"], "text": size["text"] + _META_BYTES}


def _measure(
    root: Path, sample: Sequence[Request], *, config: PreprocessConfig, spec: FeatureSpec, num_workers: int
) -> tuple[float, list[int]]:
    """Return the seconds that decoding takes once the workers have started, and the bytes of the stored pictures."""
    if not sample:
        return 0.0, []
    warm_up = [sample[0]] * num_workers
    start = 0.0
    stored = []
    for number, extracted in enumerate(
        extract_all(root, (*warm_up, *sample), config=config, spec=spec, num_workers=num_workers), start=1
    ):
        picture = extracted.features.get("video")
        if number == num_workers:
            start = time.perf_counter()
        elif number > num_workers and picture is not None and picture.presence.present:
            stored.append(picture.array.nbytes)
    return time.perf_counter() - start, stored


def _clip_bytes(root: Path, row: Utterance) -> int:
    path = row.clip or row.twin
    try:
        return (root / path).stat().st_size if path else 0
    except OSError:
        return 0


def _nearest(path: Path) -> Path:
    """Return the path or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
