"""Which predictions to believe: the split by entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Partition(NamedTuple):
    """Every valid pixel is either reliable or unreliable."""

    entropy_BHW: Tensor  # float32, nats
    gamma: Tensor  # threshold gamma_t, float32 scalar
    reliable_BHW: Tensor  # bool: entropy < gamma
    unreliable_BHW: Tensor  # bool: entropy >= gamma


def entropy(prob_BCHW: Tensor) -> Tensor:
    """H(p) = -sum_c p_c log p_c in nats, float32 (004 Eq 5, 000 Eq 11)."""
    return torch.special.entr(prob_BCHW.float()).sum(dim=1)


def upper_percentile(
    value_BHW: Tensor,
    valid_BHW: Tensor,
    share: float,
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """The value below which all but the `share` highest valid values lie, interpolated as numpy's percentile(100 (1 - share)).

    Runs without waiting for the device: the number of valid values may stay there. -inf where none is valid.

    Args:
        value_BHW: float values.
        valid_BHW: bool, which of them count.
        share: in [0, 1].
        gather: joins a vector over processes; the percentile is that of the joined values.
    """
    value = torch.where(valid_BHW, value_BHW, -torch.inf).flatten()
    count = gather(valid_BHW.sum().view(1))
    size = value.numel() * count.numel()
    needed = min(size, int(share * (size - 1)) + 2)
    # each process offers its own highest ones: the highest of all are among them
    highest = gather(value.topk(min(needed, value.numel())).values)
    highest = highest.topk(needed).values if count.numel() > 1 else highest
    position = (count.sum() - 1).clamp(min=0).double() * share
    low = position.floor().long().clamp(max=needed - 1)
    high = (low + 1).clamp(max=needed - 1)
    # an index in brackets would be read on the host
    above, below = highest.take(low).double(), highest.take(high).double()
    # with no weight on it, the neighbour may be -inf
    step = torch.where(position > low, (above - below) * (position - low), 0.0)
    return (above - step).to(value_BHW.dtype)


def partition(
    prob_BCHW: Tensor,
    valid_BHW: Tensor,
    alpha: float,
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Partition:
    """Split pixels by entropy at the percentile 100 (1 - alpha) of the batch (004 Eq 6, 000 Eq 12).

    Args:
        prob_BCHW: the teacher's probabilities.
        valid_BHW: bool, False on padding.
        alpha: share of unreliable pixels, alpha_t.
        gather: joins a vector over processes.
    """
    value = entropy(prob_BCHW)
    gamma = upper_percentile(value, valid_BHW, alpha, gather)
    low = value < gamma
    return Partition(value, gamma, low & valid_BHW, ~low & valid_BHW)


def lowest_entropy(
    part: Partition, share: float, gather: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """Bool mask of the valid pixels whose entropy is in the lowest `share` (the released U2PL's anchor condition)."""
    valid = part.reliable_BHW | part.unreliable_BHW
    return valid & (part.entropy_BHW <= -upper_percentile(-part.entropy_BHW, valid, share, gather))
