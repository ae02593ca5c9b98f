"""Selecting anchors, positives and negatives among labelled and unlabelled pixels."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from u2pl import distributed
from u2pl.maps import downsample
from u2pl.methods.pixel_contrast import RankedContrastConfig
from u2pl.pseudo.partition import Partition
from u2pl.pseudo.select import SELECTIONS, Candidates, only_correct


class SemiContrastConfig(RankedContrastConfig):
    """Pixel contrast of labelled and unlabelled images."""

    selection: Literal["paper", "released"] = Field(
        "paper",
        description="rule for anchors, positives and negatives: U2PL Eqs 9-16, or that of the "
        "released code (see docs/methods)",
    )
    bank: Literal["unreliable", "correct_labeled"] = Field(
        "unreliable",
        description="which pixels become negative keys; unreliable: the selection's, most of them "
        "unreliable; correct_labeled: of these only labelled pixels that the teacher classifies "
        "right, as a control (the bank of PixCon)",
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
    """Possible anchors, positives and negatives of a batch [labelled; unlabelled].

    Args:
        config: the rule and its thresholds.
        prob_BChw: the teacher's probabilities of both groups at feature size.
        label_l, label_u: integer ground truth and pseudo-labels [B / 2, H, W].
        part: partition of the unlabelled pixels at image size.
        alpha: share of unreliable pixels.
    """
    prob_l, prob_u = prob_BChw.chunk(2)
    small_l, small_u = (downsample(label, config.pixel) for label in (label_l, label_u))
    limits, choose = config.thresholds(prob_BChw.shape[1]), SELECTIONS[config.selection]
    chosen = choose(
        prob_l, small_l, prob_u, small_u, part, alpha, limits, distributed.gather, config.pixel
    )
    return chosen if config.bank == "unreliable" else only_correct(chosen, prob_l, small_l)
