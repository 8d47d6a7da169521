"""Whose an output folder is: what its shards were made with, and whether a run may change them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from preprocess.config import DatasetFormat, Decoder, PreprocessConfig, TestClips
from shards.errors import ShardError, SpecMismatchError, describe
from shards.files import publish
from shards.schema import LabelSet, canonical_json
from shards.spec import FeatureSpec

__all__ = ["CLAIM_NAME", "Claim", "check_claim", "read_claim", "write_claim"]

CLAIM_NAME = "preprocess.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """With what the shards of a folder are made."""

    adapter: DatasetFormat
    """Name of what read the data set."""
    samples_per_shard: int
    test_clips: TestClips
    label_sets: tuple[LabelSet, ...]
    spec: FeatureSpec

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "adapter": self.adapter,
            "samples_per_shard": self.samples_per_shard,
            "test_clips": self.test_clips,
            "label_sets": [{"task": labels.task, "names": list(labels.names)} for labels in self.label_sets],
            "spec": self.spec.to_json(),
        }

    def config(self) -> PreprocessConfig:
        """Return the choices that lead to this claim; what decides no byte has its default."""
        video, audio, text = self.spec.video, self.spec.audio, self.spec.text
        return PreprocessConfig(
            num_frames=video.num_frames,
            height=video.height,
            width=video.width,
            sampling=video.sampling,
            storage=video.storage,
            jpeg_quality=video.jpeg_quality or PreprocessConfig().jpeg_quality,
            num_hops=audio.num_hops,
            sample_rate=audio.sample_rate,
            n_fft=audio.n_fft,
            hop_length=audio.hop_length,
            num_mels=audio.num_mels,
            scale=audio.scale,
            log_epsilon=audio.log_epsilon,
            text_encoder=text.tokenizer,
            max_tokens=text.max_tokens,
            context_utterances=text.context_utterances,
            samples_per_shard=self.samples_per_shard,
            test_clips=self.test_clips,
            decoder=cast("Decoder", video.decoder),
        )


def read_claim(out: Path) -> Claim:
    """Read with what the shards of a folder are made.

    Raises:
        ShardError: if there is no such file, or it cannot be read.
    """
    path = out / CLAIM_NAME
    try:
        value = json.loads(path.read_bytes())
        return Claim(
            adapter=value["adapter"],
            samples_per_shard=int(value["samples_per_shard"]),
            test_clips=value["test_clips"],
            label_sets=tuple(LabelSet(task=item["task"], names=tuple(item["names"])) for item in value["label_sets"]),
            spec=FeatureSpec.from_json(value["spec"]),
        )
    except FileNotFoundError as exc:
        then = "give the folder that `mmsent preprocess --out` made"
        raise ShardError(describe(f"there is no {CLAIM_NAME}", file=out, then=then)) from exc
    except (ValueError, TypeError, KeyError, ShardError) as exc:
        what, then = f"how the shards were made cannot be read: {exc}", f"choose another --out, or delete {out}"
        raise ShardError(describe(what, file=path, then=then)) from exc


def check_claim(out: Path, ours: Claim, *, remake: bool) -> list[str]:
    """Make sure that a folder is ours to write: new, empty, or with shards that this run may bring up to date.

    Log-mels and tokens are made again where their making has changed. Pictures are hours of decoding, so they are given
    up only when asked to.

    Returns:
        In what the shards there differ from those to make, in words: theirs against ours.

    Raises:
        SpecMismatchError: if pictures would have to be decoded again and `remake` does not say so.
        ShardError: if the folder holds something else.
    """
    path = out / CLAIM_NAME
    if path.is_file():
        differences = _differences(read_claim(out), ours)
        costly = [name for name in differences if name.startswith(("video.", "samples_per_shard"))]
        if costly and not remake:
            what = "every picture would be decoded again (there against asked): " + "; ".join(costly)
            then = "choose another --out, ask for the same, or accept it with --remake"
            raise SpecMismatchError(describe(what, file=path, then=then))
        return differences
    # Hidden files do not count: a run killed while it wrote its claim leaves one.
    if out.exists() and (not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir())):
        what = "--out is not empty and holds no shards of ours"
        raise ShardError(describe(what, file=out, then="choose another folder"))
    return []


def write_claim(out: Path, ours: Claim) -> None:
    """Publish with what the shards of a folder are made, unless that is known."""
    content = canonical_json(ours.to_json())
    path = out / CLAIM_NAME
    if not path.is_file() or path.read_bytes() != content:
        publish(path, content)


def _differences(there: Claim, asked: Claim) -> list[str]:
    found = [str(item) for item in there.spec.differences(asked.spec, provenance=True)]
    before, now = there.samples_per_shard, asked.samples_per_shard
    return found if before == now else [*found, f"samples_per_shard: {before} against {now}"]
