"""The decoders by name: each is a file in `decoders/`. Loads no torch until one is asked for."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from u2pl.networks import decoders

if TYPE_CHECKING:
    from u2pl.networks.config import NetworkConfig
    from u2pl.networks.encoder import Encoder
    from u2pl.networks.parts import DecoderFacts, Parts


class DecoderFile(Protocol):
    """Interface of a file in `decoders/`."""

    FACTS: DecoderFacts

    def build(self, config: NetworkConfig, encoder: Encoder, num_classes: int) -> Parts:
        """Decoder and heads for the encoder's maps, with random weights."""


def decoder_names() -> list[str]:
    """Names of the decoders."""
    return [found.name for found in pkgutil.iter_modules(decoders.__path__)]


def decoder_file(name: str) -> DecoderFile:
    """The module of a decoder, by name."""
    return cast(DecoderFile, import_module(f"{decoders.__name__}.{name}"))
