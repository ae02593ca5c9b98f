"""Distance to the pretrained encoder's features (DAFormer, Hoyer et al. 2022, sec. 3.3).

Shapes: feature_BDhw = the encoder's deepest map; D and h, w are those of that map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.notation import IGNORE


@torch.no_grad()
def majority_label(label_BHW: Tensor, factor: int, min_share: float, num_classes: int) -> Tensor:
    """Majority class of each cell if it covers at least `min_share` of the cell, else 255.

    255 is counted like a class of its own. An image whose sides are no multiples of `factor` is
    padded with it.

        for each cell of factor x factor pixels:
            winner = the most frequent value, ties to the lowest
            out = winner if its pixels / factor^2 >= min_share else 255

    Args:
        label_BHW: integer class ids, 255 = ignore.
        factor: side of a cell in pixels; 32, the stride of DAFormer's deepest features.
        min_share: in [0, 1]; DAFormer uses 0.75.
        num_classes: C.

    Returns:
        int64 [B, ceil(H / factor), ceil(W / factor)].
    """
    height, width = label_BHW.shape[-2:]
    slot = torch.where(label_BHW == IGNORE, num_classes, label_BHW).long()
    slot = F.pad(slot, (0, -width % factor, 0, -height % factor), value=num_classes)
    cells = slot.unflatten(2, (-1, factor)).unflatten(1, (-1, factor)).transpose(2, 3).flatten(3)
    # counting is 100x faster than average pooling of the one-hot label, which is [B, C, H, W]
    count = torch.zeros(*cells.shape[:3], num_classes + 1, device=cells.device)
    count.scatter_add_(3, cells, torch.ones((), device=cells.device).expand(cells.shape))
    most, winner = count.max(dim=3)
    return torch.where((most / factor**2 >= min_share) & (winner < num_classes), winner, IGNORE)


def feature_distance(
    feature_BDhw: Tensor, reference_BDhw: Tensor, where_Bhw: Tensor, count: Tensor | None = None
) -> Tensor:
    """||F - F_reference||_2 over channels (DAFormer Eq 7), mean over a mask (DAFormer Eq 8).

    An empty mask gives a connected zero (released code: NaN); where the features are equal, the
    gradient is 0.

    Args:
        feature_BDhw: the student's features in any floating dtype; computed in float32.
        reference_BDhw: features of the frozen pretrained encoder.
        where_Bhw: bool mask.
        count: divisor; the True positions of this batch when None.
    """
    distance = torch.linalg.vector_norm(feature_BDhw.float() - reference_BDhw.float(), dim=1)
    count = where_Bhw.sum().float() if count is None else count
    # no clamp(min=1): the mask is so sparse that the mean count over processes can be below 1
    return torch.where(where_Bhw, distance, 0.0).sum() / torch.where(count > 0, count, 1.0)
