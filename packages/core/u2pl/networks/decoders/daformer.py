"""DAFormer's head (U2PL+ sec. 4.2): four concatenated feature maps, fused by dilated convolutions.

As in the released code: ASPP with separable convolutions and a 1x1 branch, but no image pooling,
then a 3x3 convolution. The representation head works on the same concatenation: 1024 -> 512 -> 256
channels. Convolutions have torch's default initialisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import Encoder
from u2pl.networks.parts import DecoderFacts, Parts, conv_norm_relu, representation_head

FACTS = DecoderFacts(strides=(32, 16), atrous_rates=(6, 12, 18))

#: Number of fused feature maps: at strides 4, 8, 16 and the output stride.
MAPS = 4


def build(config: NetworkConfig, encoder: Encoder, num_classes: int) -> Parts:
    """Linear embedding of the maps and two heads; trainable with one image per process."""
    decoder = Decoder(encoder.channels, config.width)
    classifier = fusion(num_classes, config.width, config.atrous_rates, config.dropout)
    embedder = representation_head(MAPS * config.width, config)
    return Parts(decoder, classifier, embedder, min_images=1)


class Decoder(nn.Module):
    """Linear embedding of each map, upsampled to the first and concatenated: [B, 4 * width, h, w].

    Args:
        in_channels: channels of each feature map.
        width: channels of each embedding.
        deepest_first: whether to concatenate from low to high resolution.
    """

    def __init__(self, in_channels: Sequence[int], width: int, deepest_first: bool = False) -> None:
        super().__init__()
        self.deepest_first = deepest_first
        self.linear = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        first, *others = (
            linear(feature) for linear, feature in zip(self.linear, features, strict=True)
        )
        size = first.shape[-2:]
        resized = (
            F.interpolate(other, size=size, mode="bilinear", align_corners=False)
            for other in others
        )
        maps = [first, *resized]
        return torch.cat(maps[::-1] if self.deepest_first else maps, dim=1)


class SeparableAspp(nn.Module):
    """Separable ASPP, no image pooling: [B, channels, h, w] -> [B, (1 + rates) * width, h, w]."""

    def __init__(self, in_channels: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.pointwise = conv_norm_relu(in_channels, width, kernel=1)
        self.dilated = nn.ModuleList(
            nn.Sequential(
                conv_norm_relu(
                    in_channels, in_channels, kernel=3, dilation=rate, groups=in_channels
                ),
                conv_norm_relu(in_channels, width, kernel=1),
            )
            for rate in rates
        )

    def forward(self, feature: Tensor) -> Tensor:
        return torch.cat(
            [self.pointwise(feature), *(branch(feature) for branch in self.dilated)], dim=1
        )


def fusion(num_classes: int, width: int, rates: Sequence[int], dropout: float) -> nn.Sequential:
    """Concatenated maps -> class logits: ASPP, 3x3 to `width`, 1x1 to `num_classes`."""
    return nn.Sequential(
        SeparableAspp(MAPS * width, width, rates),
        conv_norm_relu((1 + len(rates)) * width, width, kernel=3),
        nn.Dropout2d(dropout),
        nn.Conv2d(width, num_classes, 1),
    )
