"""Detectors that need the annotations alone. Each is a function of a split's rows, or of its CSV as it is written."""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from preprocess.clips.clip import LONG_SECONDS, SHORT_SECONDS
from preprocess.datasets.annotations import Dataset, DatasetSplit, Utterance
from preprocess.doctor.findings import Finding

__all__ = ["find_in_csv", "find_in_rows", "find_leakage"]

WrittenRow = Mapping[str, str]
"""A row of a CSV by column, as written."""

_NO_DURATION_SECONDS = 0.1
_FEW_WORDS_SECONDS = 10.0
_FEW_WORDS_PER_SECOND = 0.25
"""MELD's median is about ten times that."""
_SENTIMENT = {
    "joy": "positive",
    "neutral": "neutral",
    "anger": "negative",
    "sadness": "negative",
    "disgust": "negative",
    "fear": "negative",
}
"""What every row of MELD holds to; surprise may be any."""


def find_in_rows(split: DatasetSplit) -> Iterator[Finding]:
    """Yield what is odd about the rows of a split."""
    yield from _contradictions(split)
    yield from _ambiguous_sentiments(split)
    yield from _durations(split)
    yield from _same_times(split)
    yield from _id_gaps(split)
    repaired = [row.key for row in split.utterances if row.text_repaired]
    if repaired:
        detail = f"{len(repaired):,} rows of {len(split.utterances):,}, the first {repaired[0]}"
        yield Finding(detector="control-characters", split=split.name, file=split.csv, detail=detail)


def find_in_csv(split: DatasetSplit, rows: Sequence[WrittenRow]) -> Iterator[Finding]:
    """Yield what is odd about how a split's CSV is written.

    Args:
        split: The split.
        rows: Those of its CSV, as they are written there.
    """
    keys = [row.key for row in split.utterances]
    found: dict[str, list[str]] = defaultdict(list)
    for key, row in zip(keys, rows, strict=True):
        times = (row["StartTime"].strip(), row["EndTime"].strip())
        if any(re.match(r"\d:", time) for time in times):
            found["one-digit-hour"].append(key)
        if odd := [time for time in times if not re.search(r"[,.]\d{3}$", time)]:
            found["odd-milliseconds"].append(f"{key} ({', '.join(odd)})")
        if "\x85" in row["Utterance"]:
            found["line-separator"].append(key)
    numbers = Counter(row["Sr No."] for row in rows if "Sr No." in row)
    if repeated := [number for number, count in numbers.items() if count > 1]:
        found["repeated-number"] = repeated
    for detector, where in found.items():
        unit = "number" if detector == "repeated-number" else "row"
        detail = f"{len(where):,} {unit}{'s' if len(where) > 1 else ''}: {_some(where)}"
        yield Finding(detector=detector, split=split.name, file=split.csv, detail=detail)


def find_leakage(dataset: Dataset) -> Iterator[Finding]:
    """Yield the rows of dev and test that lie more than half within one train row's time of the same episode.

    Text would be a bad sign: most of the lines that recur in MELD are short ones like "Hey", from other scenes.
    """
    trained: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for split in dataset.splits:
        for row in split.utterances:
            if split.name == "train" and row.season and row.episode:
                trained[row.season, row.episode].append(row)
    episodes = {episode: _Episode(rows) for episode, rows in trained.items()}
    for split in dataset.splits:
        for row in split.utterances if split.name != "train" else ():
            episode = episodes.get((row.season, row.episode))
            if episode is None or not row.annotated_seconds > 0:
                continue
            shares = [(_overlap(row, other) / row.annotated_seconds, other.key) for other in episode.near(row)]
            inside = sorted(((share, key) for share, key in shares if share > 0.5), reverse=True)
            if inside:
                others = ", ".join(f"{key} ({share:.0%})" for share, key in inside[:3])
                detail = f"season {row.season}, episode {row.episode}: within {others}"
                yield Finding(detector="leakage", split=split.name, key=row.key, detail=detail)


