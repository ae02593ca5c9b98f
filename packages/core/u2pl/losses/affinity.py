"""Pairwise affinity loss: whether two tokens share a class (AFA, Ru et al. 2022; U2PL+ sec. 4.3).

Shapes: h, w = height and width of the encoder's last feature map, n = h x w tokens, row-major.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.notation import IGNORE


def token_label(label_BHW: Tensor, size: tuple[int, int], stride: int = 16) -> Tensor:
    """Nearest-neighbour labels [B, h, w]: token (i, j) takes pixel (stride i, stride j).

    Args:
        label_BHW: integer class ids, 255 = ignore.
        size: (h, w), which may extend beyond the image; tokens outside it get 255.
        stride: image pixels per token.
    """
    label = label_BHW[..., ::stride, ::stride]
    height, width = label.shape[-2:]
    return F.pad(label, (0, size[1] - width, 0, size[0] - height), value=IGNORE)


def radius_mask(height: int, width: int, radius: int, device: torch.device | None = None) -> Tensor:
    """bool [n, n]: True for two tokens at most `radius` rows and `radius` columns apart."""
    rows, columns = (_near(side, radius, device) for side in (height, width))
    near = rows[:, None, :, None] & columns[None, :, None, :]
    return near.reshape(height * width, height * width)


def _near(side: int, radius: int, device: torch.device | None) -> Tensor:
    place = torch.arange(side, device=device)
    return (place.unsqueeze(1) - place).abs() <= radius


@torch.no_grad()
def affinity_target(label_Bhw: Tensor, radius: int = 8) -> Tensor:
    """Target of each pair of tokens: 1 = same class, 0 = different classes, 255 = ignore.

        for each pair of tokens i, j at most `radius` rows and columns apart, neither of them 255:
            out[i, j] = label[i] == label[j]

    Every other pair is ignored. Background is a class like any other, and a token is paired with
    itself too.

    Args:
        label_Bhw: integer class ids of the tokens, 255 = ignore.
        radius: maximum distance of a pair in rows and in columns; 8 in the released code.

    Returns:
        uint8 [B, n, n].
    """
    height, width = label_Bhw.shape[-2:]
    token = label_Bhw.flatten(1)
    known = token != IGNORE
    near = radius_mask(height, width, radius, label_Bhw.device)
    counted = near & known.unsqueeze(2) & known.unsqueeze(1)
    same = token.unsqueeze(2) == token.unsqueeze(1)
    return same.to(torch.uint8).masked_fill_(~counted, IGNORE)


def pair_counts(target_Bnn: Tensor) -> Tensor:
    """Number of same-class pairs and of different-class pairs, float32 [2]."""
    return torch.stack([(target_Bnn == same).sum() for same in (1, 0)]).float()


def affinity_loss(prob_Bnn: Tensor, target_Bnn: Tensor, divisors: Tensor | None = None) -> Tensor:
    """Half the mean error of same-class pairs plus half that of different-class pairs.

        0.5 * (sum_{target=1} (1 - p) / (count_1 + 1) + sum_{target=0} p / (count_0 + 1))

    Without any pair it is a connected zero. With several processes, these divisors make the
    averaged gradient that of a single loss over all pairs, with the +1 of each denominator split
    over processes:

        divisors = (distributed.total(pair_counts(target_Bnn)) + 1) / distributed.world_size()

    Args:
        prob_Bnn: probability of the same class, in any floating dtype; computed in float32.
        target_Bnn: 1 = same class, 0 = different classes, 255 = ignore.
        divisors: [2], denominators of the two sums; count_1 + 1 and count_0 + 1 of this batch when
            None.
    """
    prob = prob_Bnn.float()
    same = torch.where(target_Bnn == 1, 1 - prob, 0.0).sum()
    different = torch.where(target_Bnn == 0, prob, 0.0).sum()
    divisors = pair_counts(target_Bnn) + 1 if divisors is None else divisors
    return 0.5 * (torch.stack([same, different]) / divisors).sum()
