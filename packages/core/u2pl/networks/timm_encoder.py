"""What timm's encoders of all families share: names, weights from the hub, colours."""

from __future__ import annotations

from typing import Any

import timm
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from u2pl.errors import UserError
from u2pl.networks.encoder import Encoder
from u2pl.notation import spread


class TimmEncoder(Encoder):
    """Base class of encoders that are called as timm calls them, with or without a weights' tag."""

    @classmethod
    def hub_weights(cls, name: str) -> dict[str, Tensor]:
        if not timm.models.is_model_pretrained(name):
            raise UserError(f"timm has no ImageNet weights for {name}")
        weights: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
        return weights

    @classmethod
    def hub_name(cls, name: str) -> str:
        found = timm.get_pretrained_cfg(name)
        return f"{found.architecture}.{found.tag}" if found and found.tag else name

    @classmethod
    def hub_repository(cls, name: str) -> str | None:
        found = timm.get_pretrained_cfg(name)
        return found.hf_hub_id if found else None

    @classmethod
    def hub_license(cls, name: str) -> str | None:
        found = timm.get_pretrained_cfg(name)
        return found.license if found else None

    def _set_colours(self, name: str, channels: int) -> None:
        """Take mean and deviation from what timm knows of the weights of this name."""
        found: Any = timm.get_pretrained_cfg(name)
        self.mean = spread(found.mean if found else IMAGENET_DEFAULT_MEAN, channels)
        self.std = spread(found.std if found else IMAGENET_DEFAULT_STD, channels)
