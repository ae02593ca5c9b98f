"""U2PL's DeepLabv3+ (U2PL sec. 4.1): full convolutions, both heads on the concatenation.

As in the released code: 256 channels of low-level features (DeepLabv3+: 48), two 3x3 convolutions
in each head, dropout 0.1. Ours: bilinear resizing with align_corners=False, since images are padded
to multiples of the stride.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import Encoder
from u2pl.networks.parts import DecoderFacts, Parts, conv_norm_relu

FACTS = DecoderFacts(strides=(8, 16))


def build(config: NetworkConfig, encoder: Encoder, num_classes: int) -> Parts:
    """Decoder and two heads of the same architecture; needs two images per process to train."""
    width, dropout = config.width, config.dropout
    decoder = Decoder(
        encoder.channels[-1], encoder.channels[0], config.atrous_rates, width, dropout
    )
    classifier = head(num_classes, width, dropout)
    embedder = None
    if config.embed_dim:
        embedder = head(config.embed_dim, width, dropout, config.embed_kernel)
    return Parts(decoder, classifier, embedder)


def head(out_channels: int, width: int, dropout: float, kernel: int = 3) -> nn.Sequential:
    """Two convolutions to `width` channels, then 1x1 to `out_channels`."""
    return nn.Sequential(
        *conv_norm_relu(2 * width, width, kernel),
        nn.Dropout2d(dropout),
        *conv_norm_relu(width, width, kernel),
        nn.Dropout2d(dropout),
        nn.Conv2d(width, out_channels, 1),
    )


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: [B, in_channels, h, w] -> [B, (2 + rates) * width, h, w].

    The BatchNorm after image pooling needs two images or more to train.
    """

    def __init__(self, in_channels: int, rates: Sequence[int], width: int) -> None:
        super().__init__()
        self.pooled = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), *conv_norm_relu(in_channels, width, kernel=1)
        )
        self.pointwise = conv_norm_relu(in_channels, width, kernel=1)
        self.dilated = nn.ModuleList(
            conv_norm_relu(in_channels, width, kernel=3, dilation=rate) for rate in rates
        )

    def forward(self, feature: Tensor) -> Tensor:
        pooled = self.pooled(feature).expand(-1, -1, *feature.shape[-2:])
        return torch.cat(
            [pooled, self.pointwise(feature), *(branch(feature) for branch in self.dilated)], dim=1
        )


class Decoder(nn.Module):
    """Low-level and fused ASPP features, concatenated: [B, 2 * width, h, w] at stride 4."""

    def __init__(
        self,
        deep_channels: int,
        low_channels: int,
        rates: Sequence[int],
        width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.aspp = Aspp(deep_channels, rates, width)
        self.fuse = nn.Sequential(
            *conv_norm_relu((2 + len(rates)) * width, width, kernel=3), nn.Dropout2d(dropout)
        )
        self.low = conv_norm_relu(low_channels, width, kernel=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        low = self.low(features[0])
        deep = self.fuse(self.aspp(features[-1]))
        deep = F.interpolate(deep, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([low, deep], dim=1)
