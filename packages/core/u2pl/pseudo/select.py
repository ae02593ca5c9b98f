"""Which pixels serve the contrast, and as what."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from u2pl.maps import downsample, one_hot
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import Partition, lowest_entropy

Gather = Callable[[Tensor], Tensor]


class Candidates(NamedTuple):
    """What each pixel of a batch may be used for; classes are class ids throughout."""

    anchor_Bhw: Tensor  # int64: the class the pixel is an anchor of, 255 = of none
    positive_Bhw: Tensor  # int64: the class whose positive key (004 Eq 12) the pixel's embedding is part of, 255 = of none
    negative_BChw: Tensor  # bool: the pixel is a negative key of class c


def rank_limits(num_classes: int, low: int = 3, high: int = 20) -> tuple[int, int]:
    """(r_l, r_h) that leave something to contrast with few classes: r_h at most C, r_l at most C // 2 and at least 1."""
    return max(1, min(low, num_classes // 2)), min(high, num_classes)


def ranked_below(prob_BChw: Tensor, rank: int) -> Tensor:
    """Bool [B, C, h, w]: fewer than `rank` classes are more probable than class c, O(c) < rank (order O of 004, sec. 3.3).

    The count itself is not needed: it is below r exactly where p_c reaches the r-th highest probability.
    """
    classes = prob_BChw.shape[1]
    if rank <= 0:
        return torch.zeros_like(prob_BChw, dtype=torch.bool)
    if rank >= classes:
        return torch.ones_like(prob_BChw, dtype=torch.bool)
    limit = (
        nth_highest(prob_BChw, rank)
        if rank <= classes - rank
        else -nth_highest(-prob_BChw, classes - rank + 1)
    )
    return prob_BChw >= limit


def nth_highest(value_BChw: Tensor, nth: int) -> Tensor:
    """The nth highest value over the classes, [B, 1, h, w]; equal values count one by one.

    On a CPU each class is sorted into the `nth` highest so far, whole maps at a time: far faster than `topk` of short rows. A GPU would
    spend its time on starting these many small kernels.
    """
    if value_BChw.is_cuda:
        return value_BChw.sort(dim=1, descending=True).values[:, nth - 1 : nth]
    highest: list[Tensor] = []
    for value in value_BChw.unbind(1):
        for place, other in enumerate(highest):
            highest[place], value = torch.maximum(other, value), torch.minimum(other, value)
        if len(highest) < nth:
            highest.append(value)
    return highest[-1].unsqueeze(1)


def _confident(prob_BChw: Tensor, label_Bhw: Tensor, delta_p: float) -> Tensor:
    """The label where the probability of that class exceeds delta_p, else 255."""
    label = label_Bhw.long()
    prob_y = prob_BChw.gather(1, torch.where(label == IGNORE, 0, label).unsqueeze(1)).squeeze(1)
    return torch.where(prob_y > delta_p, label, IGNORE)


def select_labeled(
    prob_BChw: Tensor, label_Bhw: Tensor, r_l: int, delta_p: float = 0.3
) -> Candidates:
    """Anchors y = c and p(c) > delta_p (004 Eq 9); negatives y != c and O(c) < r_l (Eq 14; 000 Eqs 21, 26).

    Args:
        prob_BChw: the teacher's probabilities at feature size.
        label_Bhw: integer ground truth at feature size, 255 = ignore.
        r_l: low rank threshold.
        delta_p: probability an anchor needs.
    """
    other = ~one_hot(label_Bhw, prob_BChw.shape[1]) & (label_Bhw != IGNORE).unsqueeze(1)
    anchor = _confident(prob_BChw, label_Bhw, delta_p)
    return Candidates(anchor, anchor, ranked_below(prob_BChw, r_l) & other)


def select_unlabeled(
    prob_BChw: Tensor,
    label_Bhw: Tensor,
    reliable_Bhw: Tensor,
    unreliable_Bhw: Tensor,
    r_l: int,
    r_h: int,
    delta_p: float = 0.3,
) -> Candidates:
    """Anchors: reliable, pseudo-label c, p(c) > delta_p (004 Eq 10); negatives: unreliable and r_l <= O(c) < r_h (Eq 15; 000 Eqs 22, 27).

    Args:
        prob_BChw: the teacher's probabilities at feature size.
        label_Bhw: integer pseudo-label at feature size.
        reliable_Bhw: bool.
        unreliable_Bhw: bool.
        r_l: low rank threshold.
        r_h: high rank threshold.
        delta_p: probability an anchor needs.
    """
    anchor = _confident(prob_BChw, torch.where(reliable_Bhw, label_Bhw, IGNORE), delta_p)
    unlikely = ranked_below(prob_BChw, r_h) & ~ranked_below(prob_BChw, r_l)
    return Candidates(anchor, anchor, unlikely & unreliable_Bhw.unsqueeze(1))


def join(*parts: Candidates) -> Candidates:
    """Candidates of several groups of images, one after the other."""
    return Candidates(*(torch.cat(maps) for maps in zip(*parts, strict=True)))


class Thresholds(NamedTuple):
    """The numbers of the selection."""

    r_l: int
    r_h: int
    delta_p: float


def select_paper(
    prob_l: Tensor,
    label_l: Tensor,
    prob_u: Tensor,
    label_u: Tensor,
    part: Partition,
    alpha: float,
    limits: Thresholds,
    gather: Gather,
) -> Candidates:
    """Anchors, positives and negatives as in 004 Eqs 9-16 (000 Eqs 21-28).

    Args:
        prob_l, prob_u: the teacher's probabilities at feature size.
        label_l: ground truth at feature size; label_u: pseudo-label at feature size.
        part: the unlabelled pixels' partition at full size.
        alpha: share of unreliable pixels.
        limits: ranks and confidence.
        gather: joins a vector over processes.
    """
    reliable, unreliable = downsample(part.reliable_BHW), downsample(part.unreliable_BHW)
    return join(
        select_labeled(prob_l, label_l, limits.r_l, limits.delta_p),
        select_unlabeled(
            prob_u, label_u, reliable, unreliable, limits.r_l, limits.r_h, limits.delta_p
        ),
    )


def select_released(
    prob_l: Tensor,
    label_l: Tensor,
    prob_u: Tensor,
    label_u: Tensor,
    part: Partition,
    alpha: float,
    limits: Thresholds,
    gather: Gather,
) -> Candidates:
    """What the released U2PL selects; arguments as for `select_paper`.

    Unlabelled anchors have an entropy among the lowest alpha; positives need no confidence; a negative of class c also carries the label c,
    which together with "y != c" leaves no labelled negative at all.
    """
    low, high = downsample(lowest_entropy(part, alpha, gather)), downsample(part.unreliable_BHW)
    labeled = select_labeled(prob_l, label_l, limits.r_l, limits.delta_p)
    unlabeled = select_unlabeled(prob_u, label_u, low, high, limits.r_l, limits.r_h, limits.delta_p)
    return join(
        labeled._replace(
            positive_Bhw=label_l.long(), negative_BChw=torch.zeros_like(labeled.negative_BChw)
        ),
        unlabeled._replace(
            positive_Bhw=torch.where(low, label_u, IGNORE).long(),
            negative_BChw=unlabeled.negative_BChw & one_hot(label_u, prob_u.shape[1]),
        ),
    )


#: The two ways to select, by the name used in a config.
SELECTIONS = {"paper": select_paper, "released": select_released}
