"""A dataset -> shards: keep what is made, make the rest, publish the index last."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np

from preprocess.annotations import Dataset, DatasetSplit, Utterance
from preprocess.config import PreprocessConfig
from preprocess.errors import DatasetError
from preprocess.extract import Extract
from preprocess.lock import locked
from preprocess.plan import PlannedShard, SourceDigests, inputs_sha256, plan_shards
from preprocess.pool import extract_all
from preprocess.text import TextTokenizer, learn_tokenizer, load_tokenizer
from shards.errors import ShardError, SpecMismatchError, describe
from shards.index import INDEX_NAME, Index, ShardInfo, publish, read_index, read_sidecar, sidecar_name, write_index
from shards.schema import (
    MELD_LABELS,
    MODALITIES,
    PRESENT,
    SCRATCH,
    FeatureSpec,
    Note,
    Presence,
    Sample,
    SampleMeta,
    Source,
    canonical_json,
)
from shards.writer import read_record, record_path, write_shard

__all__ = ["Progress", "build_shards", "build_tokenizer", "feature_spec"]

_LOG = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the split, its rows done and its rows to do."""


def build_tokenizer(dataset: Dataset, config: PreprocessConfig) -> TextTokenizer:
    """Load the tokenizer of a run, or learn it from the training texts when its name is `scratch`.

    Raises:
        TokenizerError: if it cannot be had.
        DatasetError: if it is to be learned and there is no training split.
    """
    if config.text_encoder != SCRATCH:
        return load_tokenizer(config.text_encoder)
    for split in dataset.splits:
        if split.name == "train":
            return learn_tokenizer(utterance.text for utterance in split.utterances)
    what = "a tokenizer is to be learned from the training texts, and there is no train_sent_emo.csv"
    raise DatasetError(describe(what, file=dataset.root, then="add it, or give a tokenizer by --text-encoder"))


def feature_spec(config: PreprocessConfig, tokenizer: TextTokenizer) -> FeatureSpec:
    """Return what decides the bytes of the shards of a run."""
    from preprocess.clip import decoder_version
    from preprocess.logmel import transform_version

    return FeatureSpec(
        video=config.video_spec(decoder_version=decoder_version(config.decoder)),
        audio=config.audio_spec(decoder_version=decoder_version(config.decoder), transform_version=transform_version()),
        text=tokenizer.spec(max_tokens=config.max_tokens),
    )


def build_shards(
    dataset: Dataset,
    out: Path,
    *,
    config: PreprocessConfig,
    tokenizer: TextTokenizer,
    num_workers: int,
    on_progress: Progress,
) -> dict[str, int]:
    """Make the shards of every split of a dataset under `out`.

    Shards that an earlier run finished from the same inputs and spec are kept: an interrupted run goes on where it was.

    Args:
        dataset: What to read.
        out: A folder that is empty, new, or was made with the same spec.
        config: How.
        tokenizer: From `build_tokenizer`.
        num_workers: Processes that decode; they do not change any byte.
        on_progress: Called as rows are finished.

    Returns:
        The number of shards made in this run, by split; the others were kept.

    Raises:
        SpecMismatchError: if `out` holds shards of another spec.
        DatasetError: if more rows of a split have no picture than the config allows. What was made is kept.
        ShardError: if the disk is full or cannot be written.
        OutputBusyError: if another run is writing to `out`.
    """
    spec = feature_spec(config, tokenizer)
    for split in dataset.splits:
        missing = [row.key for row in split.utterances if not row.clip and not row.twin]
        _check_failures(split, missing, config, why="have no clip")
    _claim(out, spec)  # before the lock, so that nothing is left in a folder that is not ours
    with locked(out):
        _claim(out, spec)  # and within it: between the two another run may have claimed it
        tokenizer.save(out / "tokenizer")
        works = [_SplitWork(dataset, split, out / split.name, config=config, spec=spec) for split in dataset.splits]
        rows = chain.from_iterable(shard.utterances for work in works for shard in work.to_make)
        extracts = extract_all(dataset.root, rows, config=config, spec=spec, num_workers=num_workers)
        with closing(extracts):
            for work in works:
                work.make(extracts, tokenizer=tokenizer, on_progress=on_progress)
        return {work.split.name: len(work.to_make) for work in works}


