"""Outputs of frozen encoders in place of raw arrays: shards of features, from which a head is trained in seconds.

The samples are the same, in the same shards under the same names, so every order gives the same batches.

Shape letters: n samples of a shard, R rows of a batch, W width of an encoder's output.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmsent.compute.precision import ResolvedPrecision, choose_device, resolve_precision
from mmsent.config import Precision
from mmsent.encoding.frozen_encoders import FrozenEncoders, Pretrained, Run
from shards.errors import SpecMismatchError, describe
from shards.format.codec import RAW_DTYPES
from shards.format.index import INDEX_NAME, ShardInfo, remove_index
from shards.reading.split import Split
from shards.schema import RAW_ARRAYS, LabelSet, Sample, canonical_json
from shards.spec import FeatureSpec
from shards.splits import split_sources
from shards.storage.cache import ShardCache
from shards.writing.finish import finish_split
from shards.writing.output_folder import OutputFolder, kept_shard, remove_stale_shards
from shards.writing.shard_writer import Origin, write_shard

__all__ = ["MANIFEST_NAME", "EncodeResult", "encode_shards"]

MANIFEST_NAME = "encode.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeResult:
    """What a run over all splits did."""

    spec: FeatureSpec
    """Of the shards that were made."""
    num_shards_made: int
    num_shards_kept: int
    num_samples: int
    """Of all splits."""
    num_samples_encoded: int
    """By this run; the others lay there already."""
    num_bytes: int
    """Of all shards."""
    device: str
    precision: ResolvedPrecision


def encode_shards(
    shards: str | Path,
    out: Path,
    *,
    encoders: Pretrained | Run,
    batch_size: int,
    precision: Precision,
    cache: ShardCache | None = None,
    remake: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda split, done, total: None,
) -> EncodeResult:
    """Make shards of features of every split, or bring those that are there up to date.

    A shard that is there is kept if it was made of the same raw shard by the same weights. So a run that was killed
    goes on, and one that is run again does nothing.

    Args:
        shards: What `mmsent preprocess --out` made, or the URL of it. Modalities that are not to be encoded keep their
            arrays.
        out: Where the new shards go: a new or empty folder, or one of an earlier run.
        encoders: What is run, and on which modalities.
        batch_size: Samples that are encoded at a time; never of two shards.
        precision: Of the forward pass.
        cache: What shards behind a URL come through.
        remake: Make shards again that were made in another way.
        on_progress: Called with the split, samples done and samples in all.

    Raises:
        EncoderError: if an encoder cannot be had, starts from random weights, or gives numbers that are none.
        CheckpointError: if the run has no best checkpoint, or it is damaged.
        SpecMismatchError: if the run does not fit the shards, the splits were not made alike, or `out` has shards that
            were made in another way and `remake` does not say so.
        ShardError: if the shards cannot be read, `out` holds something else, or the disk is full.
        OutputBusyError: if another run is writing to `out`.
    """
    splits = {name: Split(source) for name, source in split_sources(shards, cache=cache).items()}
    first, *others = splits.values()
    for other in others:
        if differences := other.differences(first.spec, first.label_sets):
            what = f"the splits were not made alike: {'; '.join(differences)}"
            raise SpecMismatchError(describe(what, file=other.source.location, then="make all with the same options"))
    device = choose_device()
    encoder = FrozenEncoders.of(encoders, first, device=device, precision=resolve_precision(precision, device))
    manifest = _Manifest(spec=encoder.spec(first.spec), label_sets=first.label_sets)
    folder = OutputFolder(path=out, manifest_name=MANIFEST_NAME, command="mmsent encode", parse=_Manifest.from_json)
    made: list[_SplitResult] = []
    with folder.claimed(manifest, remake=remake):
        for name, split in splits.items():
            spec = encoder.spec(split.spec)
            work = _SplitWork(split, out / name, spec=spec, encoder=encoder, batch_size=batch_size)
            made.append(work.run(lambda done, name=name, split=split: on_progress(name, done, len(split))))  # type: ignore[misc]
    return EncodeResult(
        spec=manifest.spec,
        num_shards_made=sum(result.num_shards_made for result in made),
        num_shards_kept=sum(len(result.shards) - result.num_shards_made for result in made),
        num_samples=sum(map(len, splits.values())),
        num_samples_encoded=sum(result.num_samples_encoded for result in made),
        num_bytes=sum(shard.bytes for result in made for shard in result.shards),
        device=device.type,
        precision=encoder.precision,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _SplitResult:
    shards: tuple[ShardInfo, ...]
    num_shards_made: int
    num_samples_encoded: int


class _SplitWork:
    """The shards of one split, one after the other."""

    def __init__(
        self, split: Split, directory: Path, *, spec: FeatureSpec, encoder: FrozenEncoders, batch_size: int
    ) -> None:
        self._split = split
        self._directory = directory
        self._spec = spec
        self._encoder = encoder
        self._batch_size = batch_size

    def run(self, on_progress: Callable[[int], None]) -> _SplitResult:
        """Make the shards that are not there, then the table and the index."""
        self._directory.mkdir(exist_ok=True)
        shards: list[ShardInfo] = []
        num_made = num_encoded = done = 0
        on_progress(done)
        for number, raw in enumerate(self._split.index.shards):
            path = self._directory / raw.name
            shard = kept_shard(path, inputs_sha256=self._inputs_sha256(raw))
            if shard is None:
                if (self._directory / INDEX_NAME).is_file():
                    remove_index(self._directory)  # no index may lie beside shards that are not its own
                shard = self._make(path, number, raw)
                num_made += 1
                num_encoded += raw.num_samples
            shards.append(shard)
            done += raw.num_samples
            on_progress(done)
        finish_split(
            self._directory,
            split=self._split.index.split,
            spec=self._spec,
            label_sets=self._split.label_sets,
            shards=shards,
        )
        remove_stale_shards(self._directory, split=self._split.index.split, shards=shards)
        return _SplitResult(shards=tuple(shards), num_shards_made=num_made, num_samples_encoded=num_encoded)

    def _make(self, path: Path, number: int, raw: ShardInfo) -> ShardInfo:
        stop = int(self._split.shard_ends[number])
        start = stop - raw.num_samples
        inputs_sha256 = self._inputs_sha256(raw)
        return write_shard(
            path,
            self._samples(start, stop),
            spec=self._spec,
            label_sets=self._split.label_sets,
            origin=lambda: Origin(
                rows_sha256="", inputs_sha256=inputs_sha256, fingerprints=self._spec.fingerprints(), sources={}
            ),
        )

    def _samples(self, start: int, stop: int) -> Iterator[Sample]:
        features = self._encoder.encode(self._split, start, stop, batch_size=self._batch_size)
        empty: dict[str, Any] = {RAW_ARRAYS[name]: np.empty(0, RAW_DTYPES[name]) for name in features}
        for place in range(stop - start):
            sample = self._split.sample(start + place)  # held against its CRC-32
            encoded = {name: array[place] for name, array in features.items()}
            yield replace(sample, **empty, features={**sample.features, **encoded})

    def _inputs_sha256(self, raw: ShardInfo) -> str:
        """Return the digest of all that a shard is made from."""
        label_sets = [[labels.task, labels.names] for labels in self._split.label_sets]
        return hashlib.sha256(canonical_json([raw.sha256, self._spec.fingerprints(), label_sets])).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    """How the shards of a folder are made."""

    spec: FeatureSpec
    label_sets: tuple[LabelSet, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"label_sets": [labels.to_json() for labels in self.label_sets], "spec": self.spec.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "_Manifest":
        """Rebuild a manifest; raises what `OutputFolder.parse` may."""
        label_sets = tuple(map(LabelSet.from_json, value["label_sets"]))
        return cls(spec=FeatureSpec.from_json(value["spec"]), label_sets=label_sets)

    def differences(self, asked: "_Manifest") -> list[str]:
        """Name what was made in another way than is asked for, in words: there against asked."""
        found = [str(item) for item in self.spec.differences(asked.spec, provenance=True)]
        if self.label_sets != asked.label_sets:
            found.append(f"label_sets: {_words(self.label_sets)} against {_words(asked.label_sets)}")
        return found

    def refusal(self, differences: Sequence[str]) -> str:
        """Refuse whatever differs: it is all made again."""
        what = "the shards there were made in another way (there against asked): "
        return what + "; ".join(differences) if differences else ""


def _words(label_sets: Sequence[LabelSet]) -> str:
    return "; ".join(f"{labels.task} {', '.join(labels.names)}" for labels in label_sets)
