"""The video encoders: part of a batch -> features `(n, D)`.

Shape letters: n rows, C channels, T frames, H height, W width of a frame or of a backbone, D feature width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmsent.batches.batch import normalise_frames
from mmsent.compute.precision import conv3d_autocast
from mmsent.config import VideoEncoderName
from mmsent.errors import EncoderError
from shards.errors import describe
from shards.spec import VideoSpec

__all__ = ["RESNETS", "VideoEncoder", "check_clip_size", "load_video_model"]

RESNETS = ("r3d_18", "mc3_18", "r2plus1d_18")
"""Convolutional, with batch normalisation; the others are transformers."""

_FIXED_SIZE = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224)}
"""Frames and side of the picture that the position embeddings of a model are for; others take any."""


class VideoEncoder(nn.Module):
    """A video model of torchvision without its classifier -> Linear -> ReLU -> Dropout."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: VideoEncoderName, backbone: nn.Module | None, *, width: int, feature_dim: int, dropout: float
    ) -> None:
        """Put an encoder together.

        Args:
            name: Of the backbone: it says what frames are scaled by.
            backbone: As of `load_video_model`; without one the encoder goes on from what it gave before.
            width: Of the backbone's output.
            feature_dim: D.
            dropout: Of the features.
        """
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.head = nn.Sequential(nn.Linear(width, feature_dim), nn.ReLU(), nn.Dropout(dropout))
        self._name = name
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._compiled_rows = 0
        preset = _weights(name).transforms()
        # No part of the weights: they follow from the name.
        self.register_buffer("mean", torch.tensor(preset.mean), persistent=False)
        self.register_buffer("std", torch.tensor(preset.std), persistent=False)

    def encode(self, frames: Tensor) -> Tensor:
        """Return `(n, W)` of the backbone for `(n, C, T, H, W)` from 0 to 255, n at least 1.

        Raises:
            EncoderError: if a batch in training leaves batch normalisation a single value per channel.
        """
        assert self.backbone is not None
        if self.backbone.training and self._name in RESNETS:
            self._check_batch_statistics(frames)
        with conv3d_autocast(self.backbone, frames.device):
            x = normalise_frames(frames, mean=self.mean, std=self.std)
            whole = self._compiled is not None and len(frames) == self._compiled_rows
            hidden: Tensor = self._compiled(x) if self._compiled is not None and whole else self.backbone(x)
        return hidden

    def compile_backbone(self, *, num_rows: int) -> None:
        """Compile the backbone for batches of so many rows; others run as they did."""
        assert self.backbone is not None
        # The method, not the module: a compiled module would be one more under other names.
        self._compiled = torch.compile(self.backbone.forward, dynamic=False)
        self._compiled_rows = num_rows

    def forward(self, frames: Tensor) -> Tensor:
        """Encode `(n, C, T, H, W)` to `(n, D)`, as `encode`."""
        features: Tensor = self.head(self.encode(frames))
        return features

    def _check_batch_statistics(self, frames: Tensor) -> None:
        num_clips, _, num_frames, height, width = frames.shape
        most_frames = 1 if self._name == "mc3_18" else 8  # whose strides leave one; mc3_18 keeps all frames to the end
        if num_clips == 1 and num_frames <= most_frames and max(height, width) <= 16:
            clip = f"{num_frames} frames of {height}x{width}"
            what = f"a batch has one clip, of which {self._name} leaves one value: {clip}"
            then = "make shards with more `--frames` or a larger `--size`, or take another `--batch-size`"
            raise EncoderError(describe(what, then=then))


def load_video_model(name: VideoEncoderName, weights: str) -> tuple[nn.Module, int]:
    """Return a video model without its classifier, `(n, C, T, H, W)` float -> `(n, W)`, and W.

    Args:
        name: Of torchvision.
        weights: `kinetics`, `none`, or the path of a state dict (.pth, .safetensors).

    Raises:
        EncoderError: if the weights cannot be had or do not fit, with the remedy.
    """
    from torchvision.models import get_model

    model = get_model(name, weights=None)
    if weights == "kinetics":
        _fill(model, _kinetics_state(name), name=name, path=_kinetics_path(name))
    elif weights != "none":
        _fill(model, _read_state(Path(weights), name=name), name=name, path=Path(weights))
    classifier = _classifier(name)
    *_, last = getattr(model, classifier).modules()  # the layer itself, or the last one of a row
    setattr(model, classifier, nn.Identity())
    return model, last.in_features


