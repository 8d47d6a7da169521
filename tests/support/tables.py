"""Annotation files of own clips and of EmoryNLP, for the tests."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

EMORYNLP_COLUMNS = (
    "Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode", "Start_Time", "End_Time",
)  # fmt: skip


def own_row(number: int = 0, **changes: str) -> dict[str, str]:
    """Make a row of own clips with one label task; `changes` sets columns or adds them."""
    row = {
        "id": f"u{number}",
        "split": "train",
        "text": f"Line {number}",
        "path": f"clips/{number}.mp4",
        "laughter": ("no", "yes")[number % 2],
    }
    return {**row, **changes}


def own_rows(count: int, **changes: str) -> list[dict[str, str]]:
    """Make so many rows of own clips, alike but for their numbers and labels."""
    return [own_row(number, **changes) for number in range(count)]


def emorynlp_row(utterance: int = 1, **changes: str) -> dict[str, str]:
    """Make a row as EmoryNLP writes it."""
    row = {
        "Utterance": "Coffee.",
        "Speaker": "['Rachel Green']",
        "Emotion": "Neutral",
        "Scene_ID": "1",
        "Utterance_ID": str(utterance),
        "Season": "1",
        "Episode": "15",
        "Start_Time": "00:00:03.795",
        "End_Time": "00:00:05.004",
    }
    return {**row, **changes}


def write_table(path: Path, rows: Sequence[Mapping[str, str]], *, encoding: str = "utf-8") -> Path:
    """Write rows under the columns of the first one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def touch(root: Path, *paths: str) -> None:
    """Make files that only have names; reading annotations never opens a clip."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
