"""Training batches of labelled and unlabelled images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from u2pl.data.streams import Stream, TrainingSet

#: Boxes where no detector was asked.
NO_BOXES = torch.zeros(0, 0, 5, dtype=torch.int64)


class PairBatch(NamedTuple):
    """B labelled and B unlabelled images of the same size.

    Without unlabelled images, their fields are empty.
    """

    image_l: Tensor  # uint8 [B, 3, H, W]
    label_l: Tensor  # uint8 [B, H, W], 255 = ignore or padding
    image_u: Tensor  # uint8 [B, 3, H, W]
    valid_u: Tensor  # bool [B, H, W], False on padding
    truth_u: Tensor  # uint8 [B, H, W], 255 = unknown; only for logging the pseudo-labels' accuracy
    boxes_u: Tensor = NO_BOXES  # int64 [B, N, 5] of a detector: class (-1 = none) and, as in
    # `box_mask`, top, left, bottom and right in pixels; N = 0 without a detector


class PairedStreams(TrainingSet[PairBatch]):
    """Pairs the samples of a labelled and an unlabelled stream at the same position.

    Args:
        labeled: stream of images with masks.
        unlabeled: stream of images; None if the method uses none.
    """

    def __init__(self, labeled: Stream, unlabeled: Stream | None) -> None:
        self.labeled = labeled
        self.unlabeled = unlabeled

    def skipped(self) -> list[str]:
        return [] if self.unlabeled is None else self.unlabeled.skipped()

    def __getitem__(self, position: int) -> PairBatch:
        own = self.labeled[position]
        other = self.unlabeled[position] if self.unlabeled is not None else None
        if other is None:
            return PairBatch(
                own.image,
                own.label,
                own.image[:, :0, :0],
                own.valid[:0, :0],
                own.label[:0, :0],
                own.boxes[:0],
            )
        return PairBatch(own.image, own.label, other.image, other.valid, other.label, other.boxes)
