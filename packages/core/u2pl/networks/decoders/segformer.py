"""SegFormer's all-MLP head as used by AFA (Xie et al. 2021, sec. 3.2; U2PL+ sec. 4.3).

As in the released code: the deepest map comes first, the fusion has no bias, and channel-wise
dropout precedes the classifier. Convolutions have torch's default initialisation.
"""

from __future__ import annotations

from torch import nn

from u2pl.networks.config import NetworkConfig
from u2pl.networks.decoders.daformer import MAPS, Decoder
from u2pl.networks.encoder import Encoder
from u2pl.networks.parts import DecoderFacts, Parts, conv_norm_relu, representation_head

FACTS = DecoderFacts(strides=(16, 32))


def build(config: NetworkConfig, encoder: Encoder, num_classes: int) -> Parts:
    """Linear embedding of the maps and two heads; trainable with one image per process."""
    decoder = Decoder(encoder.channels, config.width, deepest_first=True)
    classifier = fusion(num_classes, config.width, config.dropout)
    embedder = representation_head(MAPS * config.width, config)
    return Parts(decoder, classifier, embedder, min_images=1)


def fusion(num_classes: int, width: int, dropout: float) -> nn.Sequential:
    """Concatenated maps -> class logits: 1x1 to `width`, 1x1 to `num_classes`."""
    return nn.Sequential(
        *conv_norm_relu(MAPS * width, width, kernel=1),
        nn.Dropout2d(dropout),
        nn.Conv2d(width, num_classes, 1),
    )
