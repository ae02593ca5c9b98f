"""The supervised loss L_s: options, and a table of the losses to choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from u2pl import distributed
from u2pl.errors import did_you_mean
from u2pl.losses.supervised import cross_entropy, hard_pixels, valid_count


class SupervisedConfig(BaseModel):
    """The supervised loss L_s."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: str = Field(
        "cross_entropy",
        description="cross_entropy, or ohem: cross entropy of the hard pixels only (U2PL supp. B)",
    )
    ohem_threshold: float = Field(
        0.7, gt=0, le=1, description="maximum probability of its class for a pixel to be hard"
    )
    ohem_min_kept: int = Field(
        100_000, ge=0, description="minimum number of pixels kept per step; 0 = keep all"
    )

    auxiliary: float = Field(
        0.4,
        ge=0,
        description="weight of the same loss of the auxiliary classifier, with network.auxiliary",
    )

    @field_validator("loss")
    @classmethod
    def _loss_exists(cls, value: str) -> str:
        if value not in SUPERVISED:
            known = ", ".join(SUPERVISED)
            raise ValueError(f"there is no such loss{did_you_mean(value, SUPERVISED)}; use {known}")
        return value


def all_pixels(logits_BCHW: Tensor, label_BHW: Tensor, config: SupervisedConfig) -> Tensor:
    """Cross entropy, mean over the labelled pixels of the global batch."""
    return cross_entropy(logits_BCHW, label_BHW, distributed.average(valid_count(label_BHW)))


def hard_ones(logits_BCHW: Tensor, label_BHW: Tensor, config: SupervisedConfig) -> Tensor:
    """Cross entropy, mean over the hard pixels of the global batch (OHEM, U2PL supp. B)."""
    threshold, kept = config.ohem_threshold, config.ohem_min_kept
    hard = hard_pixels(logits_BCHW, label_BHW, threshold, kept, distributed.gather)
    return all_pixels(logits_BCHW, hard, config)


#: Losses by their name in a config: (logits [B, C, H, W], label [B, H, W], options) -> scalar. Each
#: is a mean over the global batch: it divides by an average over processes, see `distributed`.
SUPERVISED: Mapping[str, Callable[[Tensor, Tensor, SupervisedConfig], Tensor]] = {
    "cross_entropy": all_pixels,
    "ohem": hard_ones,
}
