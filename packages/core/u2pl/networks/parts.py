"""What a decoder's file builds."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Parts(NamedTuple):
    """Modules that a `Segmentor` puts together; see there for what goes in and out of each."""

    encoder: nn.Module
    decoder: nn.Module
    classifier: nn.Module
    embedder: nn.Module | None
    min_images: int = 2
