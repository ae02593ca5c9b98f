"""Rank statistics: the strongest channels that a pixel shares with its class (Weighting-PL).

Howlader, Le, Samaras: "Weighting Pseudo-Labels via High-Activation Feature Index Similarity and
Object Detection for Semi-Supervised Segmentation" (ECCV 2024). Shapes: K = channels compared.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from u2pl.maps import enlarge


def shared_channels(
    feature_BDhw: Tensor, prototype_CD: Tensor, label_BHW: Tensor, top: int
) -> Tensor:
    """s, the number of channels among both the K highest of the pixel and of its class's prototype.

        s[i] = len(set(highest(feature[i], K)) & set(highest(prototype[label[i]], K)))

    Nothing is sorted: K channels are selected of each feature, and looked up in a table of the
    classes' channels. Values are compared as they are, not by magnitude, as in the released code.

    Args:
        feature_BDhw: floating-point features.
        prototype_CD: features of the classes.
        label_BHW: integer class of each pixel, all below C; at the features' size or four times it.
        top: K; at most D.

    Returns:
        int64 [B, H, W], from 0 to K.
    """
    top = min(top, prototype_CD.shape[1])
    own_CD = torch.zeros_like(prototype_CD, dtype=torch.int64)
    own_CD.scatter_(1, prototype_CD.topk(top, dim=1, sorted=False).indices, 1)
    row_BHW = label_BHW.long() * prototype_CD.shape[1]
    shared = torch.zeros_like(row_BHW)
    for channel_Bhw in feature_BDhw.topk(top, dim=1, sorted=False).indices.unbind(1):
        shared += own_CD.flatten()[row_BHW + enlarge(channel_Bhw, row_BHW.shape[-2:])]
    return shared


def rank_weight(
    shared_BHW: Tensor, known_BHW: Tensor, top: int, rule: Literal["paper", "released"] = "paper"
) -> Tensor:
    """Weight of a pixel's pseudo-label: s / K (Weighting-PL sec. 3.4), or 1 + s / K (released).

    Args:
        shared_BHW: s.
        known_BHW: bool, whether the pixel's class has a prototype; without one the weight is 1.
        top: K.
        rule: which of the two.

    Returns:
        float32.
    """
    share = shared_BHW.float() / top
    return torch.where(known_BHW, share if rule == "paper" else 1 + share, 1.0)
