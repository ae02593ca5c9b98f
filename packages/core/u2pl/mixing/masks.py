"""Which pixels of a mixed image come from its partner."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
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


def random_boxes(
    count: int, size: tuple[int, int], area: float, generator: torch.Generator
) -> Tensor:
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
    slot_BN = _slots(label_BHW, score_BC.shape[1])
    chosen_BC = _lowest_half(_present(slot_BN, score_BC.shape[1] + 1)[:, :-1], score_BC)
    return F.pad(chosen_BC, (0, 1)).gather(1, slot_BN).view(label_BHW.shape)


def half_of_batch_classes(
    label_BHW: Tensor, score_BC1: Tensor, gather: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """ClassMix as released with DAFormer: half of the n values that occur anywhere in the batch, rounded up; 255 is one of them.

    Each image draws for itself, so it may well show none of what it draws:

        values = sorted(set(label_BHW)); for each image: mask = label in choice(values, (n + n mod 2) / 2)

    Args:
        label_BHW: labels whose classes are drawn.
        score_BC1: random numbers in [0, 1), one for each of the C classes and a last one for 255; the lowest ones are taken.
        gather: joins a vector over processes.
    """
    slots = score_BC1.shape[1]
    slot_BN = _slots(label_BHW, slots - 1)
    present_C = gather(_present(slot_BN, slots).any(dim=0, keepdim=True)).any(dim=0)
    return (
        _lowest_half(present_C.expand_as(score_BC1), score_BC1)
        .gather(1, slot_BN)
        .view(label_BHW.shape)
    )


def _slots(label_BHW: Tensor, num_classes: int) -> Tensor:
    """Class ids with C in the place of 255, int64 [B, H x W]."""
    return torch.where(label_BHW == IGNORE, num_classes, label_BHW).flatten(1).long()


def _present(slot_BN: Tensor, slots: int) -> Tensor:
    """Bool [B, slots]: which of them occur in each image."""
    return torch.zeros(len(slot_BN), slots, device=slot_BN.device).scatter_(1, slot_BN, 1.0) > 0


def _lowest_half(present_BC: Tensor, score_BC: Tensor) -> Tensor:
    """Bool [B, C]: of those present in each row the half with the lowest scores, rounded up."""
    place = torch.where(present_BC, score_BC, 2.0).argsort(dim=1).argsort(dim=1)
    return place < (present_BC.sum(dim=1, keepdim=True) + 1) // 2
