"""Cross entropy with soft labels (ESL, sec. 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_cross_entropy(
    logits_BCHW: Tensor, target_BCHW: Tensor, valid_BHW: Tensor, count: Tensor | None = None
) -> Tensor:
    """-sum_c y_c log p_c, mean over valid pixels (ESL Eq 6).

    Args:
        logits_BCHW: logits in any floating dtype; computed in float32.
        target_BCHW: float labels that sum to 1.
        valid_BHW: bool, False on padding.
        count: divisor; the valid pixels of this batch when None.
    """
    each = -(target_BCHW * logits_BCHW.float().log_softmax(dim=1)).sum(dim=1)
    count = valid_BHW.sum().float() if count is None else count
    return torch.where(valid_BHW, each, 0.0).sum() / count.clamp(min=1)
