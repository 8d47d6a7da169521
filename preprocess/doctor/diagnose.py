"""A data set's folder -> what is wrong with it: what detectors find, beside what is publicly known of MELD."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from preprocess.clips.mp4_header import probe_mp4
from preprocess.datasets.annotations import Dataset, DatasetSplit
from preprocess.datasets.meld import read_meld
from preprocess.doctor.clip_detectors import find_in_clips, find_same_content, usual_size
from preprocess.doctor.findings import DETECTORS, Clip, Finding, Severity
from preprocess.doctor.open_clips import open_clips
from preprocess.doctor.registry import GENERATIONS, Listed, OfficialSplit, Registry, compare, load_registry
from preprocess.doctor.row_detectors import WrittenRow, find_in_csv, find_in_rows, find_leakage
from preprocess.errors import ClipError
from shards.files import sha256_file

__all__ = ["Diagnosis", "SplitSummary", "diagnose", "diagnosis_to_json", "examine"]

OnProgress = Callable[[str, int, int], None]
"""Called with the stage, how much is done, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """What there is of a split."""

    name: str
    csv: str
    clip_folder: str
    """Relative to the data set's folder, with a slash at its end; empty where there is none."""
    num_rows: int
    official_rows: int
    num_clips: int
    """Files named like clips, second ones and those without a row included."""
    official_clips: int
    text_form: str
    """Which of its published forms the CSV has."""
    table: str
    """The published table that the CSV is byte for byte; empty for another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found in a data set's folder."""

    root: Path
    deep: bool
    """Whether every clip was opened."""
    splits: tuple[SplitSummary, ...]
    findings: tuple[Finding, ...]
    """What was found, in the order of `DETECTORS`, then of the data set."""
    listed: tuple[Listed, ...]
    """What the registry says of the rows and files there are."""

    def count(self, severity: Severity) -> int:
        """Return how many findings are that bad."""
        return sum(finding.severity == severity for finding in self.findings)

    def by_detector(self) -> dict[str, list[Finding]]:
        """Group the findings."""
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(finding.detector, []).append(finding)
        return groups

    def by_problem(self) -> dict[str, list[Listed]]:
        """Group what the registry says."""
        groups: dict[str, list[Listed]] = {}
        for entry in self.listed:
            groups.setdefault(entry.problem, []).append(entry)
        return groups


def diagnose(
    root: Path, *, deep: bool = False, num_workers: int = 1, timeout_seconds: float = 60, on_progress: OnProgress
) -> Diagnosis:
    """Look at a data set's folder.

    Args:
        root: The folder.
        deep: Whether to open every clip; otherwise headers are read, which takes seconds.
        num_workers: Processes that open clips.
        timeout_seconds: Time after which a clip's process is killed, plus 10 per megabyte.
        on_progress: Called from time to time.

    Raises:
        DatasetError: if this is no such folder, or its annotations cannot be read.
    """
    dataset = read_meld(root)
    clips = _read_headers(dataset, on_progress)
    if deep:
        clips = _open(dataset, clips, num_workers=num_workers, timeout_seconds=timeout_seconds, on_progress=on_progress)
    tables = {split.name: _read_table(root / split.csv) for split in dataset.splits}
    digests = {split.name: sha256_file(root / split.csv) for split in dataset.splits}
    findings = examine(dataset, clips, tables=tables, registry=load_registry())
    findings += find_same_content(dataset, clips)
    place = {name: number for number, name in enumerate(DETECTORS)}
    findings.sort(key=lambda finding: place[finding.detector])  # stable: within a detector as in the data set
    return Diagnosis(
        root=root,
        deep=deep,
        splits=tuple(_summarise(split, load_registry(), digests[split.name]) for split in dataset.splits),
        findings=tuple(findings),
        listed=tuple(compare(load_registry(), dataset, findings)),
    )


def examine(
    dataset: Dataset, clips: Mapping[str, Clip], *, tables: Mapping[str, Sequence[WrittenRow]], registry: Registry
) -> list[Finding]:
    """Run the detectors that read no file.

    Args:
        dataset: The data set.
        clips: What is known of its files, by path.
        tables: The rows of each split's CSV as written.
        registry: Source of the official counts; no detector knows of its issues.
    """
    findings = [
        Finding(detector="missing-split", split=name, detail=f"there is no {name}_sent_emo.csv")
        for name in dataset.missing_splits
    ]
    usual = usual_size(clips)
    for split in dataset.splits:
        findings += _counts(split, registry.splits[split.name])
        findings += find_in_rows(split)
        findings += find_in_csv(split, tables[split.name])
        findings += find_in_clips(split, clips, usual=usual)
    findings += find_leakage(dataset)
    return findings


