"""What a decoder's file provides, and the block that decoders are made of. `decoders/` is the registry."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast

from torch import nn

from u2pl.networks import decoders

if TYPE_CHECKING:
    from u2pl.networks.config import NetworkConfig
    from u2pl.networks.encoder import Encoder


class Parts(NamedTuple):
    """Modules that a `Segmentor` puts together; see there for their inputs and outputs."""

    decoder: nn.Module
    classifier: nn.Module
    embedder: nn.Module | None
    min_images: int = 2


class DecoderFacts(NamedTuple):
    """What a decoder can do, and its defaults."""

    strides: tuple[Literal[8, 16, 32], ...]  # of the encoder's last map, the default first
    atrous_rates: tuple[int, int, int] = (12, 24, 36)
    embed_dim: int = 256


class DecoderFile(Protocol):
    """A file in `decoders/`."""

    FACTS: DecoderFacts

    def build(self, config: NetworkConfig, encoder: Encoder, num_classes: int) -> Parts:
        """Decoder and heads with random weights, for the encoder's maps."""


def decoder_names() -> list[str]:
    """The files in the folder."""
    return [found.name for found in pkgutil.iter_modules(decoders.__path__)]


def decoder_file(name: str) -> DecoderFile:
    """The file of a decoder."""
    return cast(DecoderFile, import_module(f"{decoders.__name__}.{name}"))


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
