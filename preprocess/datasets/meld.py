"""A MELD folder -> its utterances in a fixed order, and what is odd about the files around them."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from preprocess.datasets.annotations import Dataset, DatasetSplit, Span, Utterance, numbered_by
from preprocess.datasets.csv_rows import CsvRow, folders_under, read_csv, value_of
from preprocess.errors import DatasetError
from shards.errors import describe
from shards.schema import MELD_LABELS, SPLITS

__all__ = ["MELD_CSVS", "is_meld", "normalise_text", "parse_time", "read_meld"]

COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
"""What a row must have; Season and Episode are read where they are. `Sr No.` is not: it repeats in train, 57 times."""


def is_meld(root: Path) -> bool:
    """Whether a folder, or one in it, holds an annotation file of MELD's name."""
    return root.is_dir() and any((folder / name).is_file() for folder in folders_under(root) for name in MELD_CSVS)


def read_meld(root: Path) -> Dataset:
    """Find and read the annotations and clip folders of a MELD folder, in any of the layouts found in the wild.

    Known are the archives extracted in place, nested `train/train_splits`, the
    tutorial's `dataset/`, and renamed splits such as `videos/train`; the CSVs may lie anywhere among them.

    Args:
        root: The folder; symbolic links are followed.

    Raises:
        DatasetError: if this is no such folder, an annotation file cannot be read, or two files claim to be the same.
    """
    if not root.is_dir():
        raise DatasetError(describe("there is no such folder", file=root, then="give the folder that holds MELD"))
    try:
        return _read_meld(root)
    except OSError as exc:
        then = "check its permissions and the disk"
        raise DatasetError(describe(f"cannot be read: {exc.strerror}", file=exc.filename or root, then=then)) from exc


def _read_meld(root: Path) -> Dataset:
    folders = list(folders_under(root))
    csvs, others = _find_csvs(root, folders)
    clip_folders = _find_clip_folders(root, folders)
    if not csvs:
        found = (
            ", ".join(sorted(folder.relative_to(root).as_posix() + "/" for folder in folders[1:])[:8]) or "no folder"
        )
        what = (
            f"this is no MELD folder: looked for train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv; found {found}"
        )
        then = "give the folder that holds MELD's CSVs and clips, or make one to try with `mmsent make-demo`"
        raise DatasetError(describe(what, file=root, then=then))
    return Dataset(
        root=root,
        adapter="meld",
        label_sets=MELD_LABELS,
        splits=tuple(_read_split(root, name, csvs[name], clip_folders.get(name)) for name in SPLITS if name in csvs),
        missing_splits=tuple(name for name in SPLITS if name not in csvs),
        other_csvs=others,
    )


def normalise_text(text: str) -> str:
    r"""Replace C1 control characters by what cp1252 meant, and the no-break space by a space.

    The CSVs inside MELD.Raw carry them (https://github.com/declare-lab/MELD/pull/28); BERT's cleaner deletes control
    characters, which turns a third of the apostrophes of this TV series into nothing.

    >>> normalise_text("it\x92s\x85")
    'it’s…'
    """
    return text.translate(_C1)


def parse_time(text: str) -> float:
    """Parse `h:mm:ss,mmm` to seconds. What follows the comma counts milliseconds, however many digits it has.

    >>> parse_time("0:06:47,28")
    407.028

    Raises:
        ValueError: if it is not such a time.
    """
    match = re.fullmatch(r"(\d{1,2}):(\d{2}):(\d{2})[,.](\d{1,3})", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no time like 0:06:47,280")
    hours, minutes, seconds, milliseconds = map(int, match.groups())
    return round(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000, 3)


_C1 = {
    code: bytes([code]).decode("cp1252")
    for code in range(0x80, 0xA0)
    if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)  # cp1252 has no character there
} | {0xA0: " "}

_CLIP = re.compile(r"(final_videos_test)?(dia(\d+)_utt(\d+)\.mp4)")
MELD_CSVS = {f"{split}_sent_emo.csv": split for split in SPLITS}
_CLIP_FOLDERS = {
    "train_splits": "train",
    "train": "train",
    "dev_splits_complete": "dev",
    "dev_splits": "dev",
    "dev": "dev",
    "output_repeated_splits_test": "test",
    "test_splits": "test",
    "test": "test",
}


