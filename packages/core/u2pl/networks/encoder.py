"""Base class of encoders. Each file in `encoders/` is one family; the folder is the registry."""

from __future__ import annotations

import difflib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Collection
from importlib import import_module
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.networks import encoders


class Weights(NamedTuple):
    """Which pretrained weights an encoder starts from."""

    name: str  # the hub's full name with its tag, or a file's name
    sha256: str  # over names and values of the tensors, sorted by name; 64 hex digits


class Encoder(nn.Module, ABC):
    """Image [B, 3, H, W] -> four feature maps, from high to low resolution.

    The weights are in `model`, under the names of the implementation that it wraps.
    """

    #: Whether other families are asked first, for one that takes names of many kinds.
    fallback: ClassVar[bool] = False

    model: nn.Module
    #: Channels of each map.
    channels: tuple[int, ...]
    #: Image pixels per pixel of each map.
    strides: tuple[int, ...]
    #: Height and width of the input must be multiples of it.
    divisor: int
    #: Mean and standard deviation of RGB in [0, 1] in pretraining.
    mean: tuple[float, ...]
    std: tuple[float, ...]

    #: What it was filled with; None for random weights.
    weights: Weights | None = None

    @classmethod
    @abstractmethod
    def names(cls) -> Collection[str]:
        """Names of the family's encoders, as in `network.encoder`."""

    @classmethod
    def knows(cls, name: str) -> bool:
        """Whether `name` is one of the family."""
        return name in cls.names()

    @classmethod
    @abstractmethod
    def build(cls, name: str, output_stride: int) -> Encoder:
        """An encoder with random weights; UserError if it cannot run at the output stride."""

    @classmethod
    @abstractmethod
    def hub_weights(cls, name: str) -> dict[str, Tensor]:
        """ImageNet weights, downloaded or from the hub's cache; UserError if none were released."""

    @classmethod
    def hub_name(cls, name: str) -> str:
        """The full name of what `hub_weights` gives, with the recipe that it was trained by."""
        return name

    def set_multi_grid(self, rates: tuple[int, int, int]) -> None:
        """Multiply the dilation of the last stage's three blocks by these rates (DeepLabv3).

        Raises:
            UserError: The encoder's last stage is not of three dilated blocks.
        """
        raise UserError(
            "network.multi_grid is for ResNets of 50 layers or more, at network.output_stride=8 or "
            "16; leave it out"
        )

    @abstractmethod
    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """Feature maps [B, channels[i], H / strides[i], W / strides[i]].

        Args:
            image_B3HW: normalised RGB, with sides that are multiples of `divisor`.
        """

    def own_key(self, key: str) -> str:
        """State-dict key of the tensor that released weights call `key`."""
        return key


def families() -> list[type[Encoder]]:
    """The encoder class of each file in the folder; those that are a fallback come last."""
    found: list[type[Encoder]] = []
    for file in pkgutil.iter_modules(encoders.__path__):
        module = import_module(f"{encoders.__name__}.{file.name}")
        kinds = (kind for kind in vars(module).values() if isinstance(kind, type))
        found += [k for k in kinds if issubclass(k, Encoder) and k.__module__ == module.__name__]
    return sorted(found, key=lambda kind: kind.fallback)


def family_of(name: str) -> type[Encoder]:
    """The family of an encoder; UserError with similar names if it is unknown."""
    found = next((family for family in families() if family.knows(name)), None)
    if found is not None:
        return found
    known = [each for family in families() for each in family.names()]
    near = difflib.get_close_matches(name, known, n=3)
    raise UserError(
        f"network.encoder={name} is no encoder of timm and no MiT; "
        f"{'near: ' + ', '.join(near) if near else 'try resnet101'}"
    )
