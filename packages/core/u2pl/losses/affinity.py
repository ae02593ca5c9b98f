"""Affinity loss: whether two tokens show the same class (AFA, Ru et al. 2022; 000, sec. 4.3).

n counts the tokens of a feature map, row by row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.notation import IGNORE


def token_label(label_BHW: Tensor, size: tuple[int, int], stride: int = 16) -> Tensor:
    """Nearest label of each token: pixel (stride i, stride j) speaks for token (i, j); 255 where tokens lie outside the image.

    Args:
        label_BHW: integer class ids, 255 = ignore.
        size: of the feature map (h, w), which may cover more than the image.
        stride: image pixels per token.
    """
    label = label_BHW[..., ::stride, ::stride]
    height, width = label.shape[-2:]
    return F.pad(label, (0, size[1] - width, 0, size[0] - height), value=IGNORE)


def radius_mask(height: int, width: int, radius: int, device: torch.device | None = None) -> Tensor:
    """bool [n, n]: whether two tokens of a height x width map lie at most `radius` rows and `radius` columns apart."""
    rows, columns = (_near(side, radius, device) for side in (height, width))
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(
        height * width, height * width
    )


def _near(side: int, radius: int, device: torch.device | None) -> Tensor:
    place = torch.arange(side, device=device)
    return (place.unsqueeze(1) - place).abs() <= radius


@torch.no_grad()
def affinity_target(label_Bhw: Tensor, radius: int = 8) -> Tensor:
    """1 where two tokens have the same class, 0 where they have not, 255 where either has none or they are far apart.

        for each pair of tokens i, j at most `radius` rows and columns apart, neither of them 255:
            out[i, j] = label[i] == label[j]

    Background is a class like any other here, and a token is a pair with itself.

    Args:
        label_Bhw: integer class ids of the tokens, 255 = ignore.
        radius: rows and columns that a pair may lie apart; 8 in the released code.

    Returns:
        uint8 [B, n, n].
    """
    height, width = label_Bhw.shape[-2:]
    token = label_Bhw.flatten(1)
    known = token != IGNORE
    counted = (
        radius_mask(height, width, radius, label_Bhw.device)
        & known.unsqueeze(2)
        & known.unsqueeze(1)
    )
    same = token.unsqueeze(2) == token.unsqueeze(1)
    return same.to(torch.uint8).masked_fill_(~counted, IGNORE)


def pair_counts(target_Bnn: Tensor) -> Tensor:
    """How many pairs are of one class and how many of two, float32 [2]."""
    return torch.stack([(target_Bnn == same).sum() for same in (1, 0)]).float()


def affinity_loss(prob_Bnn: Tensor, target_Bnn: Tensor, divisors: Tensor | None = None) -> Tensor:
    """sum_{y=1} (1 - p) / 2(n1 + 1) + sum_{y=0} p / 2(n0 + 1); a connected zero where no pair counts.

    With W processes the averaged gradient is that of the one loss over all pairs where both ones, too, are shared out:

        divisors = (distributed.total(pair_counts(target_Bnn)) + 1) / distributed.world_size()

    Args:
        prob_Bnn: probability that two tokens are of one class, in any floating dtype; computed in float32.
        target_Bnn: 1 for pairs of one class, 0 for pairs of two, 255 = ignore.
        divisors: [2], what to divide the two sums by; n1 + 1 and n0 + 1 of this batch when None.
    """
    prob = prob_Bnn.float()
    same, different = (
        torch.where(target_Bnn == 1, 1 - prob, 0.0).sum(),
        torch.where(target_Bnn == 0, prob, 0.0).sum(),
    )
    return (
        0.5
        * (
            torch.stack([same, different])
            / (pair_counts(target_Bnn) + 1 if divisors is None else divisors)
        ).sum()
    )