class _SplitWork:
    """The making of one split."""

    def __init__(
        self, dataset: Dataset, split: DatasetSplit, directory: Path, *, config: PreprocessConfig, spec: FeatureSpec
    ) -> None:
        self.split = split
        self._directory = directory
        self._config = config
        self._spec = spec
        directory.mkdir(exist_ok=True)
        self._digests = SourceDigests(directory / ".work" / "sources.json", root=dataset.root)
        plan = plan_shards(split.name, split.utterances, samples_per_shard=config.samples_per_shard)
        self._shards: dict[str, ShardInfo | None] = {shard.name: self._finished(shard) for shard in plan}
        self.to_make = [shard for shard in plan if self._shards[shard.name] is None]

    def make(self, extracts: Iterator[Extract], *, tokenizer: TextTokenizer, on_progress: Progress) -> None:
        """Make what is missing, from extracts that come in the order of its rows; then publish the index."""
        self._digests.save()  # of clips that were only touched: their shards are kept
        if self.to_make:
            (self._directory / INDEX_NAME).unlink(missing_ok=True)  # from here on the split is unfinished
        total = sum(len(shard.utterances) for shard in self.to_make)
        done = 0
        for shard in self.to_make:
            killed: list[str] = []

            def samples(shard: PlannedShard = shard, done: int = done, killed: list[str] = killed) -> Iterator[Sample]:
                for number, row in enumerate(shard.utterances, start=done + 1):
                    extracted = next(extracts)
                    if extracted.killed:
                        killed.append(row.key)
                    if not extracted.video.present:
                        _LOG.warning("no picture, row kept: %s, %s", row.key, extracted.video.reason)
                    elif not extracted.audio.present:
                        _LOG.warning("no sound, row kept: %s, %s", row.key, extracted.audio.reason)
                    yield self._sample(row, extracted, tokenizer=tokenizer)
                    on_progress(self.split.name, number, total)

            self._shards[shard.name] = write_shard(
                self._directory / shard.name,
                samples(),
                spec=self._spec,
                label_sets=MELD_LABELS,
                # A clip killed for time or memory may do better next time, so such a shard fits no inputs.
                inputs_sha256=lambda shard=shard, killed=killed: (  # type: ignore[misc]
                    "" if killed else self._inputs_sha256(shard.utterances)
                ),
            )
            self._digests.save()
            done += len(shard.utterances)
        self._finish()

    def _finished(self, shard: PlannedShard) -> ShardInfo | None:
        """Return what is known of a shard that an earlier run made from the same inputs."""
        info = read_record(self._directory / shard.name, spec=self._spec)
        if info is None or info.inputs_sha256 != self._inputs_sha256(shard.utterances):
            return None
        return info

    def _inputs_sha256(self, rows: Iterable[Utterance]) -> str:
        return inputs_sha256(tuple(rows), digest=self._digests, test_clips=self._config.test_clips)

    def _sample(self, row: Utterance, extracted: Extract, *, tokenizer: TextTokenizer) -> Sample:
        """Put a row and what its clip gave together; an absent modality is zeros of the same size."""
        spec = self._spec
        tokens, num_tokens, all_tokens = tokenizer.encode(row.text, max_tokens=spec.text.max_tokens)
        notes = list(extracted.notes)
        if row.text_repaired:
            notes.append(Note(kind="text_repaired", detail="cp1252 control characters replaced by what they meant"))
        if all_tokens > num_tokens:
            notes.append(Note(kind="text_cut", detail=f"the first {num_tokens} of {all_tokens} tokens are kept"))
        has_text = bool(row.text.strip())
        meta = SampleMeta(
            key=row.key,
            split=row.split,
            dialogue_id=row.dialogue_id,
            utterance_id=row.utterance_id,
            turn_index=row.turn_index,
            speaker=row.speaker,
            text=row.text,
            labels=row.labels,
            num_frames=extracted.num_frames,
            num_hops=extracted.num_hops,
            num_tokens=num_tokens,
            presence={
                "video": extracted.video,
                "audio": extracted.audio,
                "text": PRESENT if has_text else Presence(present=False, reason="the transcript is empty"),
            },
            source=Source(path=extracted.path, sha256=self._digests(extracted.path) if extracted.path else ""),
            duration_seconds=extracted.duration_seconds,
            annotated_seconds=row.annotated_seconds,
            notes=tuple(notes),
        )
        return Sample(
            meta=meta,
            frames=extracted.frames if extracted.video.present else np.zeros(spec.video.shape, np.uint8),
            logmel=extracted.logmel if extracted.audio.present else np.zeros(spec.audio.shape, np.float16),
            tokens=tokens,
        )

    def _finish(self) -> None:
        """Publish the index of a whole split unless it is there already; remove shards of an older plan."""
        shards = tuple(shard for shard in self._shards.values() if shard is not None)
        sidecars = [read_sidecar(self._directory, shard, num_tasks=len(MELD_LABELS)) for shard in shards]
        seen = np.concatenate(sidecars)["present"] & 1 << MODALITIES.index("video")
        failed = [row.key for row, present in zip(self.split.utterances, seen, strict=True) if not present]
        _check_failures(self.split, failed, self._config, why="have no picture")
        index = Index(split=self.split.name, spec=self._spec, label_sets=MELD_LABELS, shards=shards)
        try:
            if read_index(self._directory) == index:
                return
        except ShardError:
            _LOG.debug("the index of %s is to be written", self.split.name)
        for path in self._directory.glob(f"{self.split.name}-*.tar"):
            if path.name not in self._shards:
                _LOG.info("removing a shard of an older plan: %s", path)
                for old in (path, path.with_name(sidecar_name(path.name)), record_path(path)):
                    old.unlink(missing_ok=True)
        write_index(self._directory, index)


