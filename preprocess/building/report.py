"""What a split's shards say about the rows they were made from: the same whether they were made now or kept."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from preprocess.building.split_maker import SplitMade
from preprocess.clips.extract import Medium
from preprocess.datasets.annotations import Dataset, DatasetSplit
from shards.files import sha256_file
from shards.format.index import INDEX_NAME
from shards.reading.split import Split
from shards.schema import MODALITIES, SampleMeta

__all__ = ["REPORT_NAME", "AbsentModality", "RowNote", "SplitReport", "report_splits", "report_to_json"]


REPORT_NAME = "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentModality:
    """A modality that a sample does not have."""

    key: str
    modality: str
    file: str
    """Relative to the dataset; empty for a row without a clip."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowNote:
    """A `shards.schema.Note` with the sample it is about."""

    key: str
    kind: str
    about: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """Rows, samples, and everything that is odd about one split."""

    split: str
    csv: str
    clip_folder: str
    index_sha256: str
    """Digest of the content of `index.json`: what is said of the samples holds as long as it does."""
    num_rows: int
    num_samples: int
    num_dialogues: int
    num_shards: int
    num_shards_made: int
    decoded: Mapping[Medium, int]
    """Clips of which picture or sound was decoded in this run."""
    reused: Mapping[Medium, int]
    """Rows of the shards made in this run for which it was taken from an older shard."""
    num_bytes: int
    num_files: int
    usable: dict[str, int]
    """Samples that have it, by modality."""
    usable_labels: dict[str, dict[str, int]]
    """Samples with a picture, by task and label."""
    rows_without_clip: list[str]
    unreadable_clips: list[str]
    rows_without_sound: list[str]
    """Rows whose clip has a picture and no sound."""
    absent: list[AbsentModality]
    notes: list[RowNote]
    orphan_clips: list[str]
    twins: list[str]
    ignored_files: list[str]


def report_splits(dataset: Dataset, out: Path, *, made: Mapping[str, SplitMade]) -> list[SplitReport]:
    """Read the finished splits of `out` back and say what is in them; others have none.

    Raises:
        ShardError: if a split is not finished or damaged.
    """
    before = _read_before(out / REPORT_NAME)
    return [
        _again(before.get(split.name), out / split.name, split, made[split.name])
        or _report(split, Split(out / split.name), made[split.name])
        for split in dataset.splits
        if made[split.name].finished
    ]


def report_to_json(dataset: Dataset, reports: list[SplitReport]) -> dict[str, Any]:
    """Return the report of a run as plain values."""
    return {
        "splits": {report.split: asdict(report) for report in reports},
        "missing_splits": list(dataset.missing_splits),
        "other_csvs": list(dataset.other_csvs),
    }


def _read_before(path: Path) -> dict[str, Any]:
    """Return the splits of an earlier run's report as plain values; nothing of one that cannot be read."""
    try:
        splits = json.loads(path.read_bytes())["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return splits if isinstance(splits, dict) else {}


def _again(value: Any, directory: Path, found: DatasetSplit, made: SplitMade) -> SplitReport | None:
    """Return an earlier report brought up to date, if the split has the same samples as then.

    Reading the metadata of 14,000 samples takes longer than all else of a run that finds nothing to do.
    """
    if made.shards_made:
        return None
    try:
        report = SplitReport(
            **{
                **value,
                "absent": [AbsentModality(**item) for item in value["absent"]],
                "notes": [RowNote(**item) for item in value["notes"]],
            }
        )
        if report.index_sha256 != sha256_file(directory / INDEX_NAME):
            return None
    except (OSError, KeyError, TypeError):
        return None
    return replace(report, **_found(found), num_shards_made=0, decoded=made.decoded, reused=made.reused)


def _found(found: DatasetSplit) -> dict[str, Any]:
    """Return the fields of a report that are about the data set's files and not about the samples."""
    return {
        "csv": found.csv,
        "clip_folder": found.clip_folder,
        "num_rows": len(found.utterances),
        "num_files": found.num_files,
        "orphan_clips": list(found.orphan_clips),
        "twins": list(found.twins),
        "ignored_files": list(found.ignored_files),
    }


def _report(found: DatasetSplit, split: Split, made: SplitMade) -> SplitReport:
    metas = list(split.metas())
    with_picture = [meta for meta in metas if meta.presence["video"].present]
    return SplitReport(
        split=found.name,
        **_found(found),
        index_sha256=sha256_file(Path(split.source.location) / INDEX_NAME),
        num_samples=len(metas),
        num_dialogues=len({meta.dialogue_id for meta in metas}),
        num_shards=len(split.index.shards),
        num_shards_made=made.shards_made,
        decoded=made.decoded,
        reused=made.reused,
        num_bytes=sum(shard.bytes for shard in split.index.shards),
        usable={name: sum(meta.presence[name].present for meta in metas) for name in MODALITIES},
        usable_labels={
            labels.task: dict(Counter(meta.labels[labels.task] for meta in with_picture)) for labels in split.label_sets
        },
        rows_without_clip=[meta.key for meta in metas if not meta.source.path],
        unreadable_clips=[meta.key for meta in metas if meta.source.path and not meta.presence["video"].present],
        rows_without_sound=[meta.key for meta in with_picture if not meta.presence["audio"].present],
        absent=[item for meta in metas for item in _absent(meta)],
        notes=[
            RowNote(key=meta.key, kind=note.kind, about=note.about, detail=note.detail)
            for meta in metas
            for note in meta.notes
        ],
    )


def _absent(meta: SampleMeta) -> list[AbsentModality]:
    return [
        AbsentModality(key=meta.key, modality=name, file=meta.source.path, reason=meta.presence[name].reason)
        for name in MODALITIES
        if not meta.presence[name].present
    ]
