"""Builds a network from its config."""

from __future__ import annotations

from torch import nn

from u2pl.errors import UserError
from u2pl.networks.config import RANDOM, NetworkConfig
from u2pl.networks.encoder import Encoder, family_of
from u2pl.networks.parts import classifier_on, width_for
from u2pl.networks.pretrained import load_pretrained
from u2pl.networks.registry import decoder_file, decoder_names
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import COLOURS, OUTPUT_STRIDE


def build_segmentor(config: NetworkConfig, num_classes: int, channels: int = COLOURS) -> Segmentor:
    """The configured network with its encoder's weights loaded, on the CPU, in training mode.

    Args:
        config: of the network.
        num_classes: that it tells apart.
        channels: of the images.

    Raises:
        UserError: The encoder is unknown or cannot run at the output stride or with the decoder, or
            the weights do not fit it.
    """
    encoder = family_of(config.encoder).build(config.encoder, config.output_stride, channels)
    if config.multi_grid != (1, 1, 1):
        encoder.set_multi_grid(config.multi_grid)
    _check_decoder(config, encoder)
    if not config.width:
        config = config.model_copy(update={"width": width_for(encoder.channels[-1])})
    parts = decoder_file(config.decoder).build(config, encoder, num_classes)
    auxiliary = tagger = None
    if config.auxiliary:
        auxiliary = classifier_on(encoder.channels[2], config.width, num_classes, config.dropout)
    if config.tag_classes:
        tagger = nn.Conv2d(encoder.channels[-1], config.tag_classes, 1, bias=False)
    if config.encoder_weights != RANDOM:
        load_pretrained(encoder, config.encoder, config.encoder_weights)
    if config.freeze_encoder:
        encoder.freeze()
    if config.checkpointing and not config.freeze_encoder:  # which keeps nothing anyway
        encoder.recompute()
    return Segmentor(
        encoder,
        *parts[:3],
        auxiliary=auxiliary,
        tagger=tagger,
        min_images=parts.min_images,
        embed_dim=config.embed_dim,
    )


def _check_decoder(config: NetworkConfig, encoder: Encoder) -> None:
    """UserError if the decoder's output would not be a quarter of the image on these maps."""
    if encoder.strides[0] == OUTPUT_STRIDE or decoder_file(config.decoder).FACTS.any_stride:
        return
    fitting = [name for name in decoder_names() if decoder_file(name).FACTS.any_stride]
    raise UserError(
        f"network.decoder={config.decoder} needs a map at stride {OUTPUT_STRIDE}, and all maps of "
        f"network.encoder={config.encoder} are at stride {encoder.strides[0]}: set network.decoder="
        f"{' or '.join(fitting)}"
    )
