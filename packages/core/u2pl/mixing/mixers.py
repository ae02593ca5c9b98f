"""Strong augmentation by mixing the unlabelled images of a step: CutMix, Cutout, ClassMix."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl import distributed
from u2pl.mixing.blend import paste
from u2pl.mixing.masks import box_mask, boxes_of_many_sizes, half_of_classes, random_boxes
from u2pl.notation import IGNORE
from u2pl.schedules import step_seed


class MixConfig(BaseModel):
    """How unlabelled images are mixed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cutmix", "cutout", "classmix", "boxes", "none"] = Field(
        "cutmix",
        description="how unlabelled images are mixed: cutmix in U2PL's released code; boxes: "
        "CutMix with boxes of many sizes, as in UniMatch",
    )
    probability: float = Field(
        0.5,
        ge=0,
        le=1,
        description="probability of mixing, drawn once per step (released code), for boxes once "
        "per image",
    )
    area: float = Field(
        0.5, gt=0, le=1, description="box area as a share of the image (cutmix, cutout)"
    )
    partner: Literal["next", "reversed"] = Field(
        "next",
        description="the image that an image is mixed with; next: the one after it; reversed: that "
        "at its place in the reversed batch, for an odd batch in the middle itself (UniMatch V2)",
    )


class Mixed(NamedTuple):
    """Mixed images, and the maps mixed alike, in the order they were given."""

    image_B3HW: Tensor
    valid_BHW: Tensor
    maps: tuple[Any, ...]  # tensors, or None where None was given


class Mixer:
    """Mixes each image with another one of the global batch, and its maps alike.

    Args:
        config: which kind of mix, and how often.
        num_classes: C.
    """

    def __init__(self, config: MixConfig, num_classes: int) -> None:
        self.config = config
        self.num_classes = num_classes

    def mixes(self, generator: torch.Generator) -> bool:
        """Whether this step may mix; drawn on the CPU, so that it needs no host sync.

        Args:
            generator: the step's; it is not advanced.
        """
        if self.config.kind in ("none", "boxes"):
            return self.config.kind == "boxes"
        # another seed, so that the coin does not repeat the step's own draws
        coin = torch.Generator().manual_seed(step_seed(generator.initial_seed(), 1))
        return torch.rand((), generator=coin).item() < self.config.probability

    @torch.no_grad()
    def __call__(
        self,
        generator: torch.Generator,
        image_B3HW: Tensor,
        valid_BHW: Tensor,
        label_BHW: Tensor,
        *maps: Tensor | None,
    ) -> Mixed:
        """Mix images, validity and maps; in a step without mixing they are returned themselves.

        Args:
            generator: the step's generator, equal on all processes.
            image_B3HW: images of any dtype.
            valid_BHW: bool, False on padding.
            label_BHW: labels [B, H, W] (255 = ignore) or scores [B, C, H, W], from which ClassMix
                draws classes. Cutout sets labels to 255 and leaves scores alone.
            maps: more of these; None stays None.
        """
        maps = (label_BHW, *maps)
        if not self.mixes(generator):
            return Mixed(image_B3HW, valid_BHW, maps)
        mask = self._mask(generator, valid_BHW, label_BHW)
        if self.config.kind == "cutout":
            erased = tuple(
                m if m is None or m.dim() == 4 else paste(mask, torch.full_like(m, IGNORE), m)
                for m in maps
            )
            level = 127 / 255 if image_B3HW.is_floating_point() else 127
            grey = torch.full_like(image_B3HW, level)
            return Mixed(paste(mask, grey, image_B3HW), valid_BHW & ~mask, erased)
        image, valid, *mixed = (
            None if m is None else paste(mask, self._partner(m), m)
            for m in (image_B3HW, valid_BHW, *maps)
        )
        assert image is not None and valid is not None
        return Mixed(image, valid, tuple(mixed))

    def _partner(self, value: Tensor) -> Tensor:
        """Of each image, the value of the one that it is mixed with."""
        if self.config.partner == "reversed":
            return distributed.reversed_in_batch(value)
        return distributed.next_in_batch(value)

    def _mask(self, generator: torch.Generator, valid_BHW: Tensor, first: Tensor) -> Tensor:
        """True where the other image is pasted, or erased by Cutout."""
        on = generator.device
        count = len(valid_BHW) * distributed.world_size()
        if self.config.kind == "classmix":
            score = torch.rand(count, self.num_classes, generator=generator, device=on)
            label_BHW = first if first.dim() == 3 else first.argmax(dim=1)
            mask = half_of_classes(self._partner(label_BHW), distributed.local_rows(score))
        else:
            size = (valid_BHW.shape[-2], valid_BHW.shape[-1])
            if self.config.kind == "boxes":
                boxes = boxes_of_many_sizes(count, size, self.config.probability, generator)
            else:
                boxes = random_boxes(count, size, self.config.area, generator)
            mask = box_mask(distributed.local_rows(boxes), size)
        return mask.to(valid_BHW.device)
