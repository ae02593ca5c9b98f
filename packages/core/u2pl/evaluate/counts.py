"""Pixel counts of scored images: what scores, intervals and comparisons are computed from.

N: images; C: classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score, score_of
from u2pl.files import parse_json, replace_file
from u2pl.tensor_file import Damaged, read_tensors, tensor_file

#: The counts of a run's last evaluation, in its folder.
COUNTS = "counts.safetensors"


class Counts(NamedTuple):
    """Counts of one network, on the CPU; pixels labelled 255 are left out."""

    #: int64 [C, C]; rows are the ground truth, columns the prediction.
    confusion: Tensor
    #: int64 [N, 3, C]: of each image and class the pixels that are hit, of the truth, predicted.
    images: Tensor

    def score(self) -> Score:
        """IoU per class, mIoU and pixel accuracy; UserError if no pixel is labelled."""
        return score_of(self.confusion)

    def image_mious(self) -> list[float | None]:
        """mIoU in percent of each image over the classes in its truth or prediction.

        None if no pixel of the image is labelled. A class that the network invents counts as 0, so
        a wrong image is not called good for the classes it has.
        """
        hit, truth, predicted = self.images.double().unbind(1)
        union = truth + predicted - hit
        iou = 100 * hit / union.clamp(min=1)
        mean = iou.sum(1) / (union > 0).sum(1).clamp(min=1)
        seen = (truth.sum(1) > 0).tolist()
        return [value if known else None for value, known in zip(mean.tolist(), seen, strict=True)]


class ScoredImages(NamedTuple):
    """Counts of a run's networks on the same images."""

    ids: tuple[str, ...]
    networks: dict[str, Counts]


def save_counts(path: Path, ids: Sequence[str], networks: Mapping[str, Counts]) -> None:
    """Write counts atomically.

    Args:
        path: of the file.
        ids: of the images, in the order of `Counts.images`.
        networks: counts by the network's role.

    Raises:
        UserError: The disk is full or refuses.
    """
    tensors = {
        f"{name}.{part}": value
        for name, counts in networks.items()
        for part, value in counts._asdict().items()
    }
    replace_file(path, tensor_file(tensors, {"ids": json.dumps(list(ids))}))


def load_counts(path: Path) -> ScoredImages:
    """The inverse of `save_counts`; UserError if the file is damaged or none of it."""
    try:
        held = read_tensors(path)
        ids = tuple(parse_json(held.facts["ids"]))
        names = dict.fromkeys(key.rpartition(".")[0] for key in held.tensors)
        found = {
            name: Counts(*(held.tensors[f"{name}.{part}"] for part in Counts._fields))
            for name in names
        }
        _check(ids, found)
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as pixel counts ({type(error).__name__}: {error}); delete it: "
            "reports and comparisons then do without what is counted of each image"
        ) from error
    return ScoredImages(ids, found)


def _check(ids: tuple[object, ...], networks: Mapping[str, Counts]) -> None:
    """ValueError if these are no counts of images."""
    if not (networks and ids and all(isinstance(id, str) for id in ids)):
        raise ValueError("it names no images or no networks")
    for name, (confusion, images) in networks.items():
        classes = confusion.shape[-1:].numel()
        if confusion.shape != (classes, classes) or images.shape != (len(ids), 3, classes):
            raise ValueError(f"{name} has counts of another shape")
        if not all(each.dtype == torch.int64 and (each >= 0).all() for each in (confusion, images)):
            raise ValueError(f"{name} has what are no counts")
