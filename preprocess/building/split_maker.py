"""The shards of one split: kept, taken from older ones, or made of decoded clips."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from preprocess.building.digests import SourceDigests, clip_sha256, rows_sha256
from preprocess.building.kept import GatheredOrigin, RecordedShard, recorded_shard
from preprocess.building.old_shard import open_old_shard
from preprocess.building.plan import PlannedShard, plan_shards, write_plan
from preprocess.building.sample import make_sample
from preprocess.clips.extract import MEDIA, Extract, Medium
from preprocess.clips.extract_all import Request
from preprocess.config import Part, PreprocessConfig
from preprocess.datasets.annotations import Dataset, DatasetSplit, Utterance
from preprocess.errors import DatasetError
from preprocess.text.tokenizer import TextTokenizer
from shards.errors import describe
from shards.format.index import ShardInfo, remove_index
from shards.schema import MODALITIES, Sample
from shards.spec import FeatureSpec
from shards.writing.finish import finish_split
from shards.writing.output_folder import remove_stale_shards
from shards.writing.shard_writer import read_rows, write_shard

__all__ = ["Progress", "SplitMade", "SplitMaker", "check_failures"]

_LOG = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the split, its rows done and its rows to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitMade:
    """What a run did for one split."""

    finished: bool
    """Whether its index is there; false while other parts are not done."""
    shards_made: int
    shards_missing: tuple[str, ...]
    """Those that other parts are to make."""
    decoded: Mapping[Medium, int]
    """Clips of which it was decoded."""
    reused: Mapping[Medium, int]
    """Rows for which it was taken from an older shard, in shards that were made."""


_MOST_WARNINGS = 20
"""Rows of a split named as they are made; annotations alone, without a clip, would give a line for every row."""
_WORDS: Mapping[Medium, str] = {"video": "picture", "audio": "sound"}


class SplitMaker:
    """The making of one split."""

    def __init__(
        self,
        dataset: Dataset,
        split: DatasetSplit,
        directory: Path,
        *,
        config: PreprocessConfig,
        spec: FeatureSpec,
        part: Part,
        broken: Collection[str] | None,
    ) -> None:
        self.split = split
        self._label_sets = dataset.label_sets
        self._directory = directory
        self._config = config
        self._spec = spec
        directory.mkdir(exist_ok=True)
        self._digests = SourceDigests(directory / ".work", root=dataset.root, part=part)
        plan = plan_shards(
            split.name,
            split.utterances,
            samples_per_shard=config.samples_per_shard,
            context_utterances=config.context_utterances,
        )
        write_plan(directory, plan)
        if broken is None:
            ours = {shard.name for shard in plan if part.makes(shard.index)}
            self._finished = {
                shard.name: self._kept(shard) if shard.name in ours else self._trusted(shard) for shard in plan
            }
        else:
            ours = set(broken)
            self._finished = {shard.name: None if shard.name in ours else self._trusted(shard) for shard in plan}
        self._others = [shard for shard in plan if shard.name not in ours]
        self._to_make = [shard for shard in plan if shard.name in ours and self._finished[shard.name] is None]
        self._taken: deque[tuple[Request, Extract]] = deque()
        self._decoded: Counter[Medium] = Counter()
        self._reused: Counter[Medium] = Counter()
        self._num_lacking = 0

    def requests(self) -> Iterator[Request]:
        """Say row by row what is to be decoded, having taken what an older shard holds. Runs ahead of `make`."""
        for shard in self._to_make:
            path = self._directory / shard.name
            with open_old_shard(path, recorded_shard(path, spec=self._spec)) as old:
                for row in shard.utterances:
                    taken = old.extract(row.key, self._clip_sha256(row))
                    request = Request(row=row, media=tuple(medium for medium in MEDIA if medium not in taken.features))
                    self._taken.append((request, taken))
                    yield request

    def make(self, extracts: Iterator[Extract], *, tokenizer: TextTokenizer, on_progress: Progress) -> None:
        """Make what is missing, from extracts that come in the order of `requests`; then publish the index."""
        self._digests.save()  # of clips that were only touched: their shards are kept
        if self._to_make:
            remove_index(self._directory)
        total = sum(len(shard.utterances) for shard in self._to_make)
        done = 0
        for shard in self._to_make:
            origin = GatheredOrigin(self._spec, self._rows_sha256(shard))

            def samples(
                shard: PlannedShard = shard, done: int = done, origin: GatheredOrigin = origin
            ) -> Iterator[Sample]:
                for number, row in enumerate(shard.utterances, start=done + 1):
                    extracted = self._next(row, extracts)
                    origin.add(row, extracted, source=self._clip_sha256(row))
                    sha256 = self._digests(extracted.path) if extracted.path else ""
                    yield make_sample(row, extracted, spec=self._spec, tokenizer=tokenizer, source_sha256=sha256)
                    on_progress(self.split.name, number, total)

            self._finished[shard.name] = write_shard(
                self._directory / shard.name,
                samples(),
                spec=self._spec,
                label_sets=self._label_sets,
                origin=origin.origin,
            )
            self._digests.save()
            done += len(shard.utterances)
        if self._num_lacking > _MOST_WARNINGS:
            more = self._num_lacking - _MOST_WARNINGS
            _LOG.warning("no picture or no sound, rows kept: %s more of %s, all in the report", more, self.split.name)
        self.complete()

    def complete(self) -> SplitMade:
        """Publish the index if no shard is missing, now that other parts have gone on; say what was made."""
        for shard in self._others:
            self._finished[shard.name] = self._trusted(shard)
        missing = tuple(name for name, info in self._finished.items() if info is None)
        if not missing:
            self._finish()
        return SplitMade(
            finished=not missing,
            shards_made=len(self._to_make),
            shards_missing=missing,
            decoded={medium: self._decoded[medium] for medium in MEDIA},
            reused={medium: self._reused[medium] for medium in MEDIA},
        )

    def _next(self, row: Utterance, extracts: Iterator[Extract]) -> Extract:
        """Put what was decoded of the next row and what was taken from an older shard together."""
        extracted = next(extracts)
        request, taken = self._taken.popleft()
        if row.clip or row.twin:
            self._decoded.update(request.media)
        self._reused.update(list(taken.features))  # not the mapping: a Counter would add its values
        chosen = taken if taken.features else extracted  # both chose the same clip
        lacking = [medium for medium in request.media if not extracted.features[medium].presence.present]
        if lacking:  # of a clip without a picture and without sound one line says enough
            self._num_lacking += 1
            if self._num_lacking <= _MOST_WARNINGS:
                what, reason = _WORDS[lacking[0]], extracted.features[lacking[0]].presence.reason
                _LOG.warning("no %s, row kept: %s, %s", what, row.key, reason)
        return Extract(path=chosen.path, notes=chosen.notes, features={**taken.features, **extracted.features})

    def _kept(self, shard: PlannedShard) -> ShardInfo | None:
        """Return what is known of a shard that an earlier run made from the same inputs in the same way."""
        recorded = self._recorded(shard)
        if recorded is None or not recorded.of_clips([self._clip_sha256(row) for row in shard.utterances]):
            return None
        return recorded.info

    def _trusted(self, shard: PlannedShard) -> ShardInfo | None:
        """Return what is known of a shard that is not ours to make: whoever made it has looked at its clips."""
        recorded = self._recorded(shard)
        return recorded.info if recorded is not None else None

    def _recorded(self, shard: PlannedShard) -> RecordedShard | None:
        """Return what is recorded of a whole shard if it was made from the same annotations in the same way."""
        recorded = recorded_shard(self._directory / shard.name, spec=self._spec)
        return recorded if recorded is not None and recorded.of_rows(self._rows_sha256(shard)) else None

    def _rows_sha256(self, shard: PlannedShard) -> str:
        return rows_sha256(shard.utterances, self._label_sets)

    def _clip_sha256(self, row: Utterance) -> str:
        return clip_sha256(row, digest=self._digests, test_clips=self._config.test_clips)

    def _finish(self) -> None:
        """Publish the index of a whole split unless it is there already; remove shards of an older plan."""
        shards = tuple(shard for shard in self._finished.values() if shard is not None)
        bit = 1 << MODALITIES.index("video")
        seen = chain.from_iterable(read_rows(self._directory / shard.name)["present"] & bit for shard in shards)
        failed = [row.key for row, present in zip(self.split.utterances, seen, strict=True) if not present]
        check_failures(self.split, failed, self._config, why="have no picture")
        finish_split(
            self._directory, split=self.split.name, spec=self._spec, label_sets=self._label_sets, shards=shards
        )
        remove_stale_shards(self._directory, split=self.split.name, shards=shards)


def check_failures(split: DatasetSplit, failed: list[str], config: PreprocessConfig, *, why: str) -> None:
    """Refuse a split when too many of its rows have no picture.

    Raises:
        DatasetError: with the first rows and how to accept it.
    """
    fraction = len(failed) / len(split.utterances)
    if fraction > config.max_failed_fraction:
        what = (
            f"{len(failed)} of {len(split.utterances)} rows of {split.name} {why} "
            f"({fraction:.0%}, allowed are {config.max_failed_fraction:.0%}): {', '.join(failed[:3])}, …"
        )
        enough = min(1.0, round(fraction + 0.01, 2))
        then = f"check the clips, or accept it with `--set preprocess.max_failed_fraction={enough}`"
        raise DatasetError(describe(what, file=split.clip_folder or split.csv, then=then))
