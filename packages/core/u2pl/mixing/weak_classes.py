"""Mixing that shows weak classes more often: adaptive copy-paste and CutMix of AEL.

Shapes: G = images of the global batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from u2pl import distributed
from u2pl.maps import one_hot
from u2pl.mixing.blend import paste
from u2pl.mixing.masks import box_mask, boxes_around
from u2pl.mixing.mixers import Mixed


class Source(NamedTuple):
    """What each image receives pixels from."""

    class_B: Tensor  # int64: the class it is to show
    image_B: Tensor  # int64: another image of the global batch that shows it
    found_B: Tensor  # bool: whether there is one, and the coin says yes


def draw_sources(
    label_BHW: Tensor, chance_C: Tensor, probability: float, generator: torch.Generator
) -> Source:
    """Draw a class for each image, and another image of the global batch in which it occurs.

    Args:
        label_BHW: integer class ids, 255 = ignore.
        chance_C: probability of each class.
        probability: of an image to receive anything.
        generator: the step's, equal on all processes.
    """
    count, on = len(label_BHW) * distributed.world_size(), label_BHW.device
    present_GC = distributed.gather(one_hot(label_BHW, len(chance_C)).flatten(2).any(dim=2))
    draw = torch.rand(count, 2 + count, generator=generator, device=generator.device).to(on)
    drawn = torch.searchsorted(chance_C.cumsum(0), draw[:, 0].contiguous()).clamp(
        max=len(chance_C) - 1
    )
    shows_GG = present_GC.t()[drawn]  # row g: the images that show g's class
    shows_GG = shows_GG & ~torch.eye(count, dtype=torch.bool, device=on)
    chosen = torch.where(shows_GG, draw[:, 2:], -1.0).max(dim=1).indices
    found = shows_GG.any(dim=1) & (draw[:, 1] < probability)
    return Source(*(distributed.local_rows(each) for each in (drawn, chosen, found)))


def paste_class(source: Source, label_BHW: Tensor, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    """Adaptive copy-paste: all pixels of the drawn class from its source.

    Args:
        source: from `draw_sources` with these labels.
        label_BHW: integer class ids, 255 = ignore.
        image_B3HW: images of any dtype.

    Returns:
        Labels and images.
    """
    label = distributed.pick(label_BHW, source.image_B)
    image = distributed.pick(image_B3HW, source.image_B)
    mask = (label == source.class_B.view(-1, 1, 1)) & source.found_B.view(-1, 1, 1)
    return paste(mask, label, label_BHW), paste(mask, image, image_B3HW)


def paste_box(
    source: Source,
    generator: torch.Generator,
    area: float,
    image_B3HW: Tensor,
    valid_BHW: Tensor,
    label_BHW: Tensor,
    *maps: Tensor | None,
) -> Mixed:
    """Adaptive CutMix: a box of the source that holds a random pixel of the drawn class.

    Args:
        source: from `draw_sources` with these labels.
        generator: the step's, equal on all processes.
        area: of the box, as a share of the image.
        image_B3HW: images of any dtype.
        valid_BHW: bool, False on padding.
        label_BHW: integer class ids, 255 = ignore.
        maps: more to be mixed alike; None stays None.

    Returns:
        The mixed images; the label is the first of the maps.
    """
    size = (valid_BHW.shape[-2], valid_BHW.shape[-1])
    count, on = len(label_BHW) * distributed.world_size(), label_BHW.device
    draw = torch.rand(count, 4, generator=generator, device=generator.device)
    uniform_B4 = distributed.local_rows(draw).to(on)
    theirs = distributed.pick(label_BHW, source.image_B)
    pixel = _random_member(theirs == source.class_B.view(-1, 1, 1), uniform_B4[:, 3])
    mask = box_mask(boxes_around(pixel, uniform_B4[:, :3], size, area), size)
    mask &= source.found_B.view(-1, 1, 1)
    image, valid, *mixed = (
        None if m is None else paste(mask, distributed.pick(m, source.image_B), m)
        for m in (image_B3HW, valid_BHW, label_BHW, *maps)
    )
    assert image is not None and valid is not None
    return Mixed(image, valid, tuple(mixed))


def _random_member(member_BHW: Tensor, uniform_B: Tensor) -> Tensor:
    """Row-major number of a random True pixel of each mask; 0 without one."""
    place_BN = member_BHW.flatten(1).cumsum(dim=1)
    wanted = (uniform_B * place_BN[:, -1]).floor() + 1
    pixel = torch.searchsorted(place_BN, wanted.long().unsqueeze(1)).squeeze(1)
    return torch.where(place_BN[:, -1] > 0, pixel, 0).clamp(max=place_BN.shape[1] - 1)
