"""Correcting pseudo-labels by the distance to class prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def prototype_weight(
    embed_BDhw: Tensor, prototype_CD: Tensor, known_C: Tensor, raw: bool = False
) -> Tensor:
    """w(c) = softmax over c of -||z - z_proto_c||, per pixel (000 Eq 19), float32 [B, C, h, w].

    A class without a prototype gets the mean weight of the others, so it neither wins nor vanishes.

    Args:
        embed_BDhw: the teacher's embeddings.
        prototype_CD: one row per class.
        known_C: bool, which classes have a prototype.
        raw: distances between the vectors as they are; False (ours) compares unit vectors, since raw distances in many
            dimensions saturate the softmax.
    """
    z, proto = embed_BDhw.float(), prototype_CD.float()
    if raw:
        squared = z.square().sum(1, keepdim=True) + proto.square().sum(1).view(1, -1, 1, 1)
    else:
        z, proto, squared = F.normalize(z, dim=1), F.normalize(proto, dim=1), z.new_full((), 2.0)
    with torch.autocast(
        z.device.type, enabled=False
    ):  # a difference of products rounded to 16 bits is no distance
        distance = (squared - 2 * torch.einsum("bdhw,cd->bchw", z, proto)).clamp(min=0).sqrt()
    known = known_C.view(1, -1, 1, 1)
    weight = torch.where(known, -distance, -torch.inf).softmax(dim=1)
    mean = 1 / known_C.sum().clamp(min=1)
    return torch.where(known, weight, mean)  # with no prototype at all every class weighs the same


def denoise(prob_BCHW: Tensor, weight_BCHW: Tensor) -> Tensor:
    """p* = w . p, renormalised over the classes (000 Eq 20)."""
    product = prob_BCHW * weight_BCHW
    return product / product.sum(dim=1, keepdim=True).clamp(min=1e-12)
