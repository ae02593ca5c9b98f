"""How the unlabelled images of a step are combined before the student sees them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl import distributed
from u2pl.mixing.blend import paste
from u2pl.mixing.masks import box_mask, half_of_classes, random_boxes
from u2pl.notation import IGNORE


class MixConfig(BaseModel):
    """Strong augmentation of the unlabelled images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cutmix", "cutout", "classmix", "none"] = Field(
        "cutmix",
        description="what is done to the unlabelled images; CutMix as in the released code",
    )
    probability: float = Field(
        0.5,
        ge=0,
        le=1,
        description="chance that a step mixes at all; one draw per step (released code)",
    )
    area: float = Field(0.5, gt=0, le=1, description="share of the image that the box covers")


class Mixed(NamedTuple):
    """Unlabelled images after mixing; whatever moved with the images is in `maps`, in the order given."""

    image_B3HW: Tensor
    valid_BHW: Tensor
    maps: tuple[Tensor, ...]


class Mixer:
    """Mixes images, validity and any label-like maps alike.

    Args:
        config: which mix and how often.
        num_classes: C.
    """

    def __init__(self, config: MixConfig, num_classes: int) -> None:
        self.config = config
        self.num_classes = num_classes

    @torch.no_grad()
    def __call__(
        self, generator: torch.Generator, image_B3HW: Tensor, valid_BHW: Tensor, *maps: Tensor
    ) -> Mixed:
        """Mix.

        Args:
            generator: the step's randomness, equal on all processes.
            image_B3HW: images.
            valid_BHW: bool, False on padding.
            maps: [B, H, W] labels (255 = ignore) or [B, C, H, W] scores; ClassMix draws classes from the first.
        """
        if self.config.kind == "none":
            return Mixed(image_B3HW, valid_BHW, maps)
        mask = self._mask(generator, valid_BHW, maps[0])
        if self.config.kind == "cutout":
            erased = tuple(
                paste(mask, torch.full_like(m, IGNORE), m) if m.dim() == 3 else m for m in maps
            )
            grey = torch.full_like(image_B3HW, 127)
            return Mixed(paste(mask, grey, image_B3HW), valid_BHW & ~mask, erased)
        image, valid, *mixed = (
            paste(mask, distributed.next_in_batch(m), m) for m in (image_B3HW, valid_BHW, *maps)
        )
        return Mixed(image, valid, tuple(mixed))

    def _mask(self, generator: torch.Generator, valid_BHW: Tensor, first: Tensor) -> Tensor:
        """Where the next image shows (or nothing, for Cutout); all False in a step that does not mix."""
        coin = (
            torch.rand((), generator=generator, device=generator.device) < self.config.probability
        )
        count = len(valid_BHW) * distributed.world_size()
        if self.config.kind == "classmix":
            score = torch.rand(
                count, self.num_classes, generator=generator, device=generator.device
            )
            label_BHW = first if first.dim() == 3 else first.argmax(dim=1)
            mask = half_of_classes(
                distributed.next_in_batch(label_BHW), distributed.local_rows(score)
            )
        else:
            boxes = random_boxes(
                count, (valid_BHW.shape[-2], valid_BHW.shape[-1]), self.config.area, generator
            )
            mask = box_mask(
                distributed.local_rows(boxes), (valid_BHW.shape[-2], valid_BHW.shape[-1])
            )
        return mask.to(valid_BHW.device) & coin.to(valid_BHW.device)
