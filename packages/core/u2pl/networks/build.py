"""From a config to a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from u2pl.networks import daformer, deeplabv3plus, light, segformer
from u2pl.networks.config import RANDOM, NetworkConfig
from u2pl.networks.encoder import check_encoder, normalisation, side_divisor
from u2pl.networks.parts import Parts
from u2pl.networks.pretrained import load_pretrained
from u2pl.networks.segmentor import Segmentor

DECODERS: dict[str, Callable[[NetworkConfig, int], Parts]] = {
    "deeplabv3plus": deeplabv3plus.build,
    "deeplabv3plus_light": light.build,
    "daformer": daformer.build,
    "segformer": segformer.build,
}


def build_segmentor(config: NetworkConfig, num_classes: int) -> Segmentor:
    """The configured network on the CPU, in training mode, its encoder pretrained as the config says.

    Raises:
        UserError: Unknown encoder, one that cannot run at the output stride or under the decoder, or weights that do not fit it.
    """
    check_encoder(config.encoder, config.output_stride)
    parts = DECODERS[config.decoder](config, num_classes)
    channels: Any = parts.encoder.out_channels
    tagger = nn.Conv2d(channels[-1], config.tag_classes, 1, bias=False) if config.tag_classes else None
    mean, std = normalisation(config.encoder)
    if config.encoder_weights != RANDOM:
        load_pretrained(parts.encoder, config.encoder, config.encoder_weights)
    divisor = side_divisor(config.encoder, config.output_stride)
    return Segmentor(**parts._asdict(), tagger=tagger, mean=mean, std=std, divisor=divisor, embed_dim=config.embed_dim)
