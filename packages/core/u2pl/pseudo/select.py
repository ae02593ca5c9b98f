"""Which pixels are anchors, positives and negatives of the contrast."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from u2pl.maps import Pixel, downsample, one_hot, top_class
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import Partition, lowest_entropy

Gather = Callable[[Tensor], Tensor]


class Candidates(NamedTuple):
    """Roles that each pixel of a batch qualifies for; 255 = none."""

    anchor_Bhw: Tensor  # int64: the class that the pixel may be an anchor of
    positive_Bhw: Tensor  # int64: the class whose positive key, a mean, includes the pixel
    negative_BChw: Tensor  # bool: whether the pixel may be a negative key of class c


def rank_limits(num_classes: int, low: int = 3, high: int = 20) -> tuple[int, int]:
    """(r_l, r_h), clamped for few classes: r_l to [1, C // 2], r_h to at most C.

    Args:
        num_classes: C.
        low: r_l for many classes.
        high: r_h for many classes.
    """
    return max(1, min(low, num_classes // 2)), min(high, num_classes)


def ranked_below(prob_BChw: Tensor, rank: int) -> Tensor:
    """O(c) < rank, bool [B, C, h, w], with O(c) = 0 for the most probable class (U2PL sec. 3.3).

    Tied classes share the lowest of their ranks. No argsort is needed: O(c) < r exactly where p_c
    reaches the r-th highest probability.
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
    """The nth highest value over classes, [B, 1, h, w]; ties count separately.

    A CPU runs an insertion sort of whole maps, which is far faster than `topk` over a short axis;
    on a GPU its many small kernels would be bound by launch overhead.
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
    """The label as int64, set to 255 where the probability of its class is not above delta_p."""
    label = label_Bhw.long()
    prob_y = prob_BChw.gather(1, torch.where(label == IGNORE, 0, label).unsqueeze(1)).squeeze(1)
    return torch.where(prob_y > delta_p, label, IGNORE)


def select_labeled(
    prob_BChw: Tensor, label_Bhw: Tensor, r_l: int, delta_p: float = 0.3
) -> Candidates:
    """Candidates of labelled images.

    Anchors: y = c and p(c) > delta_p (U2PL Eq 9, U2PL+ Eq 21).
    Negatives: y != c and O(c) < r_l (U2PL Eq 14, U2PL+ Eq 26).

    Args:
        prob_BChw: the teacher's probabilities.
        label_Bhw: integer ground truth, 255 = ignore.
        r_l: low rank threshold.
        delta_p: probability that an anchor's class must exceed.
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
    """Candidates of unlabelled images.

    Anchors: reliable, pseudo-label c and p(c) > delta_p (U2PL Eq 10, U2PL+ Eq 22).
    Negatives: unreliable and r_l <= O(c) < r_h (U2PL Eq 15, U2PL+ Eq 27).

    Args:
        prob_BChw: the teacher's probabilities.
        label_Bhw: integer pseudo-label.
        reliable_Bhw: bool.
        unreliable_Bhw: bool.
        r_l: low rank threshold.
        r_h: high rank threshold.
        delta_p: probability that an anchor's class must exceed.
    """
    anchor = _confident(prob_BChw, torch.where(reliable_Bhw, label_Bhw, IGNORE), delta_p)
    unlikely = ranked_below(prob_BChw, r_h) & ~ranked_below(prob_BChw, r_l)
    return Candidates(anchor, anchor, unlikely & unreliable_Bhw.unsqueeze(1))


def join(*parts: Candidates) -> Candidates:
    """Union of the candidates of several groups of images, concatenated along the batch.

    Anchors: U2PL Eq 11, U2PL+ Eq 23. Negatives: U2PL Eq 13, U2PL+ Eq 25.
    """
    return Candidates(*(torch.cat(maps) for maps in zip(*parts, strict=True)))


class Thresholds(NamedTuple):
    """Thresholds of the selection: low rank, high rank, probability of an anchor."""

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
    pixel: Pixel = "centre",
) -> Candidates:
    """Anchors, positives and negatives as in U2PL Eqs 9-16 and U2PL+ Eqs 21-28.

    Args:
        prob_l: the teacher's probabilities of labelled images [B, C, h, w].
        label_l: integer ground truth [B, h, w], 255 = ignore.
        prob_u: its probabilities of unlabelled images [B, C, h, w].
        label_u: integer pseudo-label [B, h, w].
        part: partition of the unlabelled pixels at image size.
        alpha: share of unreliable pixels; only `select_released` uses it.
        limits: thresholds of rank and probability.
        gather: concatenates a tensor over processes; only `select_released` uses it.
        pixel: which pixel of the partition speaks for a feature.
    """
    reliable = downsample(part.reliable_BHW, pixel)
    unreliable = downsample(part.unreliable_BHW, pixel)
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
    pixel: Pixel = "centre",
) -> Candidates:
    """Selection of the released U2PL code; arguments as for `select_paper`.

    Unlabelled anchors have an entropy in the lowest `alpha`. Positives need no minimum probability.
    A negative of class c must also have the label c; since labelled negatives need y != c, there
    are none.
    """
    low = downsample(lowest_entropy(part, alpha, gather), pixel)
    high = downsample(part.unreliable_BHW, pixel)
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


def only_correct(chosen: Candidates, prob_l: Tensor, label_l: Tensor) -> Candidates:
    """The candidates without the keys that are unlabelled, or labelled but misclassified.

    Args:
        chosen: candidates of a batch [labelled; unlabelled].
        prob_l: the teacher's probabilities of the labelled images [B, C, h, w].
        label_l: integer ground truth [B, h, w], 255 = ignore.
    """
    right = (top_class(prob_l) == label_l).unsqueeze(1)
    labeled, unlabeled = chosen.negative_BChw.chunk(2)
    negative = torch.cat([labeled & right, torch.zeros_like(unlabeled)])
    return chosen._replace(negative_BChw=negative)


#: Selection rules by their name in a config.
SELECTIONS = {"paper": select_paper, "released": select_released}
