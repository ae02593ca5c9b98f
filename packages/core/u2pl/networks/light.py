"""The light network: smp's DeepLabv3+ (separable convolutions, 48 low-level channels) and a representation head that costs little."""

from __future__ import annotations

import segmentation_models_pytorch as smp
from torch import nn

from u2pl.errors import UserError
from u2pl.networks import mit
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import smp_name
from u2pl.networks.parts import Parts


def build(config: NetworkConfig, num_classes: int) -> Parts:
    """smp's encoder and decoder, a 1x1 classifier and a separable representation head, with random weights.

    Raises:
        UserError: MiT, which smp would build from code of its own.
    """
    if config.encoder in mit.VARIANTS:
        raise UserError(f"network.decoder=deeplabv3plus_light cannot take {config.encoder}; try network.decoder=daformer or deeplabv3plus")
    network = smp.DeepLabV3Plus(
        smp_name(config.encoder),
        encoder_weights=None,
        encoder_output_stride=config.output_stride,
        decoder_channels=config.width,
        decoder_atrous_rates=config.atrous_rates,
        decoder_aspp_dropout=config.dropout,
        classes=num_classes,
    )
    narrow = embedder(config.embed_dim, config.width) if config.embed_dim else None
    return Parts(network.encoder, network.decoder, nn.Conv2d(config.width, num_classes, 1), narrow)


def embedder(embed_dim: int, width: int) -> nn.Sequential:
    """Narrow first, then look around: most of the head's time goes into reading and writing the decoder's channels."""
    return nn.Sequential(
        nn.Conv2d(width, embed_dim, 1, bias=False),
        nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=embed_dim, bias=False),
        nn.BatchNorm2d(embed_dim),
        nn.ReLU(inplace=True),
        nn.Conv2d(embed_dim, embed_dim, 1),
    )
