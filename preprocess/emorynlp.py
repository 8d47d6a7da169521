"""An EmoryNLP folder -> its utterances: the second data set of MELD's repository, the same series with other labels.

Source of the layout: https://github.com/declare-lab/MELD, `data/emorynlp`, and the clips that its README links.
"""

import ast
import re
from collections import Counter
from functools import partial
from pathlib import Path

from preprocess.annotations import Dataset, DatasetSplit, Span, Utterance
from preprocess.errors import DatasetError
from preprocess.meld import normalise_text, parse_time
from preprocess.table import Row, read_columns, read_table, value_of, walk
from shards.errors import describe
from shards.schema import SPLITS, LabelSet

__all__ = ["EMORYNLP_EMOTION", "is_emorynlp", "read_emorynlp"]

EMORYNLP_EMOTION = LabelSet(task="emotion", names=("joyful", "mad", "neutral", "peaceful", "powerful", "sad", "scared"))
"""Alphabetical, like all label sets here."""

COLUMNS = (
    "Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode", "Start_Time", "End_Time",
)  # fmt: skip

_CSV = re.compile(r"(?:emorynlp_)?(train|dev|test)(?:_final)?\.csv")
_CLIP = re.compile(r"sea\d+_ep\d+_sc\d+_utt\d+\.mp4")


def is_emorynlp(root: Path) -> bool:
    """Whether a folder, or one in it, holds an annotation file of EmoryNLP's name and columns."""
    return root.is_dir() and bool(_find_csvs(root))


def read_emorynlp(root: Path) -> Dataset:
    """Find and read the annotations and clips of EmoryNLP, which may lie anywhere in the folder.

    Args:
        root: The folder.

    Raises:
        DatasetError: if it has none of the annotation files, or one cannot be read.
    """
    csvs = _find_csvs(root) if root.is_dir() else {}
    if not csvs:
        what = "this is no EmoryNLP folder: looked for emorynlp_train_final.csv and the like"
        raise DatasetError(describe(what, file=root, then="give the folder that holds EmoryNLP's CSVs and clips"))
    # The name of a clip says season, episode, scene and utterance, so one clip has one name in all splits.
    clips: dict[str, str] = {}
    ignored = []
    for folder in walk(root):
        for path in sorted(folder.glob("*.mp4")):
            where = path.relative_to(root).as_posix()
            if _CLIP.fullmatch(path.name):
                clips.setdefault(path.name, where)
            else:
                ignored.append(where)
    splits = [_read_split(root, name, csvs[name], clips) for name in SPLITS if name in csvs]
    used = {row.clip for split in splits for row in split.utterances}
    first, *others = splits
    return Dataset(
        root=root,
        adapter="emorynlp",
        label_sets=(EMORYNLP_EMOTION,),
        splits=(_with_strangers(first, [path for path in clips.values() if path not in used], ignored), *others),
        missing_splits=tuple(name for name in SPLITS if name not in csvs),
        other_csvs=(),
    )


def _find_csvs(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in walk(root):
        for path in sorted(folder.glob("*.csv")):
            match = _CSV.fullmatch(path.name)
            if match and set(COLUMNS) <= set(read_columns(path)):
                found.setdefault(match[1], path)
    return found


def _with_strangers(split: DatasetSplit, orphans: list[str], ignored: list[str]) -> DatasetSplit:
    """Return the split with the clips that no row of any split asks for: which one they belong to nothing says."""
    return DatasetSplit(
        name=split.name,
        csv=split.csv,
        clip_folder=split.clip_folder,
        utterances=split.utterances,
        num_files=split.num_files + len(orphans) + len(ignored),
        orphan_clips=tuple(orphans),
        twins=(),
        ignored_files=tuple(ignored),
    )


def _read_split(root: Path, name: str, path: Path, clips: dict[str, str]) -> DatasetSplit:
    turns: Counter[str] = Counter()
    seen: set[str] = set()

    def parse(values: Row) -> Utterance:
        row = _parse_row(name, values, turns, clips)
        if row.key in seen:
            raise ValueError(f"{row.clip_name} comes twice")
        seen.add(row.key)
        turns[row.dialogue_id] += 1
        return row

    utterances = tuple(read_table(path, COLUMNS, parse))
    return DatasetSplit(
        name=name,
        csv=path.relative_to(root).as_posix(),
        clip_folder="",
        utterances=utterances,
        num_files=sum(bool(row.clip) for row in utterances),
        orphan_clips=(),
        twins=(),
        ignored_files=(),
    )


def _parse_row(split: str, values: Row, turns: Counter[str], clips: dict[str, str]) -> Utterance:
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
        turn_index=turns[dialogue_id],
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
    try:
        return int(text)
    except ValueError as exc:
        raise ValueError(f"{column} must be a whole number, got {text!r}") from exc


def _speaker(text: str) -> str:
    """Return the names in `['Monica Geller', 'Ross Geller']` with commas; what is no such list as it stands."""
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return normalise_text(text)
    return normalise_text(", ".join(map(str, names)) if isinstance(names, list) else text)
