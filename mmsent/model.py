"""Fusion and heads: batch -> logits by task.

Shape letters: B batch, D feature width, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmsent.batch import Batch
from mmsent.config import ModelConfig
from mmsent.encoders import AudioEncoder, TextEncoder, VideoEncoder, load_r3d_18, load_text_model
from mmsent.errors import EncoderError
from shards.errors import describe
from shards.foreign import UNKNOWN
from shards.schema import SCRATCH, FeatureSpec, LabelSet, Modality, TextSpec

__all__ = ["MultimodalModel"]


class MultimodalModel(nn.Module):
    """One encoder per modality, concatenation, a fusion layer, and one head per task.

    A modality that a sample does not have gives zeros, and its encoder does not see the sample at all, so neither its
    batch statistics nor its gradient know of it.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        spec: FeatureSpec,
        label_sets: Sequence[LabelSet],
        text_config: dict[str, Any] | None = None,
        pretrained: bool,
    ) -> None:
        """Build the network.

        Args:
            config: What to build.
            spec: How the samples were made.
            label_sets: One head for each.
            text_config: Hugging Face config of the text encoder, from a checkpoint.
            pretrained: False builds without downloading any weights, to be filled from a checkpoint.

        Raises:
            EncoderError: if an encoder cannot be had or does not fit the samples.
        """
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict()
        self._frozen: list[nn.Module] = []
        self._finetuned: list[nn.Module] = []
        if pretrained and "text" in config.modalities:
            _check_tokenizer(config.text_encoder, spec.text)  # before weights are downloaded, perhaps in vain
        for name in config.modalities:
            self.encoders[name] = self._encoder(name, spec, text_config, pretrained=pretrained)
        fused = config.feature_dim * len(config.modalities)
        self.fusion = nn.Sequential(nn.Linear(fused, config.fusion_dim), nn.ReLU(), nn.Dropout(config.fusion_dropout))
        # Not by the task's name alone: `type` or `values`, say, is a method of every ModuleDict, which then refuses it.
        self.heads = nn.ModuleDict(
            {f"{one.task}_head": nn.Linear(config.fusion_dim, len(one.names)) for one in label_sets}
        )
        self._tasks = tuple(one.task for one in label_sets)
        for module in self._frozen:
            module.requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return logits `(B, K)` float32 by task."""
        features = torch.cat([self._features(name, batch) for name in self.config.modalities], dim=1)
        fused = self.fusion(features)  # (B, fusion_dim)
        return {task: self.heads[f"{task}_head"](fused).float() for task in self._tasks}

    def train(self, mode: bool = True) -> "MultimodalModel":
        """Set the mode; frozen encoders stay in evaluation, so their batch statistics and dropout do not move."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def parameter_groups(self, *, learning_rate: float, encoder_learning_rate: float) -> list[dict[str, Any]]:
        """Return what an optimizer trains: pre-trained encoders at their own rate, frozen ones not at all."""
        finetuned = [parameter for module in self._finetuned for parameter in module.parameters()]
        ids = {id(parameter) for parameter in finetuned}
        rest = [item for item in self.parameters() if item.requires_grad and id(item) not in ids]
        groups = [{"params": rest, "lr": learning_rate}]
        if finetuned:
            groups.append({"params": finetuned, "lr": encoder_learning_rate})
        return groups

    def text_config(self) -> dict[str, Any] | None:
        """Return the Hugging Face config of the text encoder, with which a checkpoint is rebuilt without a network."""
        if "text" not in self.encoders:
            return None
        backbone: Any = self.encoders["text"].backbone
        config: dict[str, Any] = backbone.config.to_diff_dict()
        return {**config, "model_type": backbone.config.model_type}

    def set_logmel_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set what the log-mel is standardised by, `(M,)` each."""
        audio = self.encoders["audio"]
        assert isinstance(audio, AudioEncoder)
        audio.logmel_mean.copy_(mean)
        audio.logmel_std.copy_(std)

    def _features(self, name: Modality, batch: Batch) -> Tensor:
        """Return `(B, D)`, zeros in the rows that do not have the modality."""
        rows = batch.rows[name]
        if len(rows) == len(batch):
            return self._encode(name, batch, slice(None))
        features = torch.zeros(len(batch), self.config.feature_dim, device=rows.device)
        if len(rows):
            features = features.index_copy(0, rows, self._encode(name, batch, rows).float())
        return features

    def _encode(self, name: Modality, batch: Batch, rows: Tensor | slice) -> Tensor:
        encoder = self.encoders[name]
        features: Tensor
        if name == "video":
            features = encoder(batch.frames[rows])
        elif name == "audio":
            features = encoder(batch.logmel[rows], batch.num_hops[rows])
        else:
            features = encoder(batch.tokens[rows], batch.token_mask[rows])
        return features

    def _encoder(
        self, name: Modality, spec: FeatureSpec, text_config: dict[str, Any] | None, *, pretrained: bool
    ) -> nn.Module:
        config = self.config
        if name == "audio":
            return AudioEncoder(
                num_mels=spec.audio.num_mels, feature_dim=config.feature_dim, dropout=config.encoder_dropout
            )
        if name == "video":
            backbone = load_r3d_18(config.video_weights if pretrained else "none")
            self._sort(name, backbone, from_scratch=config.video_weights == "none")
            return VideoEncoder(backbone, feature_dim=config.feature_dim, dropout=config.encoder_dropout)
        backbone = load_text_model(config.text_encoder, config=text_config if not pretrained else None, spec=spec.text)
        self._sort(name, backbone, from_scratch=config.text_encoder == SCRATCH)
        return TextEncoder(backbone, hidden_dim=backbone.config.hidden_size, feature_dim=config.feature_dim)

    def _sort(self, name: Modality, backbone: nn.Module, *, from_scratch: bool) -> None:
        """Decide whether a backbone is frozen, fine-tuned, or trained like everything else."""
        if from_scratch:
            return
        (self._finetuned if name in self.config.train_encoders else self._frozen).append(backbone)


def _check_tokenizer(text_encoder: str, spec: TextSpec) -> None:
    """Refuse shards whose tokens are not those of the text encoder; needs no network.

    Raises:
        EncoderError: with what was asked for, what the shards were made for, and what to do.
    """
    if spec.tokenizer == UNKNOWN and text_encoder != SCRATCH:
        what = "it is not known which tokenizer made the tokens of these shards, which another program wrote"
        then = f"pass `--text-encoder {SCRATCH}`, which learns any tokens, or leave text out of `--modalities`"
        raise EncoderError(describe(what, then=then))
    if _tokenizer_name(text_encoder) != spec.tokenizer != UNKNOWN:
        what = f"the shards were tokenized for text encoder {spec.tokenizer!r}, the model asks for {text_encoder!r}"
        then = (
            f"pass `--text-encoder {spec.tokenizer}`, "
            f"or make shards with `mmsent preprocess --text-encoder {text_encoder}`"
        )
        raise EncoderError(describe(what, then=then))


def _tokenizer_name(text_encoder: str) -> str:
    """Return what a spec calls the tokenizer of an encoder: of a local folder its name alone."""
    folder = Path(text_encoder)
    return folder.resolve().name if folder.is_dir() else text_encoder
