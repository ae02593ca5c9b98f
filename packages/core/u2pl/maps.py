"""Maps at image size and at feature size, and labels as classes: what networks, losses and scoring share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.notation import OUTPUT_STRIDE


def shrink_factor(size: tuple[int, int], long_side: int) -> float:
    """Factor that shrinks the longer of two sides to `long_side` pixels; 1 if it is no longer.

    A `long_side` of 0 means no limit.
    """
    return min(1.0, long_side / max(size)) if long_side else 1.0


def upsample(logits_BChw: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a quarter-size map to `size` = (H, W); bilinear, in the map's own dtype.

    The map may cover up to three pixels more than the image (h = ceil(H / 4)); these are cut off.
    """
    full = F.interpolate(
        logits_BChw, scale_factor=OUTPUT_STRIDE, mode="bilinear", align_corners=False
    )
    return full[..., : size[0], : size[1]]


def downsample(map_BHW: Tensor) -> Tensor:
    """Nearest quarter-size label or mask: pixel (4i, 4j) is sampled for feature (i, j)."""
    return map_BHW[..., ::OUTPUT_STRIDE, ::OUTPUT_STRIDE]


def top_class(score_BCHW: Tensor) -> Tensor:
    """argmax over classes, int64 [B, H, W]; ties go to the lowest class id.

    `max` takes a third of `argmax`'s time on a CPU, or less.
    """
    return score_BCHW.max(dim=1).indices


def one_hot(label_Bhw: Tensor, num_classes: int) -> Tensor:
    """One-hot bool [B, C, h, w] of a label map; 255 belongs to no class."""
    classes = torch.arange(num_classes, device=label_Bhw.device).view(-1, 1, 1)
    return label_Bhw.unsqueeze(1) == classes
