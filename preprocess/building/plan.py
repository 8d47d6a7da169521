"""Utterances -> shards to make and shards to keep. The shard is the unit of work, of restart and of verification."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.datasets.annotations import Utterance
from preprocess.text.context import with_context
from shards.errors import ShardError, describe
from shards.files import publish
from shards.schema import canonical_json
from shards.writing.shard_writer import shard_name

__all__ = ["PlannedShard", "plan_shards", "read_plan", "write_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """Rows k·n to (k+1)·n - 1 of a split, for shard k of n rows each."""

    name: str
    index: int
    """k."""
    utterances: tuple[Utterance, ...]


def plan_shards(
    split: str, utterances: Sequence[Utterance], *, samples_per_shard: int, context_utterances: int
) -> list[PlannedShard]:
    """Cut the rows of a split into shards; the cut does not depend on what decoding finds.

    A dialogue may lie across a cut, so rows are given their context before it.
    """
    rows = with_context(utterances, context_utterances=context_utterances)
    return [
        PlannedShard(name=shard_name(split, index), index=index, utterances=rows[start : start + samples_per_shard])
        for index, start in enumerate(range(0, len(rows), samples_per_shard))
    ]


def write_plan(directory: Path, plan: Sequence[PlannedShard]) -> None:
    """Say which shards make up a split, so that parts made apart can be completed without the dataset."""
    path = directory / ".work" / "plan.json"
    content = canonical_json([shard.name for shard in plan])
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(exist_ok=True)
        publish(path, content)


def read_plan(directory: Path) -> list[str]:
    """Return the names of the shards that make up a split.

    Raises:
        ShardError: if that was not written, or cannot be read.
    """
    path = directory / ".work" / "plan.json"
    then = "copy the .work folder of one of the parts too, or run `mmsent preprocess`"
    try:
        names = json.loads(path.read_bytes())
    except FileNotFoundError as exc:
        raise ShardError(describe("it is not written which shards make up the split", file=path, then=then)) from exc
    except ValueError as exc:
        raise ShardError(describe(f"cannot be read: {exc}", file=path, then=then)) from exc
    return [str(name) for name in names]
