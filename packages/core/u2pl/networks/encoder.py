"""Base class of encoders. Each file in `encoders/` is one family; the folder is the registry."""

from __future__ import annotations

import copy
import difflib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import ClassVar, NamedTuple, Self, TypeVar

from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.networks import encoders
from u2pl.notation import COLOURS

Network = TypeVar("Network", bound=nn.Module)

#: Names of blocks and stages: numbered ones, except for those of a stem.
BLOCK = re.compile(r"(?!stem|conv).*\d$")


class Weights(NamedTuple):
    """Which pretrained weights an encoder starts from."""

    name: str  # the hub's full name with its tag, or a file's name
    sha256: str  # over names and values of the tensors, sorted by name; 64 hex digits
    license: str | None = None  # as the hub names it; None: not known


class Encoder(nn.Module, ABC):
    """Image [B, channels, H, W] -> four feature maps, from high to low resolution.

    The weights are in `model`, under the names of the implementation that it wraps.
    """

    #: Whether other families are asked first, for one that takes names of many kinds.
    fallback: ClassVar[bool] = False
    #: Beginnings of the names of tensors that released weights must hold, whatever else they lack.
    needed: tuple[str, ...] = ()

    model: nn.Module
    #: Channels of each map.
    channels: tuple[int, ...]
    #: Image pixels per pixel of each map.
    strides: tuple[int, ...]
    #: Height and width of the input must be multiples of it.
    divisor: int
    #: Mean and standard deviation of each of the image's channels in [0, 1]: those of RGB in
    #: pretraining, for other numbers of channels by `spread`.
    mean: tuple[float, ...]
    std: tuple[float, ...]

    #: What it was filled with; None for random weights.
    weights: Weights | None = None
    #: Whether it is not trained, see `freeze`.
    frozen: bool = False

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
    def build(cls, name: str, output_stride: int, channels: int = COLOURS) -> Encoder:
        """An encoder with random weights for images of so many channels.

        Raises UserError if it cannot run at the output stride.
        """

    @classmethod
    @abstractmethod
    def hub_weights(cls, name: str) -> dict[str, Tensor]:
        """ImageNet weights, downloaded or from the hub's cache; UserError if none were released."""

    @classmethod
    def hub_name(cls, name: str) -> str:
        """The full name of what `hub_weights` gives, with the recipe that it was trained by."""
        return name

    @classmethod
    def hub_repository(cls, name: str) -> str | None:
        """Where on the hub `hub_weights` finds model.safetensors; None: nowhere, or not known."""
        return None

    @classmethod
    def hub_license(cls, name: str) -> str | None:
        """The licence of what `hub_weights` gives, as the hub names it; None: not known."""
        return None

    def freeze(self) -> Self:
        """Take it out of training: no gradient, so nothing is kept for one, and eval mode always.

        Networks that are copied by `copied` share it from then on.
        """
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; statistics, dropout and drop path of a frozen encoder stay off."""
        return super().train(mode and not self.frozen)

    def recompute(self) -> None:
        """Compute maps inside blocks once more in the backward pass, instead of keeping them.

        Raises:
            UserError: It cannot, or its BatchNorm would count every image twice.
        """
        switch = getattr(self.model, "set_grad_checkpointing", None)
        norms = [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if switch is None or norms:
            reason = "its BatchNorm would count every image twice" if norms else "it has no blocks"
            raise UserError(
                f"network.checkpointing is not for this encoder, for {reason}: leave it out, or "
                "choose a ViT, a ConvNeXt or a MiT"
            )
        switch(True)

    def layers(self) -> list[list[nn.Parameter]]:
        """All parameters by layer, from input to output, as `train.layer_decay` tells them apart.

        First what precedes the first block, then those of each block, last what follows them. A
        block is one of a ViT, or a whole stage of an encoder with a pyramid of maps.

        Raises:
            UserError: It has no blocks by a name that is known.
        """
        found: list[list[nn.Parameter]] = []
        waiting = list(self.model.parameters(recurse=False))
        for name, part in _parts(self.model):
            own = list(part.parameters())
            if not BLOCK.match(name) or not any(part.children()):
                waiting += own
                continue
            found += [[*waiting, *own]] if found else [waiting, own]
            waiting = []
        if not found:
            raise UserError("train.layer_decay needs an encoder of blocks or stages: leave it out")
        return [*found, waiting]

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
            image_B3HW: normalised RGB, or as many channels as it was built for, with sides that
                are multiples of `divisor`.
        """

    def own_key(self, key: str) -> str:
        """State-dict key of the tensor that released weights call `key`."""
        return key

    def own_tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Released weights under the names that they have here."""
        return {self.own_key(key): tensor for key, tensor in state.items()}


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a model in order, a list of blocks or stages one by one."""
    for name, part in model.named_children():
        if name in ("blocks", "stages"):
            yield from ((f"{name}_{number}", block) for number, block in part.named_children())
        else:
            yield name, part


def copied(network: Network) -> Network:
    """A copy with weights of its own, except for a frozen encoder, which both networks share."""
    return copy.deepcopy(network, {id(part): part for part in frozen_encoders(network)})


def frozen_encoders(network: nn.Module) -> list[Encoder]:
    """The encoders in a network that are not trained."""
    return [part for part in network.modules() if isinstance(part, Encoder) and part.frozen]


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
    known = dict.fromkeys(each for family in families() for each in family.names())
    near = difflib.get_close_matches(name, known, n=3)
    raise UserError(
        f"network.encoder={name} is no encoder of timm and no MiT; "
        f"{'near: ' + ', '.join(near) if near else 'try resnet101'}"
    )
