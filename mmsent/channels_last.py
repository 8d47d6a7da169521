"""Convolutional video networks laid out for a GPU's matrix units: channels last, and as many as they like.

Shape letters: n clips, C channels, T frames, H height, W width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ChannelsLastBatchNorm3d", "WideConv3d", "use_channels_last"]

_MULTIPLE = 8
"""Channels of half precision that a matrix unit takes at a time."""


def use_channels_last(backbone: nn.Module) -> None:
    """Lay out a network's weights as its frames are, `(C_out, T, H, W, C_in)`, and replace layers that slow it down.

    Parameters stay the same objects under the same names, and what is computed stays the same but for rounding.
    """
    backbone.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    for name, module in list(backbone.named_modules()):
        faster: nn.Module | None = None
        if type(module) is nn.BatchNorm3d:
            faster = ChannelsLastBatchNorm3d.of(module)
        elif type(module) is nn.Conv3d and module.in_channels % _MULTIPLE:
            faster = WideConv3d.of(module)
        if faster is not None:
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, faster.train(module.training))


class ChannelsLastBatchNorm3d(nn.BatchNorm3d):
    """Batch normalisation that looks at channels-last clips as at pictures of `T * H` rows.

    torch 2.11 has fast kernels for channels-last pictures; five axes take a general one, which took a quarter of a step
    of r3d_18 on an H200.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm3d) -> "ChannelsLastBatchNorm3d":
        """Return one with the parameters and statistics of another."""
        found = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        found.weight, found.bias = norm.weight, norm.bias
        found.running_mean, found.running_var = norm.running_mean, norm.running_var
        found.num_batches_tracked = norm.num_batches_tracked
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(n, C, T, H, W)`."""
        if not x.is_contiguous(memory_format=torch.channels_last_3d):
            return super().forward(x)
        n, c, t, h, w = x.shape
        pictures = x.permute(0, 2, 3, 4, 1).reshape(n, t * h, w, c).permute(0, 3, 1, 2)  # (n, C, T * H, W), no copy
        normed: Tensor = super().forward(pictures)
        return normed.permute(0, 2, 3, 1).reshape(n, t, h, w, c).permute(0, 4, 1, 2, 3)

    def _check_input_dim(self, input: Tensor) -> None:
        """Take pictures and clips alike."""


class WideConv3d(nn.Conv3d):
    """A convolution of few channels, with zeros beside them up to what a matrix unit takes.

    Without them cuDNN computes the first layer of r3d_18, of 3 channels, at a twentieth of the speed of the others.
    """

    @classmethod
    def of(cls, conv: nn.Conv3d) -> "WideConv3d":
        """Return one with the parameters of another."""
        found = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
        )
        found.weight, found.bias = conv.weight, conv.bias
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `(n, C, T, H, W)`."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # before it becomes wider
        beside = (0, 0, 0, 0, 0, 0, 0, -self.in_channels % _MULTIPLE)
        convolved: Tensor = self._conv_forward(F.pad(x, beside), F.pad(self.weight, beside), self.bias)
        return convolved
