"""Exchanging pixels between images, labels and validity alike."""

from __future__ import annotations

import torch
from torch import Tensor


def paste(mask_BHW: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """`inside` where the mask is True, else `outside`; maps [B, H, W] or [B, ?, H, W]."""
    mask = mask_BHW.unsqueeze(1) if inside.dim() == 4 else mask_BHW
    return torch.where(mask, inside, outside)
