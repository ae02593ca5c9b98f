"""What an encoder is. Each file in `encoders/` holds one family of them; the folder is the registry."""

from __future__ import annotations

import difflib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from importlib import import_module

from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.networks import encoders


class Encoder(nn.Module, ABC):
    """Image [B, 3, H, W] -> four feature maps, from fine to deep; it carries the facts about itself.

    The weights lie in `model`, under the names of whoever released them.
    """

    model: nn.Module
    #: Of each map.
    channels: tuple[int, ...]
    #: Image pixels per pixel of each map.
    strides: tuple[int, ...]
    #: Height and width of an image must be multiples of it.
    divisor: int
    #: Mean and standard deviation of the colours in [0, 1] that it was pretrained with.
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    @abstractmethod
    def names(cls) -> Collection[str]:
        """Every encoder of the family, as `network.encoder` names it."""

    @classmethod
    @abstractmethod
    def build(cls, name: str, output_stride: int) -> Encoder:
        """Build one with random weights; UserError if it cannot run at the output stride."""

    @classmethod
    @abstractmethod
    def hub_weights(cls, name: str) -> dict[str, Tensor]:
        """Download its ImageNet weights, or read them from the hub's cache; UserError if there are none."""

    @abstractmethod
    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """The four maps; both sides of the image are multiples of `divisor`."""

    def own_key(self, key: str) -> str:
        """Our name of a tensor that a released file calls `key`."""
        return key


def families() -> Iterator[type[Encoder]]:
    """The class of each file in the folder."""
    for found in pkgutil.iter_modules(encoders.__path__):
        module = import_module(f"{encoders.__name__}.{found.name}")
        yield from (
            kind
            for kind in vars(module).values()
            if isinstance(kind, type)
            and issubclass(kind, Encoder)
            and kind.__module__ == module.__name__
        )


def family_of(name: str) -> type[Encoder]:
    """The family that an encoder belongs to; UserError that suggests near names if there is none."""
    known: list[str] = []
    for family in families():
        names = family.names()
        if name in names:
            return family
        known += names
    near = difflib.get_close_matches(name, known, n=3)
    raise UserError(
        f"network.encoder={name} is no encoder of timm and no MiT; "
        f"{'near: ' + ', '.join(near) if near else 'try resnet101'}"
    )
