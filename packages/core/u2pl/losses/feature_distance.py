"""Feature distance: the encoder's deepest features stay near those it was pretrained with (DAFormer, Hoyer et al. 2022, sec. 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.notation import IGNORE


@torch.no_grad()
def majority_label(label_BHW: Tensor, factor: int, min_share: float, num_classes: int) -> Tensor:
    """The class that fills most of each cell, and at least `min_share` of it; 255 where there is none.

    255 takes part like one more class, and a size that is no multiple of `factor` is padded with it:

        for each cell of factor x factor pixels:
            winner = the lowest of the values that occur most often
            out = winner if its pixels / factor^2 >= min_share else 255

    Args:
        label_BHW: integer class ids, 255 = ignore.
        factor: side of a cell in pixels; DAFormer's deepest features are 32 times smaller than the image.
        min_share: in [0, 1]; DAFormer uses 0.75.
        num_classes: C.

    Returns:
        int64 [B, ceil(H / factor), ceil(W / factor)].
    """
    height, width = label_BHW.shape[-2:]
    slot = torch.where(label_BHW == IGNORE, num_classes, label_BHW).long()
    slot = F.pad(slot, (0, -width % factor, 0, -height % factor), value=num_classes)
    cells = slot.unflatten(2, (-1, factor)).unflatten(1, (-1, factor)).transpose(2, 3).flatten(3)
    # counting takes a hundredth of what averaging the one-hot label takes, and no [B, C, H, W] tensor
    count = torch.zeros(*cells.shape[:3], num_classes + 1, device=cells.device)
    count.scatter_add_(3, cells, torch.ones((), device=cells.device).expand(cells.shape))
    most, winner = count.max(dim=3)
    return torch.where((most / factor**2 >= min_share) & (winner < num_classes), winner, IGNORE)


def feature_distance(
    feature_BDhw: Tensor, reference_BDhw: Tensor, where_Bhw: Tensor, count: Tensor | None = None
) -> Tensor:
    """Mean over positions of ||F - F_reference||_2 over the channels (DAFormer Eqs 7, 8); a connected zero where there is none.

    Where both are equal the gradient is 0. (Released: NaN without a position.)

    Args:
        feature_BDhw: the student's features in any floating dtype; computed in float32.
        reference_BDhw: those of the frozen encoder.
        where_Bhw: bool, the positions that count.
        count: what to divide by; the positions of this batch when None.
    """
    distance = torch.linalg.vector_norm(feature_BDhw.float() - reference_BDhw.float(), dim=1)
    count = where_Bhw.sum().float() if count is None else count
    # positions are so few that the average of their number over processes may be below one
    return torch.where(where_Bhw, distance, 0.0).sum() / torch.where(count > 0, count, 1.0)
