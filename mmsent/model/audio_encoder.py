"""The audio encoder: part of a batch -> features `(n, D)`.

Shape letters: n rows, M mel bins, S hops, C channels, T steps, W width of a backbone, D feature width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmsent.compute.distributed import sum_with_gradient

__all__ = ["AUDIO_WIDTH", "AudioBackbone", "AudioEncoder", "MaskedBatchNorm1d"]

AUDIO_WIDTH = 128
"""Channels of the second convolution, which the backbone gives after the mean over time."""


class AudioEncoder(nn.Module):
    """Two convolutions over the log-mel, mean over time -> Linear -> ReLU -> Dropout. Always trained."""

    def __init__(self, backbone: "AudioBackbone | None", *, width: int, feature_dim: int, dropout: float) -> None:
        """Put an encoder together; without a backbone it goes on from `width` values that one gave before."""
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.head = nn.Sequential(nn.Linear(width, feature_dim), nn.ReLU(), nn.Dropout(dropout))

    def encode(self, logmel: Tensor, num_hops: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return `(n, W)` of the backbone, as `AudioBackbone.forward`."""
        assert self.backbone is not None
        pooled: Tensor = self.backbone(logmel, num_hops, hidden)
        return pooled

    def forward(self, logmel: Tensor, num_hops: Tensor) -> Tensor:
        """Encode `(n, M, S)` with real lengths `(n,)` to `(n, D)`."""
        features: Tensor = self.head(self.encode(logmel, num_hops))
        return features


class AudioBackbone(nn.Module):
    """Two convolutions over the log-mel and the mean over time.

    Padding never changes a result: it is set to zero before each convolution, batch statistics and the mean are over
    real hops alone. The log-mel is standardised per mel bin by statistics of the training split, kept with the weights.
    """

    logmel_mean: Tensor
    logmel_std: Tensor

    def __init__(self, *, num_mels: int) -> None:
        super().__init__()
        self.register_buffer("logmel_mean", torch.zeros(num_mels))
        self.register_buffer("logmel_std", torch.ones(num_mels))
        self.conv1 = nn.Conv1d(num_mels, 64, kernel_size=3, padding=1)
        self.norm1 = MaskedBatchNorm1d(64)
        self.conv2 = nn.Conv1d(64, AUDIO_WIDTH, kernel_size=3, padding=1)
        self.norm2 = MaskedBatchNorm1d(AUDIO_WIDTH)

    def forward(self, logmel: Tensor, num_hops: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Encode a log-mel.

        Args:
            logmel: `(n, M, S)`, n may be 0; padding may hold anything, NaN included.
            num_hops: `(n,)`, how many hops are real.
            hidden: `(n, M, S)` bool, True where the value is to count as the mean of the training split.

        Returns:
            `(n, W)` float32, W as in `AUDIO_WIDTH`; zeros for a row without hops.
        """
        mask = _length_mask(num_hops, logmel.shape[2])  # (n, 1, S)
        x = (logmel.float() - self.logmel_mean.view(-1, 1)) / self.logmel_std.view(-1, 1)
        x = x.masked_fill(~mask if hidden is None else ~mask | hidden, 0)
        x = F.relu(self.norm1(self.conv1(x), mask)).masked_fill(~mask, 0)
        x = F.max_pool1d(x, 2, ceil_mode=True)  # (n, 64, S / 2); a zero of the padding is never above a ReLU's output
        num_hops = (num_hops + 1) // 2
        mask = _length_mask(num_hops, x.shape[2])
        x = F.relu(self.norm2(self.conv2(x), mask))
        return x.masked_fill(~mask, 0).sum(dim=2) / num_hops.clamp(min=1).unsqueeze(1)


class MaskedBatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation whose statistics are over the real steps alone, of all ranks of a run.

    Same parameters and buffers as its base. Every rank has to call it as often as the others, without a row too.
    """

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise `(n, C, T)`, mask `(n, 1, T)` bool, True where a step is real; float32 whatever the autocast.

        Without a real step the running statistics stay as they are.
        """
        x = x.float()
        mean, var = self.running_mean, self.running_var
        assert mean is not None
        assert var is not None
        assert self.momentum is not None
        if self.training:
            count = sum_with_gradient(mask.sum().float())
            divisor = count.clamp(min=1)
            mean_now = sum_with_gradient(x.masked_fill(~mask, 0).sum(dim=(0, 2))) / divisor
            squares = (x - mean_now.view(-1, 1)).square().masked_fill(~mask, 0).sum(dim=(0, 2))
            var_now = sum_with_gradient(squares) / divisor
            with torch.no_grad():
                momentum = torch.where(count > 0, self.momentum, 0.0)
                mean.lerp_(mean_now, momentum)
                var.lerp_(var_now * divisor / (divisor - 1).clamp(min=1), momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
            mean, var = mean_now, var_now
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (x - mean.view(-1, 1)) * scale.view(-1, 1) + self.bias.view(-1, 1)


def _length_mask(lengths: Tensor, size: int) -> Tensor:
    """Return `(n, 1, size)` bool, True below each length."""
    return (torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)).unsqueeze(1)
