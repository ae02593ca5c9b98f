"""Losses on labelled pixels.

Every mean takes an optional `count`, the number it divides by: with several processes this is the average of their counts, so that the
averaged gradient is that of the one mean over all pixels (`u2pl.distributed.average`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.notation import IGNORE


def valid_count(label_BHW: Tensor) -> Tensor:
    """How many pixels carry a label, as a float32 scalar."""
    return (label_BHW != IGNORE).sum().float()


def cross_entropy(
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    count: Tensor | None = None,
    weight_BHW: Tensor | None = None,
) -> Tensor:
    """Mean cross entropy over labelled pixels (004 Eq 2, 000 Eq 3); a connected zero where there is none.

    Args:
        logits_BCHW: float scores; computed in float32.
        label_BHW: integer class ids, 255 = ignore.
        count: what to divide by; the labelled pixels of this batch when None.
        weight_BHW: float factor of each pixel's term; it does not change what is divided by.
    """
    score, label = logits_BCHW.float(), label_BHW.long()
    if weight_BHW is None:
        total = F.cross_entropy(score, label, ignore_index=IGNORE, reduction="sum")
    else:
        total = (
            weight_BHW * F.cross_entropy(score, label, ignore_index=IGNORE, reduction="none")
        ).sum()
    return total / (valid_count(label_BHW) if count is None else count).clamp(min=1)


def balance_counts(label_BHW: Tensor) -> Tensor:
    """How many pixels are background, class 0, and how many are of another class, float32 [2]."""
    background = (label_BHW == 0).sum().float()
    return torch.stack([background, valid_count(label_BHW) - background])


def balanced_cross_entropy(
    logits_BCHW: Tensor, label_BHW: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Half the mean cross entropy over background pixels and half of that over all others (AFA; 000, sec. 4.3).

    A half without pixels is 0, and without any the loss is a connected zero. (Released: NaN.)

    Args:
        logits_BCHW: float scores, background first; computed in float32.
        label_BHW: integer class ids, 0 = background, 255 = ignore.
        counts: [2], what to divide both sums by; `balance_counts` of this batch when None.
    """
    counts = balance_counts(label_BHW) if counts is None else counts
    # a half may be so small that the average of its size over processes is below one
    background, others = (0.5 / torch.where(counts > 0, counts, 1.0)).unbind()
    weight_C = torch.cat([background.view(1), others.expand(logits_BCHW.shape[1] - 1)])
    return F.cross_entropy(
        logits_BCHW.float(), label_BHW.long(), weight=weight_C, ignore_index=IGNORE, reduction="sum"
    )


@torch.no_grad()
def hard_pixels(
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Online hard example mining: the label with easy pixels set to 255 (used on Cityscapes, 003 B).

    A pixel is hard when the probability p_y of its own class is at most max(threshold, the min_kept-th smallest p_y). With fewer
    labelled pixels than `min_kept`, and for `min_kept` 0, all of them stay.

    Args:
        logits_BCHW: float scores.
        label_BHW: integer class ids, 255 = ignore.
        threshold: p_y up to which a pixel is hard in any case.
        min_kept: how many pixels are kept at least, over all processes.
        gather: joins a vector over processes.
    """
    if min_kept == 0:
        return label_BHW
    valid = label_BHW != IGNORE
    safe = torch.where(valid, label_BHW, 0).long()
    prob_y = torch.exp(-F.cross_entropy(logits_BCHW.float(), safe, reduction="none"))
    prob_y = torch.where(valid, prob_y, 1.0)
    # each process offers its own smallest ones: the smallest of all are among them
    smallest = gather(
        prob_y.flatten().topk(min(min_kept, prob_y.numel()), largest=False, sorted=False).values
    )
    kth = smallest.topk(min(min_kept, smallest.numel()), largest=False, sorted=False).values.max()
    enough = gather(valid.sum().view(1)).sum() >= min_kept
    limit = torch.where(enough, kth.clamp(min=threshold), 2.0)
    return torch.where(prob_y <= limit, label_BHW, IGNORE)


def connected_zero(*tensors: Tensor) -> Tensor:
    """A zero through which the gradient still reaches the tensors: what an empty term returns.

    Distributed training waits for the gradient of every parameter, also in a step in which a term has nothing to say.
    """
    return torch.cat([tensor.flatten()[:1] for tensor in tensors]).sum() * 0.0
