"""Fusion and heads: batch -> logits by task.

Shape letters: B samples to be judged, R rows of a batch, n rows that have a modality, W width of a backbone's output,
D feature width, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmsent.batches.batch import Batch
from mmsent.compute.precision import ResolvedPrecision, set_algorithms, set_tf32
from mmsent.config import ModelConfig
from mmsent.errors import EncoderError
from mmsent.model.audio_encoder import AUDIO_WIDTH, AudioBackbone, AudioEncoder
from mmsent.model.channels_last import use_channels_last
from mmsent.model.checks import check_encoded_weights, check_encoding, check_tokenizer, config_for
from mmsent.model.fusion import DialogueGru, GatedFusion
from mmsent.model.text_encoder import TextEncoder, load_text_model
from mmsent.model.video_encoder import RESNETS, VideoEncoder, check_clip_size, load_video_model
from mmsent.model.weights import drawn_apart, load_part, weights_sha256
from shards.errors import describe
from shards.schema import LabelSet, Modality
from shards.spec import FeatureSpec

__all__ = ["MultimodalModel"]


class MultimodalModel(nn.Module):
    """One encoder per modality, fusion, if asked a GRU over the dialogue, and one head per task.

    An encoder is a backbone and a head on its output. A modality that the shards hold encoded has no backbone here: the
    head goes on from `batch.features`. One that a sample does not have gives zeros, and its encoder does not see the
    sample at all, so neither its batch statistics nor its gradient know of it.
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
        self.config = config = config_for(config, spec)
        encoded = spec.encoded
        self._encoded = frozenset(name for name in config.modalities if name in encoded)
        raw = [name for name in config.modalities if name not in self._encoded]
        for name in self._encoded:
            check_encoding(name, config, encoded[name])
            if pretrained:
                check_encoded_weights(name, config, spec)
        if pretrained and "text" in raw:
            check_tokenizer(config.text_encoder, spec.text)  # before weights are downloaded, perhaps in vain
        self._finetuned = tuple(name for name in raw if name in config.train_encoders)
        self._frozen = frozenset(name for name in raw if name not in (*config.random_encoders, *self._finetuned))
        self.encoders = nn.ModuleDict()
        for name in config.modalities:
            width = encoded[name].width if name in self._encoded else 0
            self.encoders[name] = _encoder(name, config, spec, text_config, pretrained=pretrained, encoded_width=width)
        for name in self._frozen:
            self.backbone(name).requires_grad_(False)
        fused = config.feature_dim * len(config.modalities)
        if config.fusion == "gated":
            self.gated = GatedFusion(num_modalities=len(config.modalities), feature_dim=config.feature_dim)
            fused = config.feature_dim
        self.fusion = nn.Sequential(nn.Linear(fused, config.fusion_dim), nn.ReLU(), nn.Dropout(config.fusion_dropout))
        if config.dialogue_turns > 1:
            self.dialogue = DialogueGru(dim=config.fusion_dim)
        # Not by the task's name alone: `type` or `values`, say, is a method of every ModuleDict, which then refuses it.
        self.heads = nn.ModuleDict(
            {f"{one.task}_head": nn.Linear(config.fusion_dim, len(one.names)) for one in label_sets}
        )
        self._tasks = tuple(one.task for one in label_sets)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return logits `(B, K)` float32 by task.

        Every parameter that is trained gets a gradient, if only of zeros, whatever the batch lacks: processes that
        train together wait for each other's gradients.
        """
        features = [self._features(name, batch) for name in self.config.modalities]
        joined = self.gated(features) if self.config.fusion == "gated" else torch.cat(features, dim=1)
        fused = self.fusion(joined)  # (R, fusion_dim)
        if self.config.dialogue_turns > 1:
            judged = self.dialogue(fused, batch.window[:, -self.config.dialogue_turns :])
        else:
            judged = fused[: len(batch)]
        return {task: self.heads[f"{task}_head"](judged).float() for task in self._tasks}

    def encode(self, name: Modality, batch: Batch) -> Tensor:
        """Return what a backbone makes of a modality, `(R, W)` float32, zeros in the rows that do not have it."""
        return _spread(self._hidden(name, batch).float(), batch.rows[name], num_rows=batch.num_rows)

    def train(self, mode: bool = True) -> "MultimodalModel":
        """Set the mode; frozen encoders stay in evaluation, so their batch statistics and dropout do not move."""
        super().train(mode)
        for name in self._frozen:
            self.backbone(name).eval()
        return self

    def place(
        self, device: torch.device, precision: ResolvedPrecision, *, deterministic: bool = False
    ) -> "MultimodalModel":
        """Move the model to a device, as it computes fastest there: TF32, and channels-last weights on a GPU."""
        set_tf32(device)
        set_algorithms(device, deterministic=deterministic)
        if device.type == "cuda" and "text" in self.encoders and "text" not in self._encoded:
            text = self.encoders["text"]
            assert isinstance(text, TextEncoder)
            text.use_whole_mask()
        self.to(device)
        if device.type == "cuda" and precision != "fp32":
            self.use_channels_last()
        return self

    def use_channels_last(self) -> None:
        """Lay out a convolutional video backbone as its frames are, see `mmsent.model.channels_last`.

        For GPUs in half precision; on a CPU it is slower, see docs/model.md.
        """
        if "video" in self.encoders and "video" not in self._encoded and self.config.video_encoder in RESNETS:
            use_channels_last(self.backbone("video"))

    def frozen_state(self) -> dict[str, Tensor]:
        """Return the part of the state dict that training never changes: what frozen backbones are made of."""
        return {key: value for key, value in self.state_dict().items() if self._is_frozen(key)}

    def trained_state(self) -> dict[str, Tensor]:
        """Return the rest of the state dict."""
        return {key: value for key, value in self.state_dict().items() if not self._is_frozen(key)}

    def load_frozen_state(self, state: Mapping[str, Tensor]) -> None:
        """Fill what `frozen_state` returns; `RuntimeError` if the tensors are not exactly those."""
        load_part(self, state, names=self.frozen_state())

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Fill what `trained_state` returns; `RuntimeError` if the tensors are not exactly those."""
        load_part(self, state, names=self.trained_state())

    @property
    def finetuned_modalities(self) -> tuple[Modality, ...]:
        """Those whose pre-trained backbone is trained."""
        return tuple(self._finetuned)

    @property
    def frozen_modalities(self) -> tuple[Modality, ...]:
        """Those whose pre-trained backbone is not trained."""
        return tuple(name for name in self.config.modalities if name in self._frozen)

    def frozen_sha256(self) -> dict[str, str]:
        """Return the digest of the weights of each frozen backbone by modality."""
        return {name: weights_sha256(self.backbone(name)) for name in self.frozen_modalities}

    def compile_encoders(self, *, num_rows: int) -> None:
        """Compile the backbone of text, and that of video if it is trained, at their first use.

        Text is compiled for any number of rows and tokens. Video is compiled for whole batches alone, since code for
        any number is slow to make and slow to run; a frozen one is no faster compiled (docs/gpu.md).

        Args:
            num_rows: Rows of a whole batch.

        Raises:
            EncoderError: if the model has neither.
        """
        compiled = 0
        for name in self.config.modalities:
            encoder = self.encoders[name]
            if name in self._encoded:
                continue
            if isinstance(encoder, TextEncoder):
                encoder.compile_backbone()
                compiled += 1
            elif isinstance(encoder, VideoEncoder) and name not in self._frozen and self.config.dialogue_turns == 1:
                encoder.compile_backbone(num_rows=num_rows)
                compiled += 1
        if not compiled:
            what = "there is nothing to compile: the model has no backbone of text, and none of video that is trained"
            raise EncoderError(describe(what, then="take `--set train.compile=true` back"))

    def text_config(self) -> dict[str, Any] | None:
        """Return the Hugging Face config of the text encoder, with which a checkpoint is rebuilt without a network."""
        if "text" not in self.encoders or "text" in self._encoded:
            return None
        backbone: Any = self.backbone("text")
        config: dict[str, Any] = backbone.config.to_diff_dict()
        return {**config, "model_type": backbone.config.model_type}

    def set_logmel_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set what the log-mel is standardised by, `(M,)` each; it is not encoded."""
        backbone = self.backbone("audio")
        assert isinstance(backbone, AudioBackbone)
        backbone.logmel_mean.copy_(mean)
        backbone.logmel_std.copy_(std)

    def backbone(self, name: Modality) -> nn.Module:
        """Return the network of a modality below its head."""
        backbone = self.encoders[name].backbone
        assert isinstance(backbone, nn.Module)
        return backbone

    def _is_frozen(self, key: str) -> bool:
        return any(key.startswith(f"encoders.{name}.backbone.") for name in self._frozen)

    def _features(self, name: Modality, batch: Batch) -> Tensor:
        """Return `(R, D)`, zeros in the rows that do not have the modality."""
        head = self.encoders[name].head
        assert isinstance(head, nn.Module)
        return _spread(head(self._hidden(name, batch)), batch.rows[name], num_rows=batch.num_rows)

    def _hidden(self, name: Modality, batch: Batch) -> Tensor:
        """Return `(n, W)` of a backbone, or what it once gave."""
        rows = batch.rows[name]
        if name in self._encoded:
            return _rows_of(batch.features[name], rows)
        encoder: Any = self.encoders[name]
        if name == "audio":  # without rows, too: its batch statistics are a matter of all processes
            hidden = None if batch.logmel_hidden is None else _rows_of(batch.logmel_hidden, rows)
            pooled: Tensor = encoder.encode(_rows_of(batch.logmel, rows), _rows_of(batch.num_hops, rows), hidden)
            return pooled
        if not len(rows):
            empty = torch.zeros(0, encoder.width, device=rows.device)
            return empty if name in self._frozen else empty + self._nothing(name)
        arrays = (batch.frames,) if name == "video" else (batch.tokens, batch.token_mask)
        chosen = [_rows_of(array, rows) for array in arrays]
        output: Tensor
        if name not in self._frozen:
            output = encoder.encode(*chosen)
            return output
        with torch.inference_mode():
            output = encoder.encode(*chosen)
        return output.clone()  # what was made in inference mode can be no part of a graph

    def _nothing(self, name: Modality) -> Tensor:
        """Return a zero of which the trained parameters of a backbone are part, at the place where it would have run.

        Ranks exchange gradients in the order in which they come; where the zero was added after the fusion, those of an
        idle backbone came before what audio's batch normalisation exchanges, on other ranks after it, and they met.
        """
        sums = [item.sum() for item in self.backbone(name).parameters() if item.requires_grad]
        return 0 * torch.stack(sums).sum()


def _rows_of(array: Tensor, rows: Tensor) -> Tensor:
    # Indexing keeps channels-last memory, which `index_select` does not.
    return array if len(rows) == len(array) else array[rows]


def _spread(values: Tensor, rows: Tensor, *, num_rows: int) -> Tensor:
    """Return `(R, D)` with `(n, D)` at `rows` and zeros elsewhere."""
    if len(rows) == num_rows:
        return values
    everywhere = torch.zeros(num_rows, values.shape[1], device=values.device)
    return everywhere.index_copy(0, rows, values.float())


def _encoder(
    name: Modality,
    config: ModelConfig,
    spec: FeatureSpec,
    text_config: dict[str, Any] | None,
    *,
    pretrained: bool,
    encoded_width: int,
) -> nn.Module:
    """Build an encoder, without a backbone where its output is there with a width above 0."""
    feature_dim, dropout = config.feature_dim, config.encoder_dropout
    if name == "audio":
        with drawn_apart(name):
            audio = None if encoded_width else AudioBackbone(num_mels=spec.audio.num_mels)
        return AudioEncoder(audio, width=encoded_width or AUDIO_WIDTH, feature_dim=feature_dim, dropout=dropout)
    if name == "video":
        video, width = None, encoded_width
        if not encoded_width:
            check_clip_size(config.video_encoder, spec.video)
            with drawn_apart(name):
                video, width = load_video_model(config.video_encoder, config.video_weights if pretrained else "none")
        return VideoEncoder(config.video_encoder, video, width=width, feature_dim=feature_dim, dropout=dropout)
    text, width = None, encoded_width
    if not encoded_width:
        text_config = None if pretrained else text_config
        with drawn_apart(name):
            text = load_text_model(config.text_encoder, pooling=config.text_pooling, config=text_config, spec=spec.text)
        width = text.config.hidden_size
    context = spec.text.context_utterances > 0
    return TextEncoder(text, pooling=config.text_pooling, width=width, feature_dim=feature_dim, context=context)
