"""The block that decoders are made of."""

from __future__ import annotations

from torch import nn


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
