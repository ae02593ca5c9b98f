"""Resizing, argmax and one-hot of score and label maps, for networks, losses and scoring."""

from __future__ import annotations

from collections.abc import Sequence

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


def upsample(logits_BChw: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear upsampling of a quarter-size map to `size` = (H, W), in the map's own dtype.

    Since h = ceil(H / 4), the result may have up to three rows and columns too many; these are cut.
    """
    full = F.interpolate(
        logits_BChw, scale_factor=OUTPUT_STRIDE, mode="bilinear", align_corners=False
    )
    return full[..., : size[0], : size[1]]


def downsample(map_BHW: Tensor) -> Tensor:
    """Nearest-neighbour quarter-size label or mask: feature (i, j) takes pixel (4i, 4j)."""
    return map_BHW[..., ::OUTPUT_STRIDE, ::OUTPUT_STRIDE]


def top_class(score_BCHW: Tensor) -> Tensor:
    """argmax over classes, int64 [B, H, W]; ties go to the lowest class id.

    On a CPU `max` takes at most a third of the time of `argmax`.
    """
    return score_BCHW.max(dim=1).indices


def one_hot(label_Bhw: Tensor, num_classes: int) -> Tensor:
    """One-hot bool [B, C, h, w] of an integer label map; all False at the ignore label 255."""
    classes = torch.arange(num_classes, device=label_Bhw.device).view(-1, 1, 1)
    return label_Bhw.unsqueeze(1) == classes
