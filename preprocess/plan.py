"""Utterances -> shards to make and shards to keep. The shard is the unit of work, of restart and of verification."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.annotations import Utterance
from preprocess.config import TestClips
from shards.index import publish, sha256_file
from shards.schema import canonical_json
from shards.writer import shard_name

__all__ = ["PlannedShard", "SourceDigests", "inputs_sha256", "plan_shards"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """Rows k·n to (k+1)·n - 1 of a split, for shard k of n rows each."""

    name: str
    utterances: tuple[Utterance, ...]


def plan_shards(split: str, utterances: Sequence[Utterance], *, samples_per_shard: int) -> list[PlannedShard]:
    """Cut the rows of a split into shards; the cut does not depend on what decoding finds."""
    return [
        PlannedShard(name=shard_name(split, number), utterances=tuple(utterances[start : start + samples_per_shard]))
        for number, start in enumerate(range(0, len(utterances), samples_per_shard))
    ]


def inputs_sha256(utterances: Sequence[Utterance], *, digest: Callable[[str], str], test_clips: TestClips) -> str:
    """Return the digest of all that a shard is made from, besides the feature spec.

    Args:
        utterances: The shard's rows.
        digest: Gives the SHA-256 of a clip's content by its path in the dataset.
        test_clips: Which of two clips a test row takes.
    """
    value = [
        {
            "key": row.key,
            "dialogue_id": row.dialogue_id,
            "utterance_id": row.utterance_id,
            "turn_index": row.turn_index,
            "speaker": row.speaker,
            "text": row.text,
            "text_repaired": row.text_repaired,
            "labels": dict(row.labels),
            "annotated_seconds": row.annotated_seconds,
            "part": [row.part.start_seconds, row.part.end_seconds] if row.part else [],
            "clip_name": row.clip_name,
            "clips": [[path, digest(path)] for path in (row.clip, row.twin) if path],
            "test_clips": test_clips if row.twin else "",
        }
        for row in utterances
    ]
    return hashlib.sha256(canonical_json(value)).hexdigest()


class SourceDigests:
    """Digests of clips by path, remembered with size and time of change so that a rerun need not read the clips.

    The same idea as git's index. The file is bookkeeping of one machine: deleting it costs reading the clips once.
    """

    def __init__(self, file: Path, *, root: Path) -> None:
        """Open what is remembered in `file` about clips under `root`; a damaged file is as good as none."""
        self._file = file
        self._root = root
        self._known: dict[str, tuple[int, int, str]] = {}
        self._changed = False
        try:
            for path, (size, changed_ns, digest) in json.loads(file.read_bytes()).items():
                self._known[path] = (int(size), int(changed_ns), str(digest))
        except (OSError, ValueError, TypeError, AttributeError):
            self._known = {}

    def __call__(self, path: str) -> str:
        """Return the SHA-256 of a clip, reading it only if its size or time of change is new.

        Empty for a clip that cannot be read: its row says why, and its shard is made again once it can.
        """
        try:
            stat = (self._root / path).stat()
            known = self._known.get(path)
            if known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns):
                return known[2]
            digest = sha256_file(self._root / path)
        except OSError:
            return ""
        self._known[path] = (stat.st_size, stat.st_mtime_ns, digest)
        self._changed = True
        return digest

    def save(self) -> None:
        """Remember for the next run, if there is anything new."""
        if not self._changed:
            return
        self._changed = False
        self._file.parent.mkdir(parents=True, exist_ok=True)
        publish(self._file, canonical_json(self._known))
