"""One convolution on the encoder's last map: the cheapest decoder, to tell what the others add.

The probe by which features of Vision Transformers are compared, without DINOv2's BatchNorm. The
map is enlarged before the convolution, which gives the same logits as after it, so that pixels have
features to compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import Encoder
from u2pl.networks.parts import DecoderFacts, Parts, representation_head
from u2pl.notation import OUTPUT_STRIDE

FACTS = DecoderFacts(strides=(32, 16, 8), dropout=0.0, any_stride=True)


def build(config: NetworkConfig, encoder: Encoder, num_classes: int) -> Parts:
    """The map, and two heads on it; trainable with one image per process."""
    channels = encoder.channels[-1]
    classifier = nn.Sequential(
        nn.Dropout2d(config.dropout), nn.Conv2d(channels, num_classes, kernel_size=1)
    )
    decoder = Decoder(encoder.strides[-1])
    return Parts(decoder, classifier, representation_head(channels, config), min_images=1)


class Decoder(nn.Module):
    """The last map, enlarged to a quarter of the image: [B, D, h, w].

    Args:
        stride: of the last map.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.factor = stride // OUTPUT_STRIDE

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return F.interpolate(
            features[-1], scale_factor=self.factor, mode="bilinear", align_corners=False
        )
