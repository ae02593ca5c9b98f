"""Light DeepLabv3+: smp's decoder (separable convolutions, 48 low-level channels), cheap heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from torch import Tensor, nn

from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import Encoder
from u2pl.networks.parts import DecoderFacts, Parts

FACTS = DecoderFacts(strides=(8, 16), embed_dim=64)


class Decoder(DeepLabV3PlusDecoder):
    """smp's decoder on our four maps; it expects the image and a map at stride 2 before them."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        fused: Tensor = super().forward([features[0], features[0], *features])
        return fused


def build(config: NetworkConfig, encoder: Encoder, num_classes: int) -> Parts:
    """smp's decoder, a 1x1 classifier and a separable representation head."""
    decoder = Decoder(
        encoder_channels=(0, 0, *encoder.channels),
        encoder_depth=5,
        out_channels=config.width,
        atrous_rates=config.atrous_rates,
        output_stride=cast(Literal[8, 16], config.output_stride),
        aspp_separable=True,
        aspp_dropout=config.dropout,
    )
    # smp's network has a head of its own, initialised before ours: without it, a seed would give
    # another initialisation than in recorded runs
    SegmentationHead(config.width, num_classes, kernel_size=1)
    classifier, narrow = nn.Conv2d(config.width, num_classes, 1), None
    if config.embed_dim:
        narrow = embedder(config.embed_dim, config.width, config.embed_kernel)
    return Parts(decoder, classifier, narrow)


def embedder(embed_dim: int, width: int, kernel: int) -> nn.Sequential:
    """Reduce channels, depthwise, 1x1: reading the decoder's channels is most of the cost."""
    return nn.Sequential(
        nn.Conv2d(width, embed_dim, 1, bias=False),
        nn.Conv2d(embed_dim, embed_dim, kernel, padding=kernel // 2, groups=embed_dim, bias=False),
        nn.BatchNorm2d(embed_dim),
        nn.ReLU(inplace=True),
        nn.Conv2d(embed_dim, embed_dim, 1),
    )
