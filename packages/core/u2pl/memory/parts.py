"""Prototypes of the parts of each class, by which pixels are told apart (ESL sec. 3.3).

Shapes: K = parts of a class, S = C K parts of all classes, numbered class by class; L = channels of
the encoder's last map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2pl import distributed
from u2pl.memory.prototypes import sums_by_slot
from u2pl.notation import IGNORE


class PartPrototypes(nn.Module):
    """K prototypes of each class: P <- theta P + (1 - theta) P' (ESL Eq 12).

    They start unknown; `fill` gives them the means that K-means finds.

    Args:
        num_classes: C.
        parts: K, at least 1.
        width: L.
        momentum: theta.
    """

    def __init__(self, num_classes: int, parts: int, width: int, momentum: float) -> None:
        super().__init__()
        self.num_classes, self.parts, self.momentum = num_classes, parts, momentum
        self.register_buffer("center", torch.zeros(num_classes * parts, width))
        self.register_buffer("known", torch.zeros(num_classes * parts, dtype=torch.bool))

    center: Tensor
    known: Tensor

    @property
    def slots(self) -> int:
        """S; as the part of a pixel it means none."""
        return self.num_classes * self.parts

    @torch.no_grad()
    def fill(self, center_SL: Tensor, known_S: Tensor) -> None:
        """Set all prototypes, and which of them are known."""
        self.center.copy_(center_SL)
        self.known.copy_(known_S)

    @torch.no_grad()
    def assign(self, deep_BLhw: Tensor, label_Bhw: Tensor) -> Tensor:
        """The part of each pixel: c K + argmax_k cos(E, P_ck), int64 [B, h, w] (ESL Eq 7).

        The cosines are computed at the encoder's size and resized to that of the labels (ours),
        which is far cheaper than resizing features of thousands of channels.

        Args:
            deep_BLhw: the encoder's last map, without padding.
            label_Bhw: integer class ids at any size, 255 = ignore.

        Returns:
            S where the label is 255 or no part of its class is known.
        """
        center_SL, size = F.normalize(self.center, dim=1), label_Bhw.shape[-2:]
        unknown_S = torch.where(self.known, 0.0, -torch.inf).view(-1, 1, 1)
        parts = []
        # image by image: the cosines to all parts are many channels
        for deep_Lhw, label_hw in zip(deep_BLhw.float(), label_Bhw.long(), strict=True):
            cosine = torch.einsum("lhw,sl->shw", F.normalize(deep_Lhw, dim=0), center_SL)
            if cosine.shape[-2:] != size:
                cosine = F.interpolate(cosine[None], size, mode="bilinear", align_corners=False)[0]
            cosine = (cosine + unknown_S).unflatten(0, (self.num_classes, self.parts))
            known = label_hw != IGNORE
            own = torch.where(known, label_hw, 0)
            value, part = cosine.max(dim=1)
            chosen = part.gather(0, own[None])[0] + own * self.parts
            sure = value.gather(0, own[None])[0] > -torch.inf
            parts.append(torch.where(known & sure, chosen, self.slots))
        return torch.stack(parts)

    @torch.no_grad()
    def update(self, deep_BLhw: Tensor, part_Bhw: Tensor) -> None:
        """Move the prototypes of the parts that occur in the global batch (ESL Eqs 8 and 12).

        Args:
            deep_BLhw: the encoder's last map, without padding.
            part_Bhw: part of each of its pixels, S = none.
        """
        sums, count = sums_by_slot(deep_BLhw.float(), part_Bhw, self.slots)
        sums, count = distributed.total(sums.sum(dim=0)), distributed.total(count.sum(dim=0))
        mean = sums / count.clamp(min=1).unsqueeze(1)
        weight = (1 - self.momentum) * (count > 0)
        self.center.lerp_(mean, weight.unsqueeze(1))
