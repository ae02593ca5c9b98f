"""Resizing of images, and resizing, argmax and one-hot of score and label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.notation import OUTPUT_STRIDE


def shrink_factor(size: tuple[int, int], long_side: int) -> float:
    """Factor that scales the longer side down to `long_side` pixels; 1 if it already fits.

    Args:
        size: (H, W) in pixels.
        long_side: limit in pixels; 0 = no limit.
    """
    return min(1.0, long_side / max(size)) if long_side else 1.0


def resize_image(image_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize to `size` = (H, W), antialiased where it shrinks.

    The same pixels as Pillow's `BILINEAR`, by which training images are resized, before its
    rounding to bytes.

    Args:
        image_BCHW: floating point; antialiasing of uint8 is not implemented on GPUs.
        size: height and width in pixels; the image itself is returned if it has this size.
    """
    if tuple(image_BCHW.shape[-2:]) == size:
        return image_BCHW
    return F.interpolate(image_BCHW, size, mode="bilinear", align_corners=False, antialias=True)


def upsample(logits_BChw: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear upsampling of a quarter-size map to `size` = (H, W), in the map's own dtype.

    Since h = ceil(H / 4), the result may have up to three rows and columns too many; these are cut.
    """
    full = F.interpolate(
        logits_BChw, scale_factor=OUTPUT_STRIDE, mode="bilinear", align_corners=False
    )
    return full[..., : size[0], : size[1]]


#: Which pixel's label speaks for a feature.
Pixel = Literal["centre", "released"]


def downsample(map_BHW: Tensor, pixel: Pixel = "centre", stride: int = OUTPUT_STRIDE) -> Tensor:
    """Quarter-size label or mask: each feature takes the label of one of its 4 x 4 pixels.

    Args:
        map_BHW: any dtype.
        pixel: `centre`: pixel 4i + 2 of rows and of columns, or the last one if the image ends
            before it, since `upsample` puts feature i at 4i + 1.5. `released`: pixel
            floor(i H / h), the first one at sides that are multiples of 4.
        stride: pixels per feature, if other than 4.
    """
    rows, columns = (_speaking(size, pixel, stride, map_BHW.device) for size in map_BHW.shape[-2:])
    return map_BHW.index_select(-2, rows).index_select(-1, columns)


def enlarge(map_Bhw: Tensor, size: Sequence[int]) -> Tensor:
    """A quarter-size map of any dtype at `size` = (H, W): each pixel takes its feature's value.

    A map that has this size is returned itself.
    """
    if tuple(map_Bhw.shape[-2:]) == tuple(size):
        return map_Bhw
    rows, columns = (torch.arange(side, device=map_Bhw.device) // OUTPUT_STRIDE for side in size)
    return map_Bhw.index_select(-2, rows).index_select(-1, columns)


def _speaking(size: int, pixel: Pixel, stride: int, device: torch.device) -> Tensor:
    """For each feature along an axis of `size` pixels, the pixel that speaks for it."""
    small = -(-size // stride)
    place = torch.arange(small, device=device)
    if pixel == "released":
        return place * size // small
    return (place * stride + stride // 2).clamp_(max=size - 1)


def top_class(score_BCHW: Tensor) -> Tensor:
    """argmax over classes, int64 [B, H, W]; ties go to the lowest class id.

    On a CPU `max` takes at most a third of the time of `argmax`.
    """
    return score_BCHW.max(dim=1).indices


def one_hot(label_Bhw: Tensor, num_classes: int) -> Tensor:
    """One-hot bool [B, C, h, w] of an integer label map; all False at the ignore label 255."""
    classes = torch.arange(num_classes, device=label_Bhw.device).view(-1, 1, 1)
    return label_Bhw.unsqueeze(1) == classes
