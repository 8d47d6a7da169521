"""What a shard is made from, recorded as it is written; and what of a recorded one is still good for a new making."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.building.digests import inputs_sha256
from preprocess.clips.extract import MEDIA, Extract, Medium
from preprocess.datasets.annotations import Utterance
from shards.format.index import ShardInfo
from shards.spec import FeatureSpec
from shards.writing.shard_writer import Origin, read_record

__all__ = ["GatheredOrigin", "RecordedShard", "recorded_shard"]


class GatheredOrigin:
    """What the samples of a shard are made from, gathered as they are written."""

    def __init__(self, spec: FeatureSpec, rows_sha256: str) -> None:
        self._fingerprints = spec.fingerprints()
        self._rows_sha256 = rows_sha256
        self._clips: list[str] = []
        self._sources: dict[str, dict[str, str]] = {}

    def add(self, row: Utterance, extracted: Extract, *, source: str) -> None:
        """Note a row. What a decoder was killed over for want of time or memory has no source: it may do better."""
        self._clips.append(source)
        self._sources[row.key] = {
            medium: source for medium, feature in extracted.features.items() if not feature.killed
        }

    def origin(self) -> Origin:
        """Return the origin of a shard of the rows that were added."""
        settled = all(len(sources) == len(MEDIA) for sources in self._sources.values())
        return Origin(
            rows_sha256=self._rows_sha256,
            inputs_sha256=inputs_sha256(self._rows_sha256, self._clips) if settled else "",
            fingerprints=self._fingerprints,
            sources=self._sources,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedShard:
    """A whole shard of an earlier run, held against the spec that is asked for now."""

    info: ShardInfo
    origin: Origin
    fitting: frozenset[str]
    """Modalities that were made in the way that is asked for."""
    made_alike: bool
    """Whether all of them were."""

    def of_rows(self, rows_sha256: str) -> bool:
        """Whether it was made alike and from these annotations; whoever made it has looked at its clips."""
        return self.made_alike and self.origin.rows_sha256 == rows_sha256

    @property
    def settled(self) -> bool:
        """Whether no decoder was killed over it, so that a new making would give the same."""
        return bool(self.origin.inputs_sha256)

    def of_clips(self, clips: Sequence[str]) -> bool:
        """Whether it was made from clips of these digests, and is settled."""
        return self.origin.inputs_sha256 == inputs_sha256(self.origin.rows_sha256, clips)

    def source(self, key: str, medium: Medium) -> str:
        """Return the `clip_sha256` that an array which may be used again was made from; empty if it may not be."""
        return self.origin.sources.get(key, {}).get(medium, "") if medium in self.fitting else ""


def recorded_shard(path: Path, *, spec: FeatureSpec) -> RecordedShard | None:
    """Return what is recorded of the shard at `path`, held against `spec`; None unless the shard is whole."""
    record = read_record(path)
    if record is None:
        return None
    info, origin = record
    asked = spec.fingerprints()
    fitting = frozenset(name for name, digest in asked.items() if origin.fingerprints.get(name) == digest)
    return RecordedShard(info=info, origin=origin, fitting=fitting, made_alike=origin.fingerprints == asked)
