"""Which pixels of a mixed image come from its partner."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from u2pl.notation import IGNORE


def box_mask(boxes_B4: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool [B, H, W], True inside the box (top, left, bottom, right), bottom and right excluded."""
    top, left, bottom, right = boxes_B4.long().unsqueeze(-1).unbind(dim=1)
    rows = torch.arange(size[0], device=boxes_B4.device)
    columns = torch.arange(size[1], device=boxes_B4.device)
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return in_rows.unsqueeze(2) & in_columns.unsqueeze(1)


def random_boxes(count: int, size: tuple[int, int], area: float, generator: torch.Generator) -> Tensor:
    """Boxes of `area` x H x W pixels with a log-uniform aspect that fits the image, at a uniform place; int64 [count, 4].

    Args:
        count: number of boxes.
        size: (H, W).
        area: share of the image in (0, 1]; CutMix and U2PL use 0.5.
        generator: source of randomness on any device.
    """
    draw = torch.rand(count, 3, generator=generator, device=generator.device)
    # both sides fit the image for heights between area x H and H
    height = (size[0] * torch.exp(draw[:, 0] * math.log(area))).round().clamp(1, size[0])
    width = (area * size[0] * size[1] / height).round().clamp(1, size[1])
    top = (draw[:, 1] * (size[0] - height + 1)).floor()
    left = (draw[:, 2] * (size[1] - width + 1)).floor()
    return torch.stack([top, left, top + height, left + width], dim=1).long()


def half_of_classes(label_BHW: Tensor, score_BC: Tensor) -> Tensor:
    """ClassMix: bool [B, H, W], True on half of the classes present in each image, rounded up; 255 is no class.

    Args:
        label_BHW: labels whose classes are drawn.
        score_BC: random numbers in [0, 1); the classes with the lowest ones are taken.
    """
    batch, num_classes = score_BC.shape
    flat = torch.where(label_BHW == IGNORE, num_classes, label_BHW).flatten(1).long()
    present = torch.zeros(batch, num_classes + 1, device=flat.device).scatter_(1, flat, 1.0)[:, :num_classes] > 0
    place = torch.where(present, score_BC, 2.0).argsort(dim=1).argsort(dim=1)
    wanted = (present.sum(dim=1, keepdim=True) + 1) // 2
    chosen = torch.cat([place < wanted, place.new_zeros(batch, 1, dtype=torch.bool)], dim=1)
    return chosen.gather(1, flat).view(label_BHW.shape)
