"""Video, audio and text encoders: part of a batch -> features `(B, D)`.

Shape letters: B batch, C channels, T frames, H height, W width, M mel bins, S hops, L tokens, D feature width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmsent.batch import normalise_frames
from mmsent.errors import EncoderError
from mmsent.precision import conv3d_autocast
from shards.errors import describe
from shards.schema import SCRATCH, TextSpec

__all__ = ["AudioEncoder", "TextEncoder", "VideoEncoder", "load_r3d_18", "load_text_model", "scratch_text_config"]


class VideoEncoder(nn.Module):
    """r3d_18 (https://arxiv.org/abs/1711.11248) -> Linear -> ReLU -> Dropout."""

    def __init__(self, backbone: nn.Module, *, feature_dim: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.Linear(512, feature_dim), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, frames: Tensor) -> Tensor:
        """Encode `(B, C, T, H, W)` uint8 to `(B, D)`.

        Raises:
            EncoderError: if a batch in training leaves batch normalisation a single value per channel.
        """
        num_clips, _, num_frames, height, width = frames.shape
        if self.backbone.training and num_clips == 1 and num_frames <= 8 and max(height, width) <= 16:
            what = f"a batch has one clip, of which r3d_18 leaves one value: {num_frames} frames of {height}x{width}"
            then = "make shards with more `--frames` or a larger `--size`, or take another `--batch-size`"
            raise EncoderError(describe(what, then=then))
        with conv3d_autocast(self.backbone, frames.device):
            hidden = self.backbone(normalise_frames(frames))  # (B, 512)
        features: Tensor = self.head(hidden)
        return features


class TextEncoder(nn.Module):
    """A Hugging Face encoder's pooled output -> Linear."""

    def __init__(self, backbone: nn.Module, *, hidden_dim: int, feature_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(hidden_dim, feature_dim)

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Encode `(B, L)` int64 with mask `(B, L)` bool to `(B, D)`."""
        pooled = self.backbone(input_ids=tokens, attention_mask=token_mask.long()).pooler_output  # (B, hidden)
        features: Tensor = self.head(pooled)
        return features


class AudioEncoder(nn.Module):
    """Two convolutions over the log-mel, mean over time -> Linear -> ReLU -> Dropout. Always trained.

    Padding never changes a result: it is set to zero before each convolution, batch statistics and the mean are over
    real hops alone. The log-mel is standardised per mel bin by statistics of the training split, kept with the weights.
    """

    logmel_mean: Tensor
    logmel_std: Tensor

    def __init__(self, *, num_mels: int, feature_dim: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("logmel_mean", torch.zeros(num_mels))
        self.register_buffer("logmel_std", torch.ones(num_mels))
        self.conv1 = nn.Conv1d(num_mels, 64, kernel_size=3, padding=1)
        self.norm1 = MaskedBatchNorm1d(64)
        self.conv2 = nn.Conv1d(64, 128, kernel_size=3, padding=1)
        self.norm2 = MaskedBatchNorm1d(128)
        self.head = nn.Sequential(nn.Linear(128, feature_dim), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, logmel: Tensor, num_hops: Tensor) -> Tensor:
        """Encode `(B, M, S)` with real lengths `(B,)` to `(B, D)`."""
        mask = _length_mask(num_hops, logmel.shape[2])  # (B, 1, S)
        x = (logmel.float() - self.logmel_mean.view(-1, 1)) / self.logmel_std.view(-1, 1)
        x = x.masked_fill(~mask, 0)
        x = F.relu(self.norm1(self.conv1(x), mask)).masked_fill(~mask, 0)
        x = F.max_pool1d(x, 2, ceil_mode=True)  # (B, 64, S / 2); a zero of the padding is never above a ReLU's output
        num_hops = (num_hops + 1) // 2
        mask = _length_mask(num_hops, x.shape[2])
        x = F.relu(self.norm2(self.conv2(x), mask))
        pooled = x.masked_fill(~mask, 0).sum(dim=2) / num_hops.clamp(min=1).unsqueeze(1)  # (B, 128)
        features: Tensor = self.head(pooled)
        return features


class MaskedBatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation whose statistics are over the real steps alone. Same parameters and buffers."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise `(B, C, T)`, mask `(B, 1, T)` bool, True where a step is real; float32 whatever the autocast."""
        x = x.float()
        mean, var = self.running_mean, self.running_var
        assert mean is not None
        assert var is not None
        assert self.momentum is not None
        if self.training:
            count = mask.sum().clamp(min=1)
            mean_now = x.masked_fill(~mask, 0).sum(dim=(0, 2)) / count
            var_now = (x - mean_now.view(-1, 1)).square().masked_fill(~mask, 0).sum(dim=(0, 2)) / count
            with torch.no_grad():
                mean.lerp_(mean_now, self.momentum)
                var.lerp_(var_now * count / (count - 1).clamp(min=1), self.momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
            mean, var = mean_now, var_now
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (x - mean.view(-1, 1)) * scale.view(-1, 1) + self.bias.view(-1, 1)


def load_r3d_18(weights: str) -> nn.Module:
    """Return r3d_18 without its classifier: `(B, C, T, H, W)` float -> `(B, 512)`.

    Args:
        weights: `kinetics`, `none`, or the path of a state dict (.pth, .safetensors).

    Raises:
        EncoderError: if the weights cannot be had or do not fit, with the remedy.
    """
    from torchvision.models.video import R3D_18_Weights, r3d_18

    if weights == "kinetics":
        pretrained = R3D_18_Weights.KINETICS400_V1
        try:
            model = r3d_18(weights=pretrained)
        except OSError as exc:
            what = f"the Kinetics weights of r3d_18 cannot be downloaded: {exc}"
            then = f"fetch {pretrained.url} elsewhere and give it by `--video-weights PATH`, or `--video-weights none`"
            raise EncoderError(describe(what, then=then)) from exc
    else:
        model = r3d_18(weights=None)
        if weights != "none":
            _load_weights(model, Path(weights))
    model.fc = nn.Identity()
    return model  # type: ignore[no-any-return]


def scratch_text_config(spec: TextSpec) -> dict[str, Any]:
    """Return the Hugging Face config of the small BERT for a tokenizer learned from the training texts."""
    return {
        "model_type": "bert",
        "vocab_size": spec.vocab_size,
        "pad_token_id": spec.pad_id,
        "max_position_embeddings": spec.max_tokens,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        # BERT's 0.02 is for 768 wide and a billion words; so small a network learns faster from livelier weights
        # (demo, text alone, 8 epochs: test accuracy 0.41 and 0.47 with 0.02, 0.54 and 0.55 with 0.05).
        "initializer_range": 0.05,
    }


def load_text_model(name: str, *, config: dict[str, Any] | None, spec: TextSpec) -> Any:
    """Return a Hugging Face encoder with a pooled output.

    Args:
        name: Hugging Face name, local folder, or `scratch`.
        config: If given, build from it with random weights, to be filled from a checkpoint: no network is needed.
        spec: What the tokens are.

    Raises:
        EncoderError: if the encoder cannot be had, has no pooled output, or is not for these tokens.
    """
    import transformers

    auto_model: Any = transformers.AutoModel  # its methods are not typed
    if config is None and name == SCRATCH:
        config = scratch_text_config(spec)
    if config is not None:
        values = dict(config)
        model = auto_model.from_config(transformers.AutoConfig.for_model(values.pop("model_type"), **values))
    else:
        try:
            model = auto_model.from_pretrained(name)
        except (OSError, ValueError) as exc:  # no network, no such model, no such folder: all are one of these
            reason = str(exc).strip().splitlines() or [type(exc).__name__]
            then = (
                f"with a network, run `hf download {name}` once; or give a local folder; "
                f"or train a small one with `--text-encoder {SCRATCH}` (on shards made with it)"
            )
            what = f"the text encoder {name!r} is neither a folder here nor to be had from the Hugging Face hub"
            raise EncoderError(describe(f"{what} ({reason[0]})", then=then)) from exc
    if getattr(model, "pooler", None) is None:
        then = "choose a BERT-style encoder such as bert-base-uncased"
        raise EncoderError(describe(f"text encoder {name!r} has no pooled output", then=then))
    if model.config.vocab_size < spec.vocab_size:
        what = f"text encoder {name!r} knows {model.config.vocab_size} tokens, the shards use {spec.vocab_size}"
        raise EncoderError(describe(what, then=f"make the shards with `--text-encoder {name}`"))
    return model


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
        missing, unexpected = model.load_state_dict(state, strict=False)
    except Exception as exc:  # the readers raise anything, from OSError to UnpicklingError, on a foreign file
        reason = str(exc).strip().splitlines() or ["no more is known"]
        what = f"the weights of r3d_18 cannot be read: {type(exc).__name__}: {reason[0]}"
        raise EncoderError(describe(what, file=path, then="give a state dict of torchvision's r3d_18")) from exc
    missing = [name for name in missing if not name.startswith("fc.")]
    if missing or unexpected:
        what = f"the weights are not those of r3d_18: {len(missing)} missing, {len(unexpected)} unknown"
        raise EncoderError(describe(what, file=path, then="give a state dict of torchvision's r3d_18"))


def _length_mask(lengths: Tensor, size: int) -> Tensor:
    """Return `(B, 1, size)` bool, True below each length."""
    return (torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)).unsqueeze(1)
