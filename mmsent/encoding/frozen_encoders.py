"""Encoders as they are, on a device: samples of a split -> features.

Shape letters: n samples, W width of an encoder's output.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmsent.batches.batch import host_memory
from mmsent.batches.device_feed import DeviceFeed
from mmsent.compute.memory import device_memory_named
from mmsent.compute.precision import ResolvedPrecision, autocast
from mmsent.config import ModelConfig
from mmsent.errors import CheckpointError, EncoderError
from mmsent.model.checks import config_for
from mmsent.model.multimodal import MultimodalModel
from mmsent.model.weights import weights_sha256
from mmsent.runs.checkpoint import check_fit, load_checkpoint, restore_model
from mmsent.runs.folder import BEST, seed_folders
from shards.errors import SpecMismatchError, describe
from shards.order.orders import InOrder
from shards.reading.loader import ShardLoader
from shards.reading.planner import LoaderState
from shards.reading.split import Split
from shards.schema import Modality
from shards.spec import Encoding, FeatureSpec

__all__ = ["FrozenEncoders", "Pretrained", "Run"]

_AUDIO_ENCODER = "conv1d"
"""Name of the one audio encoder there is."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """The encoders that a model would start from."""

    config: ModelConfig
    """Whose `modalities` are those to encode."""


@dataclass(frozen=True, slots=True)
class Run:
    """The encoders of a run's best checkpoint, with what they have learned."""

    directory: Path
    modalities: tuple[Modality, ...]
    """To encode."""


class FrozenEncoders:
    """Backbones on a device, and what they are called."""

    def __init__(
        self,
        model: MultimodalModel,
        encodings: Mapping[Modality, Encoding],
        *,
        device: torch.device,
        precision: ResolvedPrecision,
    ) -> None:
        """Use `of`."""
        self.encodings = encodings
        self.device = device
        self.precision = precision
        self._model = model.place(device, precision).eval()

    @classmethod
    def of(
        cls, encoders: Pretrained | Run, split: Split, *, device: torch.device, precision: ResolvedPrecision
    ) -> "FrozenEncoders":
        """Build the encoders for the samples of a split.

        Raises:
            EncoderError: if one cannot be had, starts from random weights, or the run has none.
            CheckpointError: if the run has no best checkpoint, or it is damaged.
            SpecMismatchError: if the run does not fit the samples, or these are encoded already.
        """
        modalities = encoders.config.modalities if isinstance(encoders, Pretrained) else encoders.modalities
        if done := [name for name in modalities if name in split.spec.encoded]:
            what = f"the shards hold {' and '.join(done)} as outputs of an encoder already"
            then = "give the raw shards, or leave it out of `--modalities`"
            raise SpecMismatchError(describe(what, file=split.source.location, then=then))
        if isinstance(encoders, Pretrained):
            config = config_for(encoders.config, split.spec)
            _check_pretrained(config)
            model = MultimodalModel(config, spec=split.spec, label_sets=split.label_sets, pretrained=True)
        else:
            path = encoders.directory / BEST
            if not path.exists() and (seeds := seed_folders(encoders.directory)):
                then = f"give the run of one of them, like {next(iter(seeds.values()))}"
                what = "the folder holds the runs of several seeds"
                raise CheckpointError(describe(what, file=encoders.directory, then=then))
            checkpoint = load_checkpoint(path)
            check_fit(checkpoint, split, path=path)
            config = checkpoint.model_config
            if lacking := [name for name in modalities if name not in config.modalities]:
                what = f"the run has no encoder of {' and '.join(lacking)}, only of {', '.join(config.modalities)}"
                raise EncoderError(describe(what, file=path, then="leave it out of `--modalities`"))
            model = restore_model(checkpoint, encoders.directory)
        called = {"video": config.video_encoder, "audio": _AUDIO_ENCODER, "text": split.spec.text.tokenizer}
        encodings = {}
        for name in modalities:
            encoder: Any = model.encoders[name]  # torch says of what a module holds that it is any module or tensor
            encodings[name] = Encoding(
                encoder=called[name],
                weights_sha256=weights_sha256(encoder.backbone),
                pooling=config.text_pooling if name == "text" else "",
                width=encoder.width,
                precision=precision,
            )
        return cls(model, encodings, device=device, precision=precision)

    def spec(self, raw: FeatureSpec) -> FeatureSpec:
        """Return the spec of what is made of samples of `raw`."""
        return replace(raw, encoded={**raw.encoded, **self.encodings})

    def encode(self, split: Split, start: int, stop: int, *, batch_size: int) -> dict[Modality, NDArray[np.float32]]:
        """Return the features `(stop - start, W)` of the samples `start` to `stop - 1`.

        Raises:
            EncoderError: if they are not finite.
        """
        order = InOrder(stop)
        loader = ShardLoader(
            split,
            order=order,
            batch_size=batch_size,
            modalities=tuple(self.encodings),
            allocate=host_memory(self.device),
        )
        loader.seek(LoaderState(order=order.identity, epoch=0, position=start))
        parts: dict[Modality, list[NDArray[np.float32]]] = {name: [] for name in self.encodings}
        memory = device_memory_named(
            "encoding",
            batch_size=batch_size,
            precision=self.precision,
            then=f"pass a smaller `--batch-size`, {max(1, batch_size // 2)} say",
        )
        with torch.inference_mode(), memory:
            for batch in DeviceFeed(loader, self.device):
                for name, found in parts.items():
                    with autocast(self.precision, self.device):
                        features = self._model.encode(name, batch)
                    found.append(features.cpu().numpy().copy())
        joined = {name: np.concatenate(found) for name, found in parts.items()}
        for name, values in joined.items():
            if not np.isfinite(values).all():
                what = f"the {name} encoder gives numbers that are not finite in {self.precision}"
                then = "run it with `--precision fp32`, or bf16 on a GPU that has it"
                raise EncoderError(describe(what, file=split.shard_of(start), then=then))
        return joined


def _check_pretrained(config: ModelConfig) -> None:
    """Refuse to keep the outputs of random weights.

    Raises:
        EncoderError: naming the modality.
    """
    if found := config.random_encoders:
        what = f"the encoder of {' and '.join(found)} starts from random weights, whose outputs are worth nothing"
        then = "take what a run has learned with `--run RUN`, or leave it out of `--modalities`"
        raise EncoderError(describe(what, then=then))
