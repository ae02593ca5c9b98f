"""Selecting anchors, positives and negatives in source and mixed images (U2PL+ Eqs 21-28)."""

from __future__ import annotations

from functools import partial

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl.maps import Pixel, downsample
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import Partition, lowest_entropy
from u2pl.pseudo.select import (
    Candidates,
    Gather,
    Thresholds,
    join,
    select_labeled,
    select_unlabeled,
)


class DomainNegativesConfig(BaseModel):
    """Which pixels become negatives; each row of U2PL+ Tab. 12 is a combination of these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: bool = Field(True, description="source pixels are negatives (D_l in U2PL+ Tab. 12)")
    reliable: bool = Field(
        False,
        description="the target pixels with the lowest entropy, as many as are unreliable, are "
        "negatives (R)",
    )
    unreliable: bool = Field(True, description="unreliable target pixels are negatives (U)")


@torch.no_grad()
def select_in_domains(
    prob_BChw: Tensor,
    label_l: Tensor,
    label_m: Tensor,
    pasted_m: Tensor,
    part: Partition,
    alpha: float,
    limits: Thresholds,
    negatives: DomainNegativesConfig,
    gather: Gather,
    pixel: Pixel = "centre",
) -> Candidates:
    """Candidates of a batch [source; mixed].

    Source pixels follow the rule of labelled pixels, also where they are pasted; target pixels that
    of unlabelled ones.

    Args:
        prob_BChw: the teacher's probabilities of both groups at feature size.
        label_l: integer labels of source images [B / 2, H, W], 255 = ignore.
        label_m: the same of mixed images.
        pasted_m: bool [B / 2, H, W], True on source pixels of mixed images.
        part: partition of the target pixels at image size; pasted pixels, padding and void rows are
            neither reliable nor unreliable.
        alpha: share of unreliable pixels.
        limits: thresholds on rank and probability.
        negatives: which pixels become negatives.
        gather: concatenates a vector over processes.
        pixel: which pixel speaks for a feature.
    """
    prob_l, prob_m = prob_BChw.chunk(2)
    small = partial(downsample, pixel=pixel)
    r_l, r_h, delta_p = limits
    unreliable = part.unreliable_BHW
    negative = unreliable if negatives.unreliable else torch.zeros_like(unreliable)
    if negatives.reliable:
        negative = negative | lowest_entropy(part, alpha, gather)
    source = select_labeled(prob_l, small(label_l), r_l, delta_p)
    label_pasted = torch.where(pasted_m, label_m, IGNORE)
    pasted = select_labeled(prob_m, small(label_pasted), r_l, delta_p)
    reliable, negative = small(part.reliable_BHW), small(negative)
    target = select_unlabeled(prob_m, small(label_m), reliable, negative, r_l, r_h, delta_p)
    if not negatives.source:
        source, pasted = _without_negatives(source), _without_negatives(pasted)
    return join(source, _either(pasted, target))


def _without_negatives(one: Candidates) -> Candidates:
    return one._replace(negative_BChw=torch.zeros_like(one.negative_BChw))


def _either(one: Candidates, other: Candidates) -> Candidates:
    """The union of the candidates of two disjoint sets of pixels of the same images."""
    anchor = torch.minimum(one.anchor_Bhw, other.anchor_Bhw)  # 255 = of none
    positive = torch.minimum(one.positive_Bhw, other.positive_Bhw)
    return Candidates(anchor, positive, one.negative_BChw | other.negative_BChw)
