"""Losses on pseudo-labelled pixels, and their weight lambda_u."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from u2pl.losses.supervised import cross_entropy, or_one, valid_count
from u2pl.notation import IGNORE


def adaptive_weight(valid: Tensor, reliable: Tensor, eta: float = 1.0) -> Tensor:
    """lambda_u = eta x pixels / reliable pixels (U2PL Eq 8, U2PL+ Eq 14); 0 if none is reliable.

    Args:
        valid: number of pixels without padding (ours; the papers count all pixels).
        reliable: number of reliable pixels among them.
        eta: base weight.

    Returns:
        Float scalar.
    """
    return torch.where(reliable > 0, eta * valid / reliable.clamp(min=1), 0.0)


def confident_label(
    label_BHW: Tensor, top_BHW: Tensor, valid_BHW: Tensor, threshold: float
) -> Tensor:
    """The pseudo-label, 255 on padding and where its probability is below the threshold.

    Args:
        label_BHW: integer pseudo-labels, 255 = ignore.
        top_BHW: the label's probability.
        valid_BHW: bool, False on padding.
        threshold: probability from which a pixel is learned from.
    """
    return torch.where((top_BHW >= threshold) & valid_BHW, label_BHW, IGNORE)


def reverse_cross_entropy(
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    count: Tensor | None = None,
    floor: float = 1e-4,
    weight_BHW: Tensor | None = None,
) -> Tensor:
    """-sum_c p_c log y_c, mean over labelled pixels: a term of `symmetric_cross_entropy`.

    With zeros of the one-hot label y raised to `floor`, this is -log(floor) (1 - p_y).

    Args:
        logits_BCHW: logits in any floating dtype; computed in float32.
        label_BHW: integer class ids, 255 = ignore.
        count: divisor; the labelled pixels of this batch when None.
        floor: value that replaces the zeros of the one-hot label.
        weight_BHW: float weight of each pixel's term; it does not change the divisor.
    """
    valid = label_BHW != IGNORE
    safe = torch.where(valid, label_BHW, 0).long()
    prob_y = logits_BCHW.float().softmax(dim=1).gather(1, safe.unsqueeze(1)).squeeze(1)
    missed = torch.where(valid, 1 - prob_y, 0.0)
    missed = missed if weight_BHW is None else weight_BHW * missed
    total = missed.sum() * -math.log(floor)
    return total / or_one(valid_count(label_BHW) if count is None else count)


def symmetric_cross_entropy(
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    xi_1: float = 1.0,
    xi_2: float = 0.1,
    count: Tensor | None = None,
    weight_BHW: Tensor | None = None,
) -> Tensor:
    """xi_1 CE(p, y) + xi_2 CE(y, p), mean over labelled pixels (U2PL+ Eq 4).

    With weights (1, 0) it is plain cross entropy (U2PL Eq 3).

    Args:
        logits_BCHW: logits in any floating dtype; computed in float32.
        label_BHW: integer class ids, 255 = ignore.
        xi_1: weight of the cross entropy.
        xi_2: weight of the reverse cross entropy; 0 skips it.
        count: divisor; the labelled pixels of this batch when None.
        weight_BHW: float weight of each pixel's term; it does not change the divisor.
    """
    loss = xi_1 * cross_entropy(logits_BCHW, label_BHW, count, weight_BHW)
    if xi_2 == 0:
        return loss
    reverse = reverse_cross_entropy(logits_BCHW, label_BHW, count, weight_BHW=weight_BHW)
    return loss + xi_2 * reverse
