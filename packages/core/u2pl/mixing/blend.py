"""Copying pixels from one batch of images or maps into another."""

from __future__ import annotations

import torch
from torch import Tensor


def paste(mask_BHW: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """`inside` where the bool mask is True, else `outside`; both [B, H, W] or [B, ?, H, W]."""
    mask = mask_BHW.unsqueeze(1) if inside.dim() == 4 else mask_BHW
    return torch.where(mask, inside, outside)
