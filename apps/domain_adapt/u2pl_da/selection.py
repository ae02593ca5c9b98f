"""Which pixels of source and mixed images serve the contrast, and as what (000 Eqs 21-28, per pixel)."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl.maps import downsample
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
    """Which pixels become negative keys; every row of 000 Tab. 12 is a combination of these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: bool = Field(True, description="source pixels are negatives (D_l in 000 Tab. 12)")
    reliable: bool = Field(
        False,
        description="the target pixels of lowest entropy, as many as are unreliable, are negatives (R)",
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
) -> Candidates:
    """Candidates of a batch [source; mixed]: a source pixel follows the labelled rule wherever it lies, a target pixel the unlabelled one.

    Args:
        prob_BChw: the teacher's probabilities of both groups at feature size.
        label_l, label_m: labels at full size, 255 = ignore.
        pasted_m: bool, the pixel of the mixed image is the source's.
        part: the target pixels' partition at full size; what is pasted, padded or border is neither reliable nor unreliable.
        alpha: share of unreliable pixels.
        limits: ranks and confidence.
        negatives: what becomes a key.
        gather: joins a vector over processes.
    """
    prob_l, prob_m = prob_BChw.chunk(2)
    r_l, r_h, delta_p = limits
    doubtful = (
        part.unreliable_BHW if negatives.unreliable else torch.zeros_like(part.unreliable_BHW)
    )
    if negatives.reliable:
        doubtful = doubtful | lowest_entropy(part, alpha, gather)
    source = select_labeled(prob_l, downsample(label_l), r_l, delta_p)
    pasted = select_labeled(
        prob_m, downsample(torch.where(pasted_m, label_m, IGNORE)), r_l, delta_p
    )
    target = select_unlabeled(
        prob_m,
        downsample(label_m),
        downsample(part.reliable_BHW),
        downsample(doubtful),
        r_l,
        r_h,
        delta_p,
    )
    if not negatives.source:
        source, pasted = (
            known._replace(negative_BChw=torch.zeros_like(known.negative_BChw))
            for known in (source, pasted)
        )
    return join(source, _either(pasted, target))


def _either(one: Candidates, other: Candidates) -> Candidates:
    """The candidates of two disjoint sets of pixels of the same images."""
    anchor, positive = (
        torch.minimum(a, b)
        for a, b in ((one.anchor_Bhw, other.anchor_Bhw), (one.positive_Bhw, other.positive_Bhw))
    )
    return Candidates(anchor, positive, one.negative_BChw | other.negative_BChw)
