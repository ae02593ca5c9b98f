"""Batches of labelled source images and unlabelled target images."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from u2pl.data.streams import Stream, TrainingSet
from u2pl.data.transforms import TrainSample


class DomainBatch(NamedTuple):
    """B labelled and B target images of one size; without target images, their fields are empty."""

    image_l: Tensor  # uint8 [B, 3, H, W], source, and labelled images of the target if there are
    label_l: Tensor  # uint8 [B, H, W], 255 = ignore or padding
    image_t: Tensor  # uint8 [B, 3, H, W], target
    valid_t: Tensor  # bool [B, H, W], False on padding
    border_t: Tensor  # bool [B, H], True on void rows, which show nothing of the scene
    truth_t: Tensor  # uint8 [B, H, W], 255 = unknown; only to log the pseudo-labels' accuracy


class DomainStreams(TrainingSet[DomainBatch]):
    """Pairs of sample g of the labelled images and sample g of the target.

    Args:
        labelled: stream of images with masks.
        target: stream of images; None if the method does not use them.
    """

    def __init__(self, labelled: Dataset[TrainSample], target: Stream | None) -> None:
        self.labelled = labelled
        self.target = target

    def skipped(self) -> list[str]:
        return [] if self.target is None else self.target.skipped()

    def __getitem__(self, position: int) -> DomainBatch:
        own = self.labelled[position]
        other = self.target[position] if self.target is not None else None
        if other is None:
            image, label = own.image[:, :0, :0], own.label[:0, :0]
            return DomainBatch(
                own.image, own.label, image, own.valid[:0, :0], own.border[:0], label
            )
        return DomainBatch(
            own.image, own.label, other.image, other.valid, other.border, other.label
        )
