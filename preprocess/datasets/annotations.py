"""What is read of a data set: utterances in a fixed order, and what is odd about the files around them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from preprocess.config import DatasetFormat
from shards.schema import LabelSet

__all__ = ["Dataset", "DatasetSplit", "Span", "Utterance", "by_turn", "numbered_by"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of an episode or of a file, in seconds. The annotation's word: it may be empty or run backwards."""

    start_seconds: float
    end_seconds: float

    @property
    def seconds(self) -> float:
        """How long it is, to the millisecond of the annotations."""
        return round(self.end_seconds - self.start_seconds, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One row of the annotations and the files that may show it."""

    key: str
    split: str
    dialogue_id: str
    utterance_id: str
    turn_index: int
    """Place among the rows of its dialogue, from 0."""
    speaker: str
    text: str
    text_repaired: bool
    """Whether `text` is what cp1252 meant by the control characters of the file."""
    labels: Mapping[str, str]
    clip: str
    """The row's clip relative to the dataset's folder, with forward slashes; empty when there is none."""
    clip_name: str
    """The file looked for, likewise, for messages."""
    twin: str = ""
    """Its `final_videos_test*` twin, likewise; empty outside MELD's test split."""
    season: str = ""
    episode: str = ""
    span: Span | None = None
    """When it is spoken, in its episode or in its file; None where the annotations do not say."""
    cut_by_span: bool = False
    """Whether the file holds more than this utterance, so that `span` is the part of it to read."""
    context: tuple[str, ...] = ()
    """Lines before it in its dialogue, oldest first, that go into its tokens; see `preprocess.text.context`."""

    @property
    def line(self) -> str:
        """What is said with who says it, `Monica: Hi!`; the text alone where no speaker is named."""
        return f"{self.speaker}: {self.text}" if self.speaker else self.text

    @property
    def annotated_seconds(self) -> float:
        """How long it lasts by the annotations; 0 where they do not say."""
        return self.span.seconds if self.span is not None else 0.0

    @property
    def part(self) -> Span | None:
        """The part of the clip's file that is the utterance; None for all of it."""
        return self.span if self.cut_by_span else None


def by_turn(utterances: Iterable[Utterance]) -> tuple[Utterance, ...]:
    """Put the rows of each dialogue of a split together, in the order of their turns.

    Dialogues come in the order of their first rows, and rows of one turn in the order they were in. All that goes by
    earlier utterances goes by this order: shards, loaders and models.
    """
    dialogues: dict[str, list[Utterance]] = {}
    for row in utterances:
        dialogues.setdefault(row.dialogue_id, []).append(row)
    return tuple(row for rows in dialogues.values() for row in sorted(rows, key=lambda row: row.turn_index))


def numbered_by(utterances: Iterable[Utterance], number: Callable[[Utterance], int]) -> tuple[Utterance, ...]:
    """Give each row its turn, its place in its dialogue by a number of its own, and return the rows `by_turn`."""
    ordered = by_turn(replace(row, turn_index=number(row)) for row in utterances)
    turns: Counter[str] = Counter()
    found = []
    for row in ordered:
        found.append(replace(row, turn_index=turns[row.dialogue_id]))
        turns[row.dialogue_id] += 1
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSplit:
    """The rows of a split and the files of its clip folder that are no row's clip."""

    name: str
    csv: str
    clip_folder: str
    """Relative to the dataset's folder, with a slash at its end; empty where there is none."""
    utterances: tuple[Utterance, ...]
    num_files: int
    orphan_clips: tuple[str, ...]
    """Clips named like the dataset's that no row asks for."""
    twins: tuple[str, ...]
    """`final_videos_test*` files, used or not."""
    ignored_files: tuple[str, ...]
    """Files that are no clips, such as macOS's `._*` companions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A data set's folder as found."""

    root: Path
    adapter: DatasetFormat
    """Name of what read it."""
    label_sets: tuple[LabelSet, ...]
    splits: tuple[DatasetSplit, ...]
    missing_splits: tuple[str, ...]
    other_csvs: tuple[str, ...]
    """Annotation files deeper in the folder than the ones that were read."""
