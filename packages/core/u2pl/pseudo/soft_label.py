"""Dynamic soft labels: the classes that a prediction wavers between, with their probabilities.

ESL (Ma et al., ICCV 2023), sec. 3.2.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor


class SoftLabelConfig(BaseModel):
    """Which classes a soft label keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dynamic", "top"] = Field(
        "dynamic",
        description="dynamic: the fewest classes whose probabilities sum to eta (ESL Eq 4); top: "
        "as many classes for every pixel (ESL Tab. 3)",
    )
    eta: float = Field(
        0.95, gt=0, le=1, description="probability that the kept classes have together (ESL Tab. 3)"
    )
    top: PositiveInt = Field(
        1,
        description="number of classes kept by `top`; 1 = hard labels, the baseline of ESL Tab. 2",
    )


def soft_label(prob_BCHW: Tensor, config: SoftLabelConfig) -> Tensor:
    """Probabilities of the dominant classes, renormalised, float32 [B, C, H, W] (ESL Eqs 3-5).

        delta = the smallest of the most probable classes that together reach eta
        y[c] = p[c] if p[c] >= delta else 0;  y /= sum(y)

    Args:
        prob_BCHW: the teacher's probabilities.
        config: which classes are kept.
    """
    prob = prob_BCHW.float()
    kept = torch.where(prob >= dominant_threshold(prob, config), prob, 0.0)
    return kept / kept.sum(dim=1, keepdim=True)


def dominant_threshold(prob_BCHW: Tensor, config: SoftLabelConfig) -> Tensor:
    """delta, the probability of the last class that is kept, [B, 1, H, W] (ESL Eq 4)."""
    if config.kind == "top":
        count = min(config.top, prob_BCHW.shape[1])
        return prob_BCHW.topk(count, dim=1).values[:, -1:]
    falling = prob_BCHW.sort(dim=1, descending=True).values
    # what the classes before it have; the first class is kept in any case
    before = torch.cat([torch.zeros_like(falling[:, :1]), falling.cumsum(dim=1)[:, :-1]], dim=1)
    return torch.where(before < config.eta, falling, 2.0).amin(dim=1, keepdim=True)
