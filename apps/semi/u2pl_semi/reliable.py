"""The reliable part of U2PL and U2PL+: the loss on believed pseudo-labels."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl import distributed
from u2pl.losses.pseudo_label import adaptive_weight, symmetric_cross_entropy
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import Partition


class PseudoLossConfig(BaseModel):
    """Partition of the pseudo-labels, and the loss on the reliable ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha_0: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of unreliable pixels at the start; falls linearly to 0 (004 Eq 7)",
    )
    eta: float = Field(
        1.0,
        ge=0,
        description="base weight of L_u, divided by the share of reliable pixels (004 Eq 8)",
    )
    count: Literal["valid", "all"] = Field(
        "valid", description="pixels that share is taken of: without padding, or all (released)"
    )
    xi_1: float = Field(1.0, ge=0, description="weight of the cross entropy in L_u (000 Eq 4)")
    xi_2: float = Field(
        0.0, ge=0, description="weight of the reverse cross entropy in L_u (000 Eq 4); 0.1 in U2PL+"
    )


def unsupervised_loss(
    config: PseudoLossConfig, logits_BCHW: Tensor, label_BHW: Tensor, part: Partition
) -> tuple[Tensor, Tensor]:
    """L_u, the mean over the reliable pixels of all processes, and its weight lambda_u (004 Eqs 3, 8; 000 Eqs 4, 14)."""
    target = torch.where(part.reliable_BHW, label_BHW, IGNORE)
    reliable = distributed.average(part.reliable_BHW.sum())
    unreliable = distributed.average(part.unreliable_BHW.sum())
    counted = (
        reliable + unreliable if config.count == "valid" else reliable.new_full((), target.numel())
    )
    return (
        symmetric_cross_entropy(logits_BCHW, target, config.xi_1, config.xi_2, reliable),
        adaptive_weight(counted, reliable, config.eta),
    )
