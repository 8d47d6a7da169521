"""An EmoryNLP folder -> its utterances: the second data set of MELD's repository, the same series with other labels.

Source of the layout: https://github.com/declare-lab/MELD, `data/emorynlp`, and the archives of clips that its README
links, `emorynlp_train_splits.zip` and so on.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from preprocess.datasets.annotations import Dataset, DatasetSplit, Span, Utterance, numbered_by
from preprocess.datasets.csv_rows import CsvRow, folders_under, read_csv, value_of
from preprocess.datasets.meld import normalise_text, parse_time
from preprocess.errors import DatasetError
from shards.errors import describe
from shards.schema import SPLITS, LabelSet

__all__ = ["EMORYNLP_EMOTION", "is_emorynlp", "read_emorynlp"]

EMORYNLP_EMOTION = LabelSet(task="emotion", names=("joyful", "mad", "neutral", "peaceful", "powerful", "sad", "scared"))
"""Alphabetical, like all label sets here."""

COLUMNS = (
    "Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode", "Start_Time", "End_Time",
)  # fmt: skip

_CSV = re.compile(r"emorynlp_(train|dev|test)(?:_final)?\.csv")
_CLIP = re.compile(r"sea\d+_ep\d+_sc\d+_utt\d+\.mp4")
_CLIP_FOLDER = re.compile(r"(?:emorynlp_)?(train|dev|test)(?:_splits)?")


def is_emorynlp(root: Path) -> bool:
    """Whether a folder, or one in it, holds an annotation file of EmoryNLP's name."""
    return root.is_dir() and any(
        _CSV.fullmatch(path.name) for folder in folders_under(root) for path in folder.glob("*.csv")
    )


def read_emorynlp(root: Path) -> Dataset:
    """Find and read the annotations and clips of EmoryNLP, which may lie anywhere in the folder.

    Args:
        root: The folder; symbolic links are followed.

    Raises:
        DatasetError: if it has none of the annotation files, one cannot be read, or two files claim to be the same.
    """
    csvs, others = _find_csvs(root) if root.is_dir() else ({}, ())
    if not csvs:
        what = "this is no EmoryNLP folder: looked for emorynlp_train_final.csv, emorynlp_dev_final.csv, …"
        raise DatasetError(describe(what, file=root, then="give the folder that holds EmoryNLP's CSVs and clips"))
    files = _find_files(root, list(csvs))
    return Dataset(
        root=root,
        adapter="emorynlp",
        label_sets=(EMORYNLP_EMOTION,),
        splits=_read_splits(root, csvs, files),
        missing_splits=tuple(name for name in SPLITS if name not in csvs),
        other_csvs=others,
    )


