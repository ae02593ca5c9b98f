"""Counts of (true class, predicted class), streamed on the device, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from u2pl import distributed
from u2pl.errors import UserError
from u2pl.notation import IGNORE


class Score(NamedTuple):
    """What a split says about a network; every number is in percent."""

    per_class_iou: list[
        float | None
    ]  # by class id; None: the class does not occur in the split's ground truth
    miou: float  # mean over the classes that occur in the ground truth
    pixel_accuracy: float


def subset_mious(
    score: Score, classes: Sequence[str], subsets: Mapping[str, Sequence[str]]
) -> dict[str, float | None]:
    """mIoU over each named subset of the classes, in percent; None where none of its classes occurs in the ground truth."""
    iou = dict(zip(classes, score.per_class_iou, strict=True))
    values = {
        name: [value for value in map(iou.__getitem__, members) if value is not None]
        for name, members in subsets.items()
    }
    return {name: sum(found) / len(found) if found else None for name, found in values.items()}


class Confusion:
    """A confusion matrix of `num_classes` classes that lives on `device`; pixels labelled 255 count nowhere."""

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        assert 1 <= num_classes <= IGNORE
        self.num_classes = num_classes
        self._counts = torch.zeros(
            num_classes * num_classes + 1, dtype=torch.int64, device=device
        )  # the last bin takes what is ignored

    @property
    def matrix(self) -> Tensor:
        """Pixel counts, int64 [C, C]; rows are the ground truth, columns the prediction."""
        return self._counts[:-1].view(self.num_classes, self.num_classes)

    def update(self, pred_BHW: Tensor, label_BHW: Tensor) -> None:
        """Count the pixels of a batch without waiting for the device.

        Args:
            pred_BHW: class ids, any integer dtype and any shape.
            label_BHW: class ids or 255, same shape.

        The same, slowly: `for truth, pred in zip(label, pred): if truth != 255: matrix[truth, pred] += 1`.
        """
        assert pred_BHW.shape == label_BHW.shape
        label = label_BHW.reshape(-1).long()
        pair = label * self.num_classes + pred_BHW.reshape(-1).long()
        pair = pair.where(label != IGNORE, self._counts.numel() - 1)
        self._counts.scatter_add_(0, pair, torch.ones_like(pair))

    def reduce(self) -> Confusion:
        """The sum over all processes, as a new matrix."""
        summed = Confusion(self.num_classes, self._counts.device)
        summed._counts = distributed.total(self._counts)
        return summed

    def scores(self) -> Score:
        """IoU per class, their mean and the pixel accuracy; raises UserError when no labelled pixel was seen."""
        matrix = self.matrix.cpu().double()
        hit, truth, said = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        occurs = truth > 0
        if not occurs.any():
            raise UserError(
                "these masks hold no labelled pixel (all are 255): there is nothing to score; choose another split"
            )
        iou = 100 * hit / (truth + said - hit).clamp(min=1)
        per_class = [
            value if there else None
            for value, there in zip(iou.tolist(), occurs.tolist(), strict=True)
        ]
        return Score(per_class, iou[occurs].mean().item(), (100 * hit.sum() / truth.sum()).item())