def _claim(out: Path, spec: FeatureSpec) -> None:
    """Make sure that `out` is ours to write: new, empty, or of the same spec."""
    path = out / "spec.json"
    if path.is_file():
        try:
            there = FeatureSpec.from_json(json.loads(path.read_bytes()))
        except (ValueError, TypeError, ShardError) as exc:
            what, then = f"the spec of the shards cannot be read: {exc}", f"choose another --out, or delete {out}"
            raise ShardError(describe(what, file=path, then=then)) from exc
        differences = there.differences(spec, provenance=True)
        if differences:
            what = "the folder holds shards of another spec (there against asked): " + "; ".join(map(str, differences))
            then = f"choose another --out, ask for the same, or delete {out}"
            if spec.text.tokenizer == there.text.tokenizer == SCRATCH and len(differences) <= 2:
                then += " (the tokenizer is learned from the training texts: when they change, it does)"
            raise SpecMismatchError(describe(what, file=path, then=then))
        return
    # Hidden files do not count: a run killed while it wrote spec.json leaves one.
    if out.exists() and (not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir())):
        what = "--out is not empty and holds no shards of ours"
        raise ShardError(describe(what, file=out, then="choose another folder"))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        what = f"cannot make the folder: {exc.strerror or exc}"
        raise ShardError(describe(what, file=out, then="choose another --out")) from exc
    publish(path, canonical_json(spec.to_json()))


def _check_failures(split: DatasetSplit, failed: list[str], config: PreprocessConfig, *, why: str) -> None:
    fraction = len(failed) / len(split.utterances)
    if fraction > config.max_failed_fraction:
        what = (
            f"{len(failed)} of {len(split.utterances)} rows of {split.name} {why} "
            f"({fraction:.0%}, allowed are {config.max_failed_fraction:.0%}): {', '.join(failed[:3])}, …"
        )
        then = f"check the clips, or accept it with `--max-failed-fraction {min(1.0, round(fraction + 0.01, 2))}`"
        raise DatasetError(describe(what, file=split.clip_folder or split.csv, then=then))
