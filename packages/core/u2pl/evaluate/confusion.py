"""The confusion matrix, accumulated on the device, and the scores computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from pydantic import FiniteFloat
from torch import Tensor

from u2pl.errors import UserError
from u2pl.notation import IGNORE


class Score(NamedTuple):
    """Scores of a network on a split, in percent."""

    #: By class id; None if the class does not occur in the ground truth.
    per_class_iou: list[FiniteFloat | None]
    miou: FiniteFloat  # mean over the classes that occur in the ground truth
    pixel_accuracy: FiniteFloat


def subset_mious(
    score: Score, classes: Sequence[str], subsets: Mapping[str, Sequence[str]]
) -> dict[str, float | None]:
    """mIoU in percent over each named subset of the classes; None if none of them occurs."""
    iou = dict(zip(classes, score.per_class_iou, strict=True))
    values = {
        name: [value for value in map(iou.__getitem__, members) if value is not None]
        for name, members in subsets.items()
    }
    return {name: sum(found) / len(found) if found else None for name, found in values.items()}


class Confusion:
    """A confusion matrix of `num_classes` classes on `device`; pixels labelled 255 are ignored."""

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        assert 1 <= num_classes <= IGNORE
        self.num_classes = num_classes
        # the last bin counts ignored pixels
        self._counts = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=device)

    @property
    def matrix(self) -> Tensor:
        """Pixel counts, int64 [C, C]; rows are the ground truth, columns the prediction."""
        return self._counts[:-1].view(self.num_classes, self.num_classes)

    def update(self, pred_BHW: Tensor, label_BHW: Tensor) -> None:
        """Count the pixels of a batch; does not synchronise with the device.

            for truth, pred in zip(label, pred):
                if truth != 255: matrix[truth, pred] += 1

        Args:
            pred_BHW: class ids, of any integer dtype and any shape.
            label_BHW: class ids, 255 = ignore, of the same shape.
        """
        assert pred_BHW.shape == label_BHW.shape
        label = label_BHW.reshape(-1).long()
        pair = label * self.num_classes + pred_BHW.reshape(-1).long()
        pair = pair.where(label != IGNORE, self._counts.numel() - 1)
        self._counts.scatter_add_(0, pair, torch.ones_like(pair))

    def by_class(self) -> Tensor:
        """Pixels of each class that are hit, of the truth, predicted: int64 [3, C]."""
        matrix = self.matrix
        return torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])

    def scores(self) -> Score:
        """IoU per class, mIoU and pixel accuracy; UserError if no labelled pixel was counted."""
        return score_of(self.matrix)


def score_of(matrix_CC: Tensor) -> Score:
    """IoU per class, mIoU and pixel accuracy of a confusion matrix.

    Args:
        matrix_CC: pixel counts; rows are the ground truth, columns the prediction.

    Raises:
        UserError: No pixel was counted.
    """
    matrix = matrix_CC.cpu().double()
    hit, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    occurs = truth > 0
    if not occurs.any():
        raise UserError(
            "these masks hold no labelled pixel (all are 255): there is nothing to score; "
            "choose another split"
        )
    iou = 100 * hit / (truth + predicted - hit).clamp(min=1)
    per_class = [
        value if seen else None for value, seen in zip(iou.tolist(), occurs.tolist(), strict=True)
    ]
    return Score(per_class, iou[occurs].mean().item(), (100 * hit.sum() / truth.sum()).item())
