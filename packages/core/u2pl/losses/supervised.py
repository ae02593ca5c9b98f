"""Losses on labelled pixels.

Every mean takes an optional `count`, its divisor. With several processes, pass the average of their
counts (`u2pl.distributed.average`); the averaged gradient is then that of the global mean.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.notation import IGNORE


def valid_count(label_BHW: Tensor) -> Tensor:
    """Number of labelled pixels, those that are not 255, float32 scalar."""
    return (label_BHW != IGNORE).sum().float()


def or_one(count: Tensor) -> Tensor:
    """The count, or 1 if it is 0; the mean of counts over processes can be between."""
    return torch.where(count > 0, count, 1.0)


def cross_entropy(
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    count: Tensor | None = None,
    weight_BHW: Tensor | None = None,
) -> Tensor:
    """Cross entropy, mean over labelled pixels (U2PL Eq 2, U2PL+ Eq 3).

    Without labelled pixels it is a connected zero.

    Args:
        logits_BCHW: logits in any floating dtype; computed in float32.
        label_BHW: integer class ids, 255 = ignore.
        count: divisor; the labelled pixels of this batch when None.
        weight_BHW: float weight of each pixel's term; it does not change the divisor.
    """
    score, label = logits_BCHW.float(), label_BHW.long()
    if weight_BHW is None:
        total = F.cross_entropy(score, label, ignore_index=IGNORE, reduction="sum")
    else:
        total = (
            weight_BHW * F.cross_entropy(score, label, ignore_index=IGNORE, reduction="none")
        ).sum()
    return total / or_one(valid_count(label_BHW) if count is None else count)


def balance_counts(label_BHW: Tensor) -> Tensor:
    """Number of background pixels (class 0) and of foreground pixels, float32 [2]."""
    background = (label_BHW == 0).sum().float()
    return torch.stack([background, valid_count(label_BHW) - background])


def balanced_cross_entropy(
    logits_BCHW: Tensor, label_BHW: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Half the mean cross entropy of background pixels plus half that of foreground pixels (AFA).

    A half without pixels is 0; without any pixels the loss is a connected zero (released code:
    NaN). Used by the weakly supervised setting (U2PL+ sec. 4.3).

    Args:
        logits_BCHW: logits in any floating dtype, background first; computed in float32.
        label_BHW: integer class ids, 0 = background, 255 = ignore.
        counts: [2], divisors of the two sums; `balance_counts` of this batch when None.
    """
    counts = balance_counts(label_BHW) if counts is None else counts
    background, foreground = (0.5 / or_one(counts)).unbind()
    weight_C = torch.cat([background.view(1), foreground.expand(logits_BCHW.shape[1] - 1)])
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
    """Online hard example mining (OHEM, U2PL supp. B): the label with easy pixels set to 255.

    A pixel is hard if the probability p_y of its class is at most max(threshold, the min_kept-th
    smallest p_y). With fewer labelled pixels than `min_kept`, or with `min_kept` = 0, all are kept.

    Args:
        logits_BCHW: logits in any floating dtype; computed in float32.
        label_BHW: integer class ids, 255 = ignore.
        threshold: p_y up to which a pixel is always hard.
        min_kept: minimum number of pixels kept, over all processes.
        gather: concatenates a tensor over processes.

    Returns:
        [B, H, W] in the label's dtype.
    """
    if min_kept == 0:
        return label_BHW
    valid = label_BHW != IGNORE
    safe = torch.where(valid, label_BHW, 0).long()
    prob_y = torch.exp(-F.cross_entropy(logits_BCHW.float(), safe, reduction="none"))
    prob_y = torch.where(valid, prob_y, 1.0)
    # the min_kept smallest of all processes are among the min_kept smallest of each
    smallest = gather(
        prob_y.flatten().topk(min(min_kept, prob_y.numel()), largest=False, sorted=False).values
    )
    kth = smallest.topk(min(min_kept, smallest.numel()), largest=False, sorted=False).values.max()
    enough = gather(valid.sum().view(1)).sum() >= min_kept
    limit = torch.where(enough, kth.clamp(min=threshold), 2.0)
    return torch.where(prob_y <= limit, label_BHW, IGNORE)


def connected_zero(*tensors: Tensor) -> Tensor:
    """A zero that stays connected to the tensors in the autograd graph: the value of an empty term.

    Distributed training waits for a gradient of every parameter, even where a term is empty.
    """
    return torch.cat([tensor.flatten()[:1] for tensor in tensors]).sum() * 0.0
