"""Slow references that the tests of several methods share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def enlarged(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Logits at a quarter of the image's size, in float64 at its own size [..., H, W]."""
    wide = logits.detach().double()
    large = F.interpolate(wide, scale_factor=4, mode="bilinear", align_corners=False)
    return large[..., : size[0], : size[1]]


def confident_loss(
    logits: Tensor, label: Tensor, top: Tensor, valid: Tensor, least: float
) -> float:
    """Sum over the confident pixels of -log p(label), over the number of valid ones."""
    log_prob, total = logits.log_softmax(dim=1), 0.0
    for b, i, j in valid.nonzero().tolist():
        if top[b, i, j] >= least:
            total -= log_prob[b, int(label[b, i, j]), i, j].item()
    return total / int(valid.sum())
