"""Masks of mixed images: True where pixels come from the other image (CutMix, ClassMix).

Shapes: N = pixels of an image, S = C + 1 slots, the classes and then the ignore label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.notation import IGNORE


def box_mask(boxes_B4: Tensor, size: Sequence[int]) -> Tensor:
    """Bool [B, H, W], True in the box (top, left, bottom, right), bottom and right exclusive."""
    top, left, bottom, right = boxes_B4.long().unsqueeze(-1).unbind(dim=1)
    rows = torch.arange(size[0], device=boxes_B4.device)
    columns = torch.arange(size[1], device=boxes_B4.device)
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return in_rows.unsqueeze(2) & in_columns.unsqueeze(1)


def inside_boxes(boxes_BN5: Tensor, label_BHW: Tensor) -> Tensor:
    """Whether each pixel lies in a box of its own class, bool [B, H, W].

        any(box.class == label[i] and i in box for box in boxes)

    Args:
        boxes_BN5: class, top, left, bottom, right; bottom and right exclusive; class -1 is no box.
        label_BHW: integer class ids.
    """
    inside = torch.zeros_like(label_BHW, dtype=torch.bool)
    for box_B5 in boxes_BN5.unbind(dim=1):  # a few; one mask at a time bounds the memory
        own_B11 = box_B5[:, :1, None]
        inside |= box_mask(box_B5[:, 1:], inside.shape[-2:]) & (label_BHW == own_B11)
    return inside


def random_boxes(
    count: int, size: tuple[int, int], area: float, generator: torch.Generator
) -> Tensor:
    """CutMix boxes: fixed area, log-uniform aspect ratio, uniform position; always in the image.

    Args:
        count: number of boxes.
        size: (H, W).
        area: box area as a share of the image, in (0, 1]; CutMix and U2PL use 0.5.
        generator: random generator on any device.

    Returns:
        int64 [count, 4], in the format of `box_mask`, on the generator's device.
    """
    draw = torch.rand(count, 3, generator=generator, device=generator.device)
    return _placed(*_sides(draw[:, 0], size, area), draw[:, 1:3], size)


def _sides(uniform_B: Tensor, size: tuple[int, int], area: float) -> tuple[Tensor, Tensor]:
    """Heights and widths of boxes of a fixed area, log-uniform in their ratio."""
    # for heights between area x H and H both sides fit into the image
    height = (size[0] * torch.exp(uniform_B * math.log(area))).round().clamp(1, size[0])
    return height, (area * size[0] * size[1] / height).round().clamp(1, size[1])


def _placed(height_B: Tensor, width_B: Tensor, uniform_B2: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes of these sides anywhere in the image, int64 [B, 4]."""
    top = (uniform_B2[:, 0] * (size[0] - height_B + 1)).floor()
    left = (uniform_B2[:, 1] * (size[1] - width_B + 1)).floor()
    return torch.stack([top, left, top + height_B, left + width_B], dim=1).long()


#: Areas, as a share of the image, and heights per width of UniMatch's boxes.
AREAS, ASPECTS = (0.02, 0.4), (0.3, 1 / 0.3)


def boxes_of_many_sizes(
    count: int, size: tuple[int, int], probability: float, generator: torch.Generator
) -> Tensor:
    """UniMatch's boxes: area and aspect ratio uniform, position uniform in the image.

    (Released: positions in which the box leaves the image are drawn again, which prefers small
    boxes.)

    Args:
        count: number of boxes.
        size: (H, W).
        probability: of a box; without one top and bottom are 0.
        generator: random generator on any device.

    Returns:
        int64 [count, 4], in the format of `box_mask`, on the generator's device.
    """
    draw = torch.rand(count, 5, generator=generator, device=generator.device)
    area = (AREAS[0] + (AREAS[1] - AREAS[0]) * draw[:, 0]) * size[0] * size[1]
    aspect = ASPECTS[0] + (ASPECTS[1] - ASPECTS[0]) * draw[:, 1]
    height = (area * aspect).sqrt().round().clamp(1, size[0])
    width = (area / aspect).sqrt().round().clamp(1, size[1])
    boxes = _placed(height, width, draw[:, 2:4], size)
    return torch.where((draw[:, 4] < probability).unsqueeze(1), boxes, 0)


