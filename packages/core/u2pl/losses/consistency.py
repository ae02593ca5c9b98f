"""Losses that ask two views for the same prediction."""

from __future__ import annotations

import torch
from torch import Tensor


def probability_distance(
    logits_BCHW: Tensor, target_BCHW: Tensor, valid_BHW: Tensor, count: Tensor | None = None
) -> Tensor:
    """Squared distance ||p_student - p_teacher||^2 of the probability vectors, mean over valid pixels (mean teacher, CutMix).

    Args:
        logits_BCHW: the student's scores; computed in float32.
        target_BCHW: the teacher's probabilities.
        valid_BHW: bool, False where there is only padding.
        count: valid pixels to divide by; those of this batch when None.
    """
    squared = (logits_BCHW.float().softmax(dim=1) - target_BCHW).square().sum(dim=1)
    count = valid_BHW.sum().float() if count is None else count
    return torch.where(valid_BHW, squared, 0.0).sum() / count.clamp(min=1)


def confident_share(
    target_BCHW: Tensor, valid_BHW: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """How many valid pixels have a top probability above `threshold`, and how many valid pixels there are (float32 scalars)."""
    confident = (target_BCHW.amax(dim=1) > threshold) & valid_BHW
    return confident.sum().float(), valid_BHW.sum().float()
