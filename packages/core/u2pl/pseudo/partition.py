"""Partition of the pixels into reliable and unreliable ones by the entropy of their prediction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Partition(NamedTuple):
    """Entropy and threshold; every valid pixel is either reliable or unreliable."""

    entropy_BHW: Tensor  # float32, nats
    gamma: Tensor  # threshold gamma_t, float32 scalar
    reliable_BHW: Tensor  # bool: entropy < gamma
    unreliable_BHW: Tensor  # bool: entropy >= gamma


def entropy(prob_BCHW: Tensor) -> Tensor:
    """H(p) = -sum_c p_c log p_c in nats, float32 (U2PL Eq 5, U2PL+ Eq 11)."""
    return torch.special.entr(prob_BCHW.float()).sum(dim=1)


def doubt(prob_BCHW: Tensor) -> Tensor:
    """The entropy relative to that of even odds, float32 [B, H, W] in [0, 1]."""
    return entropy(prob_BCHW) / math.log(max(2, prob_BCHW.shape[1]))


def upper_percentile(
    value_BHW: Tensor,
    valid_BHW: Tensor,
    share: float,
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """np.percentile(valid values, 100 (1 - share)), linearly interpolated, without a host sync.

    Args:
        value_BHW: float values.
        valid_BHW: bool, which of them count.
        share: share of the values above the percentile, in [0, 1].
        gather: concatenates a tensor over processes; the percentile is that of all their values.

    Returns:
        Scalar in the dtype of the values; -inf if none is valid.
    """
    value = torch.where(valid_BHW, value_BHW, -torch.inf).flatten()
    count = gather(valid_BHW.sum().view(1))
    size = value.numel() * count.numel()
    needed = min(size, int(share * (size - 1)) + 2)
    # the highest values of all processes are among the highest of each
    highest = gather(value.topk(min(needed, value.numel())).values)
    highest = highest.topk(needed).values if count.numel() > 1 else highest
    position = (count.sum() - 1).clamp(min=0).double() * share
    low = position.floor().long().clamp(max=needed - 1)
    high = (low + 1).clamp(max=needed - 1)
    # `take`, since indexing by a tensor in brackets syncs with the host
    above, below = highest.take(low).double(), highest.take(high).double()
    # where `below` has weight 0 it may be -inf, and 0 x inf is NaN
    step = torch.where(position > low, (above - below) * (position - low), 0.0)
    return (above - step).to(value_BHW.dtype)


def partition(
    prob_BCHW: Tensor,
    valid_BHW: Tensor,
    alpha: float,
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Partition:
    """Partition by entropy at gamma_t, the percentile 100 (1 - alpha_t) (U2PL Eq 6, U2PL+ Eq 12).

    Args:
        prob_BCHW: the teacher's probabilities.
        valid_BHW: bool, False on padding, which is neither reliable nor unreliable.
        alpha: alpha_t, share of unreliable pixels.
        gather: concatenates a tensor over processes; the percentile is that of the global batch.
    """
    value = entropy(prob_BCHW)
    gamma = upper_percentile(value, valid_BHW, alpha, gather)
    low = value < gamma
    return Partition(value, gamma, low & valid_BHW, ~low & valid_BHW)


def lowest_entropy(
    part: Partition, share: float, gather: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """Valid pixels with an entropy in the lowest `share`, bool [B, H, W].

    The released U2PL code selects anchors by this condition.

    Args:
        part: partition of the same pixels.
        share: in [0, 1].
        gather: as for `partition`.
    """
    valid = part.reliable_BHW | part.unreliable_BHW
    return valid & (part.entropy_BHW <= -upper_percentile(-part.entropy_BHW, valid, share, gather))
