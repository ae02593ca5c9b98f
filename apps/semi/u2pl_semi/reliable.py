"""The reliable part of U2PL and U2PL+: the loss on reliable pseudo-labels."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl import distributed
from u2pl.losses.consistency import confident_share
from u2pl.losses.pseudo_label import adaptive_weight, symmetric_cross_entropy
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import Partition


class PseudoLossConfig(BaseModel):
    """Partition of the pseudo-labels, and the loss on reliable ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha_0: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of unreliable pixels at the start; falls linearly to 0 (U2PL Eq 7)",
    )
    eta: float = Field(
        1.0,
        ge=0,
        description="base weight of L_u, divided by the share of reliable pixels (U2PL Eq 8)",
    )
    count: Literal["valid", "all"] = Field(
        "valid", description="pixels that the share refers to: all but padding, or all (released)"
    )
    confidence: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="multiply lambda_u by the share of pixels above this top probability, so that "
        "a teacher that is unsure teaches little; 0 = off, as in the papers",
    )
    xi_1: float = Field(1.0, ge=0, description="weight of the cross entropy in L_u (U2PL+ Eq 4)")
    xi_2: float = Field(
        0.0,
        ge=0,
        description="weight of the reverse cross entropy in L_u (U2PL+ Eq 4); 0.1 in U2PL+",
    )


def unsupervised_loss(
    config: PseudoLossConfig,
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    prob_BCHW: Tensor,
    part: Partition,
    weight_BHW: Tensor | None = None,
    divisor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """L_u, the mean over the reliable pixels of all processes, and its weight lambda_u.

    Args:
        config: weights of L_u's terms and of L_u.
        logits_BCHW: the student's scores.
        label_BHW: integer pseudo-labels.
        prob_BCHW: the teacher's probabilities.
        part: which of the pixels are reliable.
        weight_BHW: float weight of each pixel's term.
        divisor: of the sum over the reliable pixels, see `PixelWeight.divisor`; their number when
            None.
    """
    target = torch.where(part.reliable_BHW, label_BHW, IGNORE)
    reliable = distributed.average(part.reliable_BHW.sum())
    unreliable = distributed.average(part.unreliable_BHW.sum())
    everything = reliable.new_full((), target.numel())
    counted = reliable + unreliable if config.count == "valid" else everything
    count = reliable if divisor is None else divisor
    terms = config.xi_1, config.xi_2
    loss = symmetric_cross_entropy(logits_BCHW, target, *terms, count, weight_BHW)
    weight = adaptive_weight(counted, reliable, config.eta)
    if config.confidence:
        valid = part.reliable_BHW | part.unreliable_BHW
        confident, seen = confident_share(prob_BCHW, valid, config.confidence)
        weight = weight * distributed.share(confident, seen)
    return loss, weight