def check_clip_size(name: VideoEncoderName, spec: VideoSpec) -> None:
    """Refuse shards whose clips a model cannot take.

    Raises:
        EncoderError: with the shards that would fit.
    """
    num_frames, size = _FIXED_SIZE.get(name, (spec.num_frames, 0))
    if size and (spec.num_frames, spec.height, spec.width) != (num_frames, size, size):
        have = f"{spec.num_frames} frames of {spec.height}x{spec.width}"
        what = f"{name} takes {num_frames} frames of {size}x{size} and no others, the shards hold {have}"
        then = (
            f"make shards with `mmsent preprocess --frames {num_frames} --size {size}x{size}`, or take another encoder"
        )
        raise EncoderError(describe(what, then=then))


def _weights(name: VideoEncoderName) -> Any:
    """Return the entry of torchvision's list of weights that `kinetics` means."""
    from torchvision.models import get_model_weights

    return get_model_weights(name)["KINETICS400_V1"]


def _classifier(name: VideoEncoderName) -> str:
    return "fc" if name in RESNETS else "head"


def _kinetics_state(name: VideoEncoderName) -> dict[str, Tensor]:
    """Return torchvision's weights, from its cache or from the network; no code of a pickle runs.

    Raises:
        EncoderError: if they are not to be had, or what the cache holds is damaged.
    """
    pretrained, path = _weights(name), _kinetics_path(name)
    was_there = path.is_file()
    try:
        state: dict[str, Tensor] = pretrained.get_state_dict(check_hash=True, weights_only=True)
    except Exception as exc:  # OSError without a network; of a damaged file anything, from EOFError to UnpicklingError
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        if was_there:
            what, then = f"the Kinetics weights of {name} cannot be read: {reason}", "delete the file"
            raise EncoderError(describe(what, file=path, then=f"{then}: it is downloaded again")) from exc
        what = f"the Kinetics weights of {name} cannot be downloaded: {reason}"
        then = f"fetch {pretrained.url} elsewhere and give it by `--video-weights PATH`, or `--video-weights none`"
        raise EncoderError(describe(what, then=then)) from exc
    return state


def _kinetics_path(name: VideoEncoderName) -> Path:
    """Return where torchvision keeps what it has downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_weights(name).url).name


def _read_state(path: Path, *, name: VideoEncoderName) -> dict[str, Tensor]:
    """Read a state dict.

    Raises:
        EncoderError: if the file is none.
    """
    try:
        state: Any
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state)
    except Exception as exc:  # the readers raise anything, from OSError to UnpicklingError, on a foreign file
        reason = (str(exc).strip().splitlines() or ["no more is known"])[0]
        what = f"the weights of {name} cannot be read: {type(exc).__name__}: {reason}"
        raise EncoderError(describe(what, file=path, then=f"give a state dict of torchvision's {name}")) from exc


def _fill(model: nn.Module, state: dict[str, Tensor], *, name: VideoEncoderName, path: Path) -> None:
    """Give a model the weights of a state dict; those of the classifier are not needed.

    Raises:
        EncoderError: if they are not the model's.
    """
    classifier = f"{_classifier(name)}."
    then = f"give a state dict of torchvision's {name}"
    try:
        state = {key: value for key, value in state.items() if not key.startswith(classifier)}
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, AttributeError, TypeError) as exc:  # other shapes, or no names and tensors at all
        reason = (str(exc).strip().splitlines() or [""])[-1].strip()
        raise EncoderError(describe(f"the weights are not those of {name}: {reason}", file=path, then=then)) from exc
    missing = [key for key in missing if not key.startswith(classifier)]
    if missing or unexpected:
        what = f"the weights are not those of {name}: {len(missing)} missing, {len(unexpected)} unknown"
        raise EncoderError(describe(what, file=path, then=then))
