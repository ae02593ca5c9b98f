"""Consistency losses: the student's prediction against the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor


def probability_distance(
    logits_BCHW: Tensor, target_BCHW: Tensor, valid_BHW: Tensor, count: Tensor | None = None
) -> Tensor:
    """||p_student - p_teacher||^2 per pixel, mean over valid pixels (mean teacher, CutMix).

    Args:
        logits_BCHW: the student's logits in any floating dtype; computed in float32.
        target_BCHW: the teacher's probabilities.
        valid_BHW: bool, False on padding.
        count: divisor; the valid pixels of this batch when None.
    """
    squared = (logits_BCHW.float().softmax(dim=1) - target_BCHW).square().sum(dim=1)
    count = valid_BHW.sum().float() if count is None else count
    return torch.where(valid_BHW, squared, 0.0).sum() / count.clamp(min=1)


def confident_share(
    target_BCHW: Tensor, valid_BHW: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the share of confident pixels (CutMix), float32 scalars.

    Args:
        target_BCHW: the teacher's probabilities.
        valid_BHW: bool, False on padding.
        threshold: a pixel is confident if its top probability is above it (>).

    Returns:
        The number of confident valid pixels, and of all valid pixels.
    """
    confident = (target_BCHW.amax(dim=1) > threshold) & valid_BHW
    return confident.sum().float(), valid_BHW.sum().float()
