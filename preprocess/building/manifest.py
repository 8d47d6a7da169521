"""Manifest of an output folder: how its shards are made, and what making them in another way would cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from preprocess.config import DatasetFormat, Decoder, PreprocessConfig, TestClips
from shards.schema import LabelSet
from shards.spec import FeatureSpec
from shards.writing.output_folder import OutputFolder

__all__ = ["MANIFEST_NAME", "Manifest", "shard_folder"]

MANIFEST_NAME = "preprocess.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """How the shards of a folder are made."""

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
            "label_sets": [labels.to_json() for labels in self.label_sets],
            "spec": self.spec.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Manifest":
        """Rebuild a manifest; raises what `shards.writing.output_folder.OutputFolder.parse` may."""
        return cls(
            adapter=value["adapter"],
            samples_per_shard=int(value["samples_per_shard"]),
            test_clips=value["test_clips"],
            label_sets=tuple(map(LabelSet.from_json, value["label_sets"])),
            spec=FeatureSpec.from_json(value["spec"]),
        )

    def differences(self, asked: "Manifest") -> list[str]:
        """Name what was made in another way than is asked for, in words: there against asked."""
        found = [str(item) for item in self.spec.differences(asked.spec, provenance=True)]
        there, now = self.samples_per_shard, asked.samples_per_shard
        return found if there == now else [*found, f"samples_per_shard: {there} against {now}"]

    def refusal(self, differences: Sequence[str]) -> str:
        """Refuse to give pictures up unasked, which are hours of decoding; log-mels and tokens are soon made again."""
        costly = [name for name in differences if name.startswith(("video.", "samples_per_shard"))]
        what = "every picture would be decoded again (there against asked): "
        return what + "; ".join(costly) if costly else ""

    def config(self) -> PreprocessConfig:
        """Return the choices that lead to this manifest; what decides no byte has its default."""
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


def shard_folder(out: Path) -> OutputFolder[Manifest]:
    """Return the folder of a data set's shards, by whose manifest a run knows whether it may change them."""
    return OutputFolder(path=out, manifest_name=MANIFEST_NAME, command="mmsent preprocess", parse=Manifest.from_json)