def _find_csvs(root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Choose the shallowest annotation file of each split; equal copies of it are no trouble, another one is."""
    found: dict[str, Path] = {}
    others = []
    for folder in folders_under(root):
        for path in sorted(folder.glob("*.csv")):
            match = _CSV.fullmatch(path.name)
            if match is None or (first := found.setdefault(match[1], path)) is path:
                continue
            names = [one.relative_to(root).as_posix() for one in (first, path)]
            if len(first.parts) == len(path.parts) and first.read_bytes() != path.read_bytes():
                what = f"two different annotation files for {match[1]}: {', '.join(names)}"
                raise DatasetError(describe(what, file=root, then="remove or rename the one that is not to be read"))
            others.append(names[1])
    return {name: found[name] for name in SPLITS if name in found}, tuple(others)


@dataclass(slots=True)
class _Files:
    """The mp4 files in a split's folders; those elsewhere are filed under an empty name."""

    clips: dict[str, str] = field(default_factory=dict)
    """Path by name."""
    ignored: list[str] = field(default_factory=list)


def _find_files(root: Path, splits: list[str]) -> dict[str, _Files]:
    files = {name: _Files() for name in ("", *splits)}
    for folder in folders_under(root):
        match = _CLIP_FOLDER.fullmatch(folder.name.lower())
        split = match[1] if match is not None and match[1] in splits and folder != root else ""
        for path in sorted(folder.glob("*.mp4")):
            where = path.relative_to(root).as_posix()
            if not _CLIP.fullmatch(path.name) or not path.is_file():
                files[split].ignored.append(where)
            elif (first := files[split].clips.setdefault(path.name, where)) != where:
                then = "remove or rename the one that is not to be read"
                raise DatasetError(describe(f"two clips of one name: {first}, {where}", file=root, then=then))
    return files


def _read_splits(root: Path, csvs: Mapping[str, Path], files: Mapping[str, _Files]) -> tuple[DatasetSplit, ...]:
    anywhere = files[""].clips
    rows = {name: _read_rows(name, path, anywhere | files[name].clips) for name, path in csvs.items()}
    used = {row.clip for utterances in rows.values() for row in utterances}
    splits = []
    for number, (name, utterances) in enumerate(rows.items()):
        # Which split a file outside all split folders belongs to nothing says: the first one reports it.
        theirs = [files[name], files[""]] if number == 0 else [files[name]]
        orphans = [path for one in theirs for path in one.clips.values() if path not in used]
        ignored = [path for one in theirs for path in one.ignored]
        splits.append(
            DatasetSplit(
                name=name,
                csv=csvs[name].relative_to(root).as_posix(),
                clip_folder="",
                utterances=utterances,
                num_files=len({row.clip for row in utterances if row.clip}) + len(orphans) + len(ignored),
                orphan_clips=tuple(orphans),
                twins=(),
                ignored_files=tuple(ignored),
            )
        )
    return tuple(splits)


def _read_rows(split: str, path: Path, clips: Mapping[str, str]) -> tuple[Utterance, ...]:
    seen: set[str] = set()

    def parse(values: CsvRow) -> Utterance:
        row = _parse_row(split, values, clips)
        if row.key in seen:
            raise ValueError(f"the row of {row.clip_name} comes twice")
        seen.add(row.key)
        return row

    return numbered_by(read_csv(path, COLUMNS, parse), lambda row: int(row.utterance_id))


def _parse_row(split: str, values: CsvRow, clips: Mapping[str, str]) -> Utterance:
    value = partial(value_of, values)
    season, episode, scene, utterance = (
        _number(column, value(column)) for column in ("Season", "Episode", "Scene_ID", "Utterance_ID")
    )
    emotion = value("Emotion").strip().lower()
    if emotion not in EMORYNLP_EMOTION.names:
        raise ValueError(f"Emotion is {value('Emotion')!r}, not one of {', '.join(EMORYNLP_EMOTION.names)}")
    text = normalise_text(value("Utterance"))
    dialogue_id = f"sea{season}_ep{episode}_sc{scene}"
    clip_name = f"{dialogue_id}_utt{utterance}.mp4"
    return Utterance(
        key=f"{split}-{clip_name.removesuffix('.mp4').replace('_', '-')}",
        split=split,
        dialogue_id=dialogue_id,
        utterance_id=str(utterance),
        turn_index=0,
        speaker=_speaker(value("Speaker")),
        text=text,
        text_repaired=text != value("Utterance"),
        labels={"emotion": emotion},
        clip=clips.get(clip_name, ""),
        clip_name=clip_name,
        season=str(season),
        episode=str(episode),
        span=Span(start_seconds=parse_time(value("Start_Time")), end_seconds=parse_time(value("End_Time"))),
    )


def _number(column: str, text: str) -> int:
    if not (text.isascii() and text.strip().isdecimal()):
        raise ValueError(f"{column} must be a whole number, got {text!r}")
    return int(text)


def _speaker(text: str) -> str:
    """Return the names in `['Monica Geller', 'Ross Geller']` with commas; what is no such list as it stands."""
    try:
        names = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that its documentation names
        return normalise_text(text)
    return normalise_text(", ".join(map(str, names)) if isinstance(names, list) else text)