class _Episode:
    """The train rows of an episode, to be asked which lie near a time."""

    def __init__(self, rows: Sequence[Utterance]) -> None:
        self._rows = sorted((row for row in rows if row.annotated_seconds > 0), key=_start)
        self._starts = [_start(row) for row in self._rows]
        self._longest = max((row.annotated_seconds for row in self._rows), default=0.0)

    def near(self, row: Utterance) -> Sequence[Utterance]:
        """Return the rows that may overlap one: none of the others begins late or early enough."""
        first = bisect_left(self._starts, _start(row) - self._longest)
        return self._rows[first : bisect_left(self._starts, _start(row) + row.annotated_seconds)]


def _start(row: Utterance) -> float:
    return row.span.start_seconds if row.span is not None else 0.0


def _overlap(one: Utterance, other: Utterance) -> float:
    begin = max(_start(one), _start(other))
    return max(0.0, min(_start(one) + one.annotated_seconds, _start(other) + other.annotated_seconds) - begin)


def _contradictions(split: DatasetSplit) -> Iterator[Finding]:
    for row in split.utterances:
        emotion, sentiment = row.labels.get("emotion", ""), row.labels.get("sentiment", "")
        if _SENTIMENT.get(emotion, sentiment) != sentiment:
            detail = f"{emotion} with {sentiment}, where MELD has {_SENTIMENT[emotion]}"
            yield Finding(detector="label-contradiction", split=split.name, key=row.key, detail=detail)


def _ambiguous_sentiments(split: DatasetSplit) -> Iterator[Finding]:
    counts = Counter((row.labels.get("emotion", ""), row.labels.get("sentiment", "")) for row in split.utterances)
    for emotion in sorted({emotion for emotion, _ in counts} - set(_SENTIMENT)):
        found = {sentiment: count for (name, sentiment), count in sorted(counts.items()) if name == emotion}
        if len(found) > 1:
            detail = f"{emotion}: " + ", ".join(f"{sentiment} {count:,}" for sentiment, count in found.items())
            yield Finding(detector="ambiguous-sentiment", split=split.name, file=split.csv, detail=detail)


def _durations(split: DatasetSplit) -> Iterator[Finding]:
    for row in split.utterances:
        if row.span is None:
            continue
        seconds = row.annotated_seconds
        detail = f"the annotation gives {seconds:.3f} s"
        if seconds < _NO_DURATION_SECONDS:
            yield Finding(detector="no-duration", split=split.name, key=row.key, file=row.clip, detail=detail)
        elif seconds < SHORT_SECONDS:
            yield Finding(detector="short-row", split=split.name, key=row.key, file=row.clip, detail=detail)
        elif seconds > LONG_SECONDS:
            detail = f"the annotation gives {seconds:.2f} s for {len(row.text.split())} words"
            yield Finding(detector="long", split=split.name, key=row.key, file=row.clip, detail=detail)
        words = len(row.text.split())
        if seconds > _FEW_WORDS_SECONDS and words / seconds < _FEW_WORDS_PER_SECOND:
            detail = f"{words} words in {seconds:.2f} s"
            yield Finding(detector="few-words", split=split.name, key=row.key, file=row.clip, detail=detail)


def _same_times(split: DatasetSplit) -> Iterator[Finding]:
    groups: dict[tuple[str, str, float, float], list[str]] = defaultdict(list)
    for row in split.utterances:
        if row.span is not None and row.season and row.episode:
            groups[row.season, row.episode, row.span.start_seconds, row.span.end_seconds].append(row.key)
    for (season, episode, start, end), keys in groups.items():
        if len(keys) > 1:
            detail = f"season {season}, episode {episode}, {start:.3f} to {end:.3f} s: {_some(keys)}"
            yield Finding(detector="same-time", split=split.name, key=keys[0], detail=detail)


def _id_gaps(split: DatasetSplit) -> Iterator[Finding]:
    ids: dict[str, list[int]] = defaultdict(list)
    for row in split.utterances:
        if row.utterance_id.isascii() and row.utterance_id.isdigit():
            ids[row.dialogue_id].append(int(row.utterance_id))
    for dialogue_id, found in ids.items():
        missing = sorted(set(range(max(found) + 1)) - set(found))
        if missing:
            detail = f"dialogue {dialogue_id} has no utterance {_some([str(number) for number in missing])}"
            yield Finding(detector="id-gap", split=split.name, file=split.csv, detail=detail)


def _some(names: Sequence[str], *, at_most: int = 5) -> str:
    """`a, b, c, d, e and 3 more`."""
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