def _find_csvs(root: Path, folders: Iterable[Path]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Choose the shallowest annotation file of each split; equal copies of it are no trouble, another one is."""
    found: dict[str, Path] = {}
    others = []
    for folder in folders:
        for name, split in MELD_CSVS.items():
            path = folder / name
            if not path.is_file():
                continue
            first = found.setdefault(split, path)
            if first is path:
                continue
            if len(first.parts) == len(path.parts) and first.read_bytes() != path.read_bytes():
                what = (
                    f"two different annotation files for {split}: {first.relative_to(root)}, {path.relative_to(root)}"
                )
                raise DatasetError(describe(what, file=root, then="remove or rename the one that is not to be read"))
            others.append(path.relative_to(root).as_posix())
    return found, tuple(others)


def _find_clip_folders(root: Path, folders: Iterable[Path]) -> dict[str, Path]:
    """Choose for each split the folder that is named for it and has clips; without any, one that is empty of them."""
    with_clips: dict[str, list[Path]] = {}
    without: dict[str, Path] = {}
    for folder in folders:
        split = _CLIP_FOLDERS.get(folder.name.lower())
        if split is None or folder == root:
            continue
        if any(_CLIP.fullmatch(path.name) for path in folder.iterdir()):
            with_clips.setdefault(split, []).append(folder)
        else:
            without[split] = folder
    for split, candidates in with_clips.items():
        if len(candidates) > 1:
            names = ", ".join(path.relative_to(root).as_posix() for path in candidates)
            then = "remove or rename the ones that are not to be read"
            raise DatasetError(describe(f"more than one folder of {split} clips: {names}", file=root, then=then))
    return without | {split: candidates[0] for split, candidates in with_clips.items()}


def _read_split(root: Path, name: str, path: Path, folder: Path | None) -> DatasetSplit:
    files = sorted(entry.name for entry in os.scandir(folder) if entry.is_file()) if folder is not None else []
    prefix = f"{folder.relative_to(root).as_posix()}/" if folder is not None else ""
    plain = {match[2]: file for file in files if (match := _CLIP.fullmatch(file)) and not match[1]}
    twins = {match[2]: file for file in files if (match := _CLIP.fullmatch(file)) and match[1]}
    utterances = []
    for row in _read_rows(path):
        clip_name = f"dia{row.dialogue_id}_utt{row.utterance_id}.mp4"
        utterances.append(
            Utterance(
                key=f"{name}-dia{row.dialogue_id}-utt{row.utterance_id}",
                split=name,
                dialogue_id=row.dialogue_id,
                utterance_id=row.utterance_id,
                turn_index=0,
                speaker=normalise_text(row.speaker),
                text=normalise_text(row.text),
                text_repaired=normalise_text(row.text) != row.text,
                labels=row.labels,
                season=row.season,
                episode=row.episode,
                span=row.span,
                clip=prefix + plain[clip_name] if clip_name in plain else "",
                twin=prefix + twins[clip_name] if clip_name in twins else "",
                clip_name=prefix + clip_name,
            )
        )
    asked = {f"dia{utterance.dialogue_id}_utt{utterance.utterance_id}.mp4" for utterance in utterances}
    return DatasetSplit(
        name=name,
        csv=path.relative_to(root).as_posix(),
        clip_folder=prefix,
        utterances=numbered_by(utterances, lambda row: int(row.utterance_id)),
        num_files=len(files),
        orphan_clips=tuple(file for clip, file in plain.items() if clip not in asked),
        twins=tuple(twins.values()),
        ignored_files=tuple(file for file in files if not _CLIP.fullmatch(file)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    dialogue_id: str
    utterance_id: str
    speaker: str
    text: str
    labels: Mapping[str, str]
    season: str
    episode: str
    span: Span


def _read_rows(path: Path) -> list[_Row]:
    """Read an annotation file, every row or none."""
    seen: set[tuple[str, str]] = set()

    def parse(values: CsvRow) -> _Row:
        row = _parse_row(values)
        if (row.dialogue_id, row.utterance_id) in seen:
            raise ValueError(f"dialogue {row.dialogue_id}, utterance {row.utterance_id} comes twice")
        seen.add((row.dialogue_id, row.utterance_id))
        return row

    return read_csv(path, COLUMNS, parse)


def _parse_row(values: CsvRow) -> _Row:
    value = partial(value_of, values)
    labels = {}
    for label_set, column in zip(MELD_LABELS, ("Emotion", "Sentiment"), strict=True):
        labels[label_set.task] = value(column).strip().lower()
        if labels[label_set.task] not in label_set.names:
            raise ValueError(f"{column} is {value(column)!r}, not one of {', '.join(label_set.names)}")
    return _Row(
        dialogue_id=_number(value, "Dialogue_ID"),
        utterance_id=_number(value, "Utterance_ID"),
        speaker=value("Speaker"),
        text=value("Utterance"),
        labels=labels,
        season=(values.get("Season") or "").strip(),
        episode=(values.get("Episode") or "").strip(),
        span=Span(start_seconds=parse_time(value("StartTime")), end_seconds=parse_time(value("EndTime"))),
    )


def _number(value: Callable[[str], str], column: str) -> str:
    try:
        return str(int(value(column)))
    except ValueError as exc:
        raise ValueError(f"{column} must be a whole number: {exc}") from exc