def diagnosis_to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the whole diagnosis as one JSON document."""
    return {
        "root": str(diagnosis.root),
        "deep": diagnosis.deep,
        "errors": diagnosis.count("error"),
        "warnings": diagnosis.count("warning"),
        "notes": diagnosis.count("note"),
        "splits": {split.name: asdict(split) for split in diagnosis.splits},
        "findings": [{"severity": item.severity, **asdict(item)} for item in diagnosis.findings],
        "registry": [{"verdict": item.verdict, **asdict(item)} for item in diagnosis.listed],
    }


def _read_headers(dataset: Dataset, on_progress: OnProgress) -> dict[str, Clip]:
    paths = list(_paths(dataset))
    clips = {}
    for number, path in enumerate(paths, start=1):
        clips[path] = _read_header(dataset.root, path)
        if number % 100 == 0 or number == len(paths):
            on_progress("headers", number, len(paths))
    return clips


def _paths(dataset: Dataset) -> Iterator[str]:
    """Yield every file that is named like a clip."""
    for split in dataset.splits:
        rows = [path for row in split.utterances for path in (row.clip, row.twin) if path]
        others = [split.clip_folder + name for name in (*split.orphan_clips, *split.twins)]
        yield from dict.fromkeys([*rows, *others])


def _read_header(root: Path, path: str) -> Clip:
    try:
        num_bytes = (root / path).stat().st_size
    except OSError as exc:
        return Clip(path=path, num_bytes=0, header=None, reason=f"cannot be read: {exc.strerror}")
    try:
        return Clip(path=path, num_bytes=num_bytes, header=probe_mp4(root / path), reason="")
    except ClipError as exc:
        return Clip(path=path, num_bytes=num_bytes, header=None, reason=str(exc))


def _open(
    dataset: Dataset,
    clips: Mapping[str, Clip],
    *,
    num_workers: int,
    timeout_seconds: float,
    on_progress: OnProgress,
) -> dict[str, Clip]:
    """Open the clips that hold anything, each in a process that may die of it."""
    num_bytes = {clip.path: clip.num_bytes for clip in clips.values() if clip.num_bytes}
    opened = dict(clips)
    opened_clips = open_clips(dataset.root, num_bytes, num_workers=num_workers, timeout_seconds=timeout_seconds)
    for number, (path, found) in enumerate(zip(num_bytes, opened_clips, strict=True), start=1):
        opened[path] = replace(clips[path], opened=found)
        on_progress("clips opened", number, len(num_bytes))
    return opened


def _read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV as it is written; `read_meld` has found every row whole."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def _counts(split: DatasetSplit, official: OfficialSplit) -> Iterator[Finding]:
    rows, clips = len(split.utterances), _num_clips(split)
    if rows != official.rows:
        what = "incomplete, or a subset" if rows < official.rows else "more than were published"
        detail = f"{rows:,} of {official.rows:,} rows: {what}"
        yield Finding(detector="row-count", split=split.name, file=split.csv, detail=detail)
    if clips and clips != official.clips:
        what = "incomplete, or a subset" if clips < official.clips else "more than were published"
        detail = f"{clips:,} of {official.clips:,} clips: {what}"
        yield Finding(detector="clip-count", split=split.name, file=split.clip_folder, detail=detail)


def _num_clips(split: DatasetSplit) -> int:
    return sum(bool(row.clip) for row in split.utterances) + len(split.orphan_clips) + len(split.twins)


def _summarise(split: DatasetSplit, registry: Registry, sha256: str) -> SplitSummary:
    official = registry.splits[split.name]
    generation = registry.generation_of(split.name, sha256)
    repaired = any(row.text_repaired for row in split.utterances)
    return SplitSummary(
        name=split.name,
        csv=split.csv,
        clip_folder=split.clip_folder,
        num_rows=len(split.utterances),
        official_rows=official.rows,
        num_clips=_num_clips(split),
        official_clips=official.clips,
        text_form=GENERATIONS["first" if repaired else "present"],
        table=GENERATIONS[generation] if generation is not None else "",
    )