def scaled_boxes(area_B: Tensor, uniform_B2: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes of the image's shape and of given areas, anywhere in it: int64 [B, 4].

    Args:
        area_B: share of the image's area, in [0, 1].
        uniform_B2: uniform random numbers in [0, 1), for the position.
        size: (H, W).
    """
    side = area_B.sqrt()
    height, width = ((side * length).round() for length in size)
    return _placed(height, width, uniform_B2, size)


def boxes_around(pixel_B: Tensor, uniform_B3: Tensor, size: tuple[int, int], area: float) -> Tensor:
    """Boxes of fixed area and log-uniform aspect ratio that hold a given pixel: int64 [B, 4].

    Args:
        pixel_B: int64, row-major number of the pixel.
        uniform_B3: uniform random numbers in [0, 1).
        size: (H, W).
        area: box area as a share of the image, in (0, 1].
    """
    height, width = _sides(uniform_B3[:, 0], size, area)
    row, column = pixel_B // size[1], pixel_B % size[1]
    top = row - (uniform_B3[:, 1] * height).floor()
    left = column - (uniform_B3[:, 2] * width).floor()
    # clamped, the box holds the pixel still
    top = torch.minimum(top.clamp(min=0), size[0] - height)
    left = torch.minimum(left.clamp(min=0), size[1] - width)
    return torch.stack([top, left, top + height, left + width], dim=1).long()


def half_of_classes(label_BHW: Tensor, score_BC: Tensor) -> Tensor:
    """ClassMix: True on a random half, rounded up, of the classes of each image; bool [B, H, W].

    Args:
        label_BHW: integer class ids, 255 = ignore, which is never drawn.
        score_BC: random numbers in [0, 1); the classes with the lowest are drawn.
    """
    slot_BN = _slots(label_BHW, score_BC.shape[1])
    chosen_BC = _lowest_half(_present(slot_BN, score_BC.shape[1] + 1)[:, :-1], score_BC)
    return F.pad(chosen_BC, (0, 1)).gather(1, slot_BN).view(label_BHW.shape)


def half_of_batch_classes(
    label_BHW: Tensor, score_BS: Tensor, gather: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """ClassMix of DAFormer's released code: classes are drawn from the whole batch, 255 included.

    Each image draws its own half, rounded up, and need not contain any of the classes it draws:

        values = sorted(set(label_BHW))
        for each image:
            mask = label in choice(values, ceil(len(values) / 2))

    Args:
        label_BHW: integer class ids, 255 = ignore.
        score_BS: random numbers in [0, 1); the classes with the lowest are drawn.
        gather: concatenates a tensor over processes.

    Returns:
        bool [B, H, W].
    """
    slots = score_BS.shape[1]
    slot_BN = _slots(label_BHW, slots - 1)
    present_S = gather(_present(slot_BN, slots).any(dim=0, keepdim=True)).any(dim=0)
    chosen_BS = _lowest_half(present_S.expand_as(score_BS), score_BS)
    return chosen_BS.gather(1, slot_BN).view(label_BHW.shape)


def _slots(label_BHW: Tensor, num_classes: int) -> Tensor:
    """Class ids with 255 replaced by C, int64 [B, N]."""
    return torch.where(label_BHW == IGNORE, num_classes, label_BHW).flatten(1).long()


def _present(slot_BN: Tensor, slots: int) -> Tensor:
    """Which slots occur in each image, bool [B, S]."""
    return torch.zeros(len(slot_BN), slots, device=slot_BN.device).scatter_(1, slot_BN, 1.0) > 0


def _lowest_half(present_BC: Tensor, score_BC: Tensor) -> Tensor:
    """In each row, the half of the present columns with the lowest scores, rounded up; bool."""
    place = torch.where(present_BC, score_BC, 2.0).argsort(dim=1).argsort(dim=1)
    return place < (present_BC.sum(dim=1, keepdim=True) + 1) // 2
