"""Digests of what a shard is made from: its rows, and the content of their clips."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from preprocess.config import Part, TestClips
from preprocess.datasets.annotations import Utterance
from shards.files import publish, sha256_file
from shards.schema import LabelSet, canonical_json

__all__ = ["SourceDigests", "clip_sha256", "inputs_sha256", "rows_sha256"]


def clip_sha256(row: Utterance, *, digest: Callable[[str], str], test_clips: TestClips) -> str:
    """Return the digest of all that decides what is taken from a row's clip, besides the feature spec.

    Args:
        row: The row.
        digest: Gives the SHA-256 of a clip's content by its path in the dataset.
        test_clips: Which of two clips a test row takes.
    """
    value = {
        "annotated_seconds": row.annotated_seconds if row.span is not None else None,
        "part": [row.part.start_seconds, row.part.end_seconds] if row.part else [],
        "clip_name": row.clip_name,
        "clips": [[path, digest(path)] for path in (row.clip, row.twin) if path],
        "test_clips": test_clips if row.twin else "",
    }
    return _sha256(value)


def rows_sha256(utterances: Sequence[Utterance], label_sets: Sequence[LabelSet]) -> str:
    """Return the digest of what the annotations say of a shard's rows; a label's index follows from its set.

    A row's context is a part of it, so a change of a line in one shard is seen in the next one where the dialogue goes
    on there. Rows without one have the digest that they had before there was any.
    """
    rows = [
        {
            "key": row.key,
            "dialogue_id": row.dialogue_id,
            "utterance_id": row.utterance_id,
            "turn_index": row.turn_index,
            "speaker": row.speaker,
            "text": row.text,
            "text_repaired": row.text_repaired,
            "labels": dict(row.labels),
            **({"context": row.context} if row.context else {}),
        }
        for row in utterances
    ]
    return _sha256({"rows": rows, "label_sets": [[labels.task, labels.names] for labels in label_sets]})


def inputs_sha256(rows_sha256: str, clips: Sequence[str]) -> str:
    """Return the digest of all that a shard is made from, besides the feature spec.

    Args:
        rows_sha256: Result of the function of that name.
        clips: The `clip_sha256` of each row, in order.
    """
    return _sha256([rows_sha256, *clips])


def _sha256(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


class SourceDigests:
    """Digests of clips by path, remembered with size and time of change so that a rerun need not read the clips.

    The same idea as git's index. The file is bookkeeping of one machine: deleting it costs reading the clips once.
    """

    def __init__(self, folder: Path, *, root: Path, part: Part) -> None:
        """Open what is remembered in `folder` about clips under `root`; a damaged file is as good as none.

        Each part of a run remembers in a file of its own, and reads those of all.
        """
        self._file = folder / ("sources.json" if part.count == 1 else f"sources-{part.number}-of-{part.count}.json")
        self._root = root
        self._known: dict[str, tuple[int, int, str]] = {}
        self._changed = False
        for file in sorted(folder.glob("sources*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                self._known |= {
                    path: (int(size), int(changed_ns), str(digest))
                    for path, (size, changed_ns, digest) in json.loads(file.read_bytes()).items()
                }

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
