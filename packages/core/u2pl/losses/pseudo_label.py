"""Losses on pseudo-labelled pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from u2pl.losses.supervised import cross_entropy, valid_count
from u2pl.notation import IGNORE


def adaptive_weight(valid: Tensor, reliable: Tensor, eta: float = 1.0) -> Tensor:
    """lambda_u = eta x all pixels / reliable pixels (004 Eq 8, 000 Eq 14); 0 where none is reliable.

    Args:
        valid: number of pixels counted (ours: those that are not padding; the paper's text: all).
        reliable: number of reliable ones among them.
        eta: base weight.
    """
    return torch.where(reliable > 0, eta * valid / reliable.clamp(min=1), 0.0)


def reverse_cross_entropy(
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    count: Tensor | None = None,
    floor: float = 1e-4,
    weight_BHW: Tensor | None = None,
) -> Tensor:
    """Mean of -sum_c p_c log y_c with log 0 read as log `floor`, so -log(floor) (1 - p_y) (000 Eq 4, second term).

    Args:
        logits_BCHW: float scores; computed in float32.
        label_BHW: integer class ids, 255 = ignore.
        count: what to divide by; the labelled pixels of this batch when None.
        floor: what a zero of the one-hot label is raised to.
        weight_BHW: float factor of each pixel's term; it does not change what is divided by.
    """
    valid = label_BHW != IGNORE
    safe = torch.where(valid, label_BHW, 0).long()
    prob_y = logits_BCHW.float().softmax(dim=1).gather(1, safe.unsqueeze(1)).squeeze(1)
    missed = torch.where(valid, 1 - prob_y, 0.0)
    missed = missed if weight_BHW is None else weight_BHW * missed
    total = missed.sum() * -math.log(floor)
    return total / (valid_count(label_BHW) if count is None else count).clamp(min=1)


def symmetric_cross_entropy(
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    xi_1: float = 1.0,
    xi_2: float = 0.1,
    count: Tensor | None = None,
    weight_BHW: Tensor | None = None,
) -> Tensor:
    """xi_1 CE(p, y) + xi_2 CE(y, p) over labelled pixels (000 Eq 4); (1, 0) is plain cross entropy (004 Eq 3).

    Args:
        logits_BCHW: float scores.
        label_BHW: integer class ids, 255 = ignore.
        xi_1: weight of the cross entropy.
        xi_2: weight of the reverse cross entropy; 0 leaves it out.
        count: what to divide by; the labelled pixels of this batch when None.
        weight_BHW: float factor of each pixel's term; it does not change what is divided by.
    """
    loss = xi_1 * cross_entropy(logits_BCHW, label_BHW, count, weight_BHW)
    return (
        loss + xi_2 * reverse_cross_entropy(logits_BCHW, label_BHW, count, weight_BHW=weight_BHW)
        if xi_2
        else loss
    )
