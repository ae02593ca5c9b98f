"""Pseudo-label weights: the share of confident predictions (DAFormer, Hoyer et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from u2pl.pseudo.partition import entropy


class Confident(NamedTuple):
    """Pseudo-labels weighted by the confidence of their image."""

    label_BHW: Tensor  # int64: argmax, on padding too
    weight_BHW: Tensor  # float32: q, 0 on padding and at the border
    share_B: Tensor  # float32: q of each image


def confident_pixels(
    prob_BCHW: Tensor,
    valid_BHW: Tensor,
    border_BHW: Tensor | None = None,
    threshold: float = 0.968,
    per: Literal["image", "batch"] = "image",
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Confident:
    """Pseudo-labels with weight q, the share of confident pixels (DAFormer Eq 4).

    q is 0 without valid pixels. A confident pixel reaches the threshold (>=), whereas in
    `losses.consistency.confident_share` it exceeds it (>), as in CutMix.

    Args:
        prob_BCHW: the teacher's probabilities.
        valid_BHW: bool, False on padding, which is left out of q and has weight 0.
        border_BHW: bool [B, H, W], or [B, H] for whole rows: pixels that are counted in q but have
            weight 0; no such pixels when None.
        threshold: minimum top probability of a confident pixel.
        per: one q per image (DAFormer's text), or one for the global batch (released code).
        gather: concatenates a tensor over processes.
    """
    top, label = prob_BCHW.max(dim=1)
    count_B2 = torch.stack(
        [((top >= threshold) & valid_BHW).sum(dim=(1, 2)), valid_BHW.sum(dim=(1, 2))], dim=1
    )
    if per == "batch":
        count_B2 = gather(count_B2).sum(dim=0, keepdim=True).expand_as(count_B2)
    share = count_B2[:, 0].float() / count_B2[:, 1].clamp(min=1)
    weighted = valid_BHW
    if border_BHW is not None:
        weighted = valid_BHW & ~(border_BHW if border_BHW.dim() == 3 else border_BHW.unsqueeze(2))
    return Confident(label, torch.where(weighted, share.view(-1, 1, 1), 0.0), share)


def image_confidence(prob_BCHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """Mean over an image's pixels of (1 - H(p) / log C) max p (AugSeg sec. 3.3); float32 [B].

    Padding is left out; 0 without valid pixels.

    Args:
        prob_BCHW: the teacher's probabilities.
        valid_BHW: bool, False on padding.
    """
    prob = prob_BCHW.float()
    sure = (1 - entropy(prob) / math.log(max(2, prob.shape[1]))) * prob.amax(dim=1)
    count = valid_BHW.sum(dim=(1, 2)).clamp(min=1)
    return torch.where(valid_BHW, sure, 0.0).sum(dim=(1, 2)) / count
