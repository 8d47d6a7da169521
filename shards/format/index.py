"""What a split consists of: `index.json`, written last.

See `docs/format.md` for the normative text.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.errors import FormatVersionError, ShardCorruptError, ShardError, describe
from shards.files import publish, sync_directory
from shards.schema import FORMAT_VERSION, LabelSet, canonical_json
from shards.spec import FeatureSpec

__all__ = ["INDEX_NAME", "Index", "ShardInfo", "parse_index", "read_index", "remove_index", "write_index"]

INDEX_NAME = "index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One shard of a split, as its index and its record describe it."""

    name: str
    bytes: int
    num_samples: int
    sha256: str
    inputs_sha256: str
    """Digest of what it was made from: rows and content of clips, or a raw shard and weights. Its maker defines it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """All that a reader must know of a split before it opens a shard."""

    split: str
    spec: FeatureSpec
    label_sets: tuple[LabelSet, ...]
    shards: tuple[ShardInfo, ...]
    samples_sha256: str
    """Digest of the samples table, the file."""

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)


def write_index(directory: Path, index: Index) -> None:
    """Publish `index.json`: the split is finished from this moment on."""
    publish(directory / INDEX_NAME, _index_bytes(index))


def remove_index(directory: Path) -> None:
    """Make a split unfinished, durably: what comes after may change its shards."""
    (directory / INDEX_NAME).unlink(missing_ok=True)
    sync_directory(directory)


def read_index(directory: Path) -> Index:
    """Read and check the index of a split.

    Raises:
        ShardError: if there is none.
        FormatVersionError: if it is of another format version.
        ShardCorruptError: if it is not the one that was written.
    """
    path = directory / INDEX_NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError as exc:
        if not directory.is_dir():
            what, then = "there is no such split", "check the path, or run `mmsent preprocess`"
        else:
            what, then = "the split has no index, so it is not finished", "run `mmsent preprocess` again to finish it"
        raise ShardError(describe(what, file=path, then=then)) from exc
    return parse_index(raw, path=str(path))


def parse_index(raw: bytes, *, path: str) -> Index:
    """Check the content of an `index.json`; arguments are that and where it is from, for the message.

    Raises:
        FormatVersionError, ShardCorruptError: as `read_index`.
    """
    try:
        value = json.loads(raw)
        version = value["format_version"]
    except (ValueError, KeyError, TypeError) as exc:
        raise ShardCorruptError(describe(f"the index is damaged: {exc}", file=path, then=_REMAKE)) from exc
    if version != FORMAT_VERSION:
        what = f"the shards are of format version {version}, this program reads {FORMAT_VERSION}"
        then = "make them again with `mmsent preprocess`, or use the mmsent that made them"
        raise FormatVersionError(describe(what, file=path, then=then))
    try:
        sha256 = value.pop("sha256")
        # Of the canonical form, which is fast to make: with tens of thousands of shards the indented one takes seconds.
        as_written = sha256 == hashlib.sha256(canonical_json(value)).hexdigest()
        index = Index(
            split=value["split"],
            spec=FeatureSpec.from_json(value["spec"]),
            label_sets=tuple(map(LabelSet.from_json, value["label_sets"])),
            shards=tuple(ShardInfo(**item) for item in value["shards"]),
            samples_sha256=value["samples_sha256"],
        )
    except (AttributeError, KeyError, TypeError, ValueError, ShardError) as exc:
        raise ShardCorruptError(describe(f"the index is damaged: {exc}", file=path, then=_REMAKE)) from exc
    if not as_written:
        what = "the index is not the one that was written: its content does not give its digest"
        raise ShardCorruptError(describe(what, file=path, then=_REMAKE))
    return index


_REMAKE = "copy it again, or delete the split's folder and run `mmsent preprocess`"


def _index_bytes(index: Index) -> bytes:
    """Serialise an index for people and for diff, with a digest over its content."""
    value = {
        "format_version": FORMAT_VERSION,
        "split": index.split,
        "num_samples": index.num_samples,
        "label_sets": [labels.to_json() for labels in index.label_sets],
        "spec": index.spec.to_json(),
        "shards": [asdict(shard) for shard in index.shards],
        "samples_sha256": index.samples_sha256,
    }
    value["sha256"] = hashlib.sha256(canonical_json(value)).hexdigest()
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
