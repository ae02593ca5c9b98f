"""Prototypical denoising: pseudo-labels corrected by their distance to class prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def prototype_weight(
    embed_BDhw: Tensor, prototype_CD: Tensor, known_C: Tensor, raw: bool = False
) -> Tensor:
    """w(c) = softmax over c of -||z - z_proto_c|| at each pixel (U2PL+ Eq 19).

    A class without a prototype gets the mean weight of the others, which neither favours nor
    excludes it; without any prototype all classes get the same weight.

    Args:
        embed_BDhw: the teacher's embeddings in any floating dtype; computed in float32.
        prototype_CD: prototype of each class.
        known_C: bool, which classes have a prototype.
        raw: distance of the raw vectors, the equation to the letter; False (ours): of the unit
            vectors, since in many dimensions raw distances saturate the softmax.

    Returns:
        float32 [B, C, h, w].
    """
    z, proto = embed_BDhw.float(), prototype_CD.float()
    if raw:
        squared = z.square().sum(1, keepdim=True) + proto.square().sum(1).view(1, -1, 1, 1)
    else:
        z, proto, squared = F.normalize(z, dim=1), F.normalize(proto, dim=1), z.new_full((), 2.0)
    # no autocast: 16-bit rounding would swamp a difference of products
    with torch.autocast(z.device.type, enabled=False):
        distance = (squared - 2 * torch.einsum("bdhw,cd->bchw", z, proto)).clamp(min=0).sqrt()
    known = known_C.view(1, -1, 1, 1)
    weight = torch.where(known, -distance, -torch.inf).softmax(dim=1)
    mean = 1 / known_C.sum().clamp(min=1)
    return torch.where(known, weight, mean)


def denoise(prob_BCHW: Tensor, weight_BCHW: Tensor) -> Tensor:
    """p* = w . p, renormalised over classes (U2PL+ Eq 20)."""
    product = prob_BCHW * weight_BCHW
    return product / product.sum(dim=1, keepdim=True).clamp(min=1e-12)
