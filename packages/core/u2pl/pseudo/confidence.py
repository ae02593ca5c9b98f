"""How much to believe predictions: the share of confident ones as the weight of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Confident(NamedTuple):
    """Pseudo-labels that are believed as far as their image is."""

    label_BHW: Tensor  # int64: the most probable class, on padding too
    weight_BHW: Tensor  # float32: q; 0 on padding and at the border
    share_B: Tensor  # float32: q of each image


def confident_pixels(
    prob_BCHW: Tensor,
    valid_BHW: Tensor,
    border_BHW: Tensor | None = None,
    threshold: float = 0.968,
    per: Literal["image", "batch"] = "image",
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Confident:
    """q = valid pixels with a top probability of at least `threshold` / valid pixels (DAFormer Eq 4); 0 where nothing is valid.

    Unlike `losses.consistency.confident_share`, which counts those above its threshold, as CutMix does.

    Args:
        prob_BCHW: the teacher's probabilities.
        valid_BHW: bool, False on padding, which neither counts nor weighs.
        border_BHW: bool [B, H, W], or [B, H] for whole rows: pixels that count for q but weigh nothing; none when None.
        threshold: top probability of a confident pixel.
        per: one q for each image (DAFormer's text), or one for all images of the step (released).
        gather: joins a vector over processes.
    """
    top, label = prob_BCHW.max(dim=1)
    count_B2 = torch.stack(
        [((top >= threshold) & valid_BHW).sum(dim=(1, 2)), valid_BHW.sum(dim=(1, 2))], dim=1
    )
    if per == "batch":
        count_B2 = gather(count_B2).sum(dim=0, keepdim=True).expand_as(count_B2)
    share = count_B2[:, 0].float() / count_B2[:, 1].clamp(min=1)
    believed = valid_BHW
    if border_BHW is not None:
        believed = valid_BHW & ~(border_BHW if border_BHW.dim() == 3 else border_BHW.unsqueeze(2))
    return Confident(label, torch.where(believed, share.view(-1, 1, 1), 0.0), share)
