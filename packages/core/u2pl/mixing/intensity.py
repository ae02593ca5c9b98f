"""Random intensities: a few of eleven colour operations at random strength (AugSeg sec. 3.2).

Zhao et al., "Augmentation Matters: A Simple-Yet-Effective Approach to Semi-Supervised Semantic
Segmentation" (CVPR 2023). The operations are torchvision's, which are Pillow's.

Images of other than three channels are changed as grey ones are, each channel by itself: colour and
hue leave them as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torchvision.transforms.v2.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl import distributed
from u2pl.notation import COLOURS
from u2pl.schedules import step_seed

#: A uint8 image [3, H, W] and a strength -> the changed image.
Change = Callable[[Tensor, float], Tensor]


class Operation(NamedTuple):
    """A change of an image's colours, and the range that its strength is drawn from."""

    change: Change
    low: float = 0.0
    high: float = 0.0


def _changed(image: Tensor, change: Change, strength: float) -> Tensor:
    if len(image) == COLOURS:
        return change(image, strength)
    return change(image[:, None], strength)[:, 0]


def _blur(image: Tensor, sigma: float) -> Tensor:
    return F.gaussian_blur(image, [9, 9], [sigma, sigma])


#: AugSeg's pool; factors below 1 weaken contrast, sharpness, colour and brightness.
OPERATIONS: dict[str, Operation] = {
    "identity": Operation(lambda image, _: image),
    "autocontrast": Operation(lambda image, _: F.autocontrast(image)),
    "equalize": Operation(lambda image, _: F.equalize(image)),
    "blur": Operation(_blur, 0.1, 2.0),
    "contrast": Operation(F.adjust_contrast, 0.05, 0.95),
    "sharpness": Operation(F.adjust_sharpness, 0.05, 0.95),
    "colour": Operation(F.adjust_saturation, 0.05, 0.95),
    "brightness": Operation(F.adjust_brightness, 0.05, 0.95),
    "hue": Operation(F.adjust_hue, 0.0, 0.5),
    "posterize": Operation(lambda image, bits: F.posterize(image, int(bits)), 4.0, 9.0),
    "solarize": Operation(F.solarize, 1.0, 255.0),
}


class IntensityConfig(BaseModel):
    """How many operations change an image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    most: int = Field(
        3,
        ge=0,
        le=len(OPERATIONS),
        description="maximum number of operations of an image, k; 0 = none",
    )
    fixed: bool = Field(
        False, description="always that many; off: a number drawn from 1 to it (AugSeg sec. 3.2)"
    )


class RandomIntensity:
    """Changes each image by operations of its own, in random order and at random strength.

    Args:
        config: how many operations.
    """

    def __init__(self, config: IntensityConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(self, generator: torch.Generator, image_B3HW: Tensor) -> Tensor:
        """The changed images, uint8.

        What is drawn decides which kernels are launched, so it is drawn on the CPU, where it needs
        no host sync, and for the global batch, of which this process takes its own images.

        Args:
            generator: the step's, equal on all processes; it is not advanced.
            image_B3HW: uint8 RGB, or any other channels.
        """
        if not self.config.most:
            return image_B3HW
        draw = torch.Generator().manual_seed(step_seed(generator.initial_seed(), 2))
        everything = [self._draw(draw) for _ in range(len(image_B3HW) * distributed.world_size())]
        first = distributed.rank() * len(image_B3HW)
        changed = []
        for image, operations in zip(image_B3HW, everything[first:], strict=False):
            for name, strength in operations:
                image = _changed(image, OPERATIONS[name].change, strength)
            changed.append(image)
        return torch.stack(changed)

    def _draw(self, draw: torch.Generator) -> list[tuple[str, float]]:
        """Names and strengths of an image's operations, no name twice."""
        places = torch.randperm(len(OPERATIONS), generator=draw).tolist()
        number, *levels = torch.rand(1 + self.config.most, generator=draw).tolist()
        count = self.config.most if self.config.fixed else 1 + int(number * self.config.most)
        names = [list(OPERATIONS)[place] for place in places[:count]]
        return [
            (name, OPERATIONS[name].low + (OPERATIONS[name].high - OPERATIONS[name].low) * level)
            for name, level in zip(names, levels, strict=False)
        ]
