"""Which pixels of labelled and unlabelled images serve the contrast, and as what."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from u2pl import distributed
from u2pl.maps import downsample
from u2pl.methods.pixel_contrast import RankedContrastConfig
from u2pl.pseudo.partition import Partition
from u2pl.pseudo.select import SELECTIONS, Candidates


class SemiContrastConfig(RankedContrastConfig):
    """Pixel contrast of labelled and unlabelled images."""

    selection: Literal["paper", "released"] = Field(
        "paper",
        description="which pixels are anchors and negatives: 004 Eqs 9-16, or what the released code does (see docs/methods)",
    )


@torch.no_grad()
def select_candidates(
    config: SemiContrastConfig,
    prob_BChw: Tensor,
    label_l: Tensor,
    label_u: Tensor,
    part: Partition,
    alpha: float,
) -> Candidates:
    """Which pixels of a batch [labelled; unlabelled] may be anchors, positives and negatives.

    Args:
        config: which selection, and its thresholds.
        prob_BChw: the teacher's probabilities of both groups at feature size.
        label_l, label_u: ground truth and pseudo-label at full size.
        part: the unlabelled pixels' partition at full size.
        alpha: share of unreliable pixels.
    """
    prob_l, prob_u = prob_BChw.chunk(2)
    limits, choose = config.thresholds(prob_BChw.shape[1]), SELECTIONS[config.selection]
    return choose(
        prob_l,
        downsample(label_l),
        prob_u,
        downsample(label_u),
        part,
        alpha,
        limits,
        distributed.gather,
    )
