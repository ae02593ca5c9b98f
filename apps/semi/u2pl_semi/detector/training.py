"""Training of the detector by the loop that trains everything else."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from u2pl.data.boxes import MOST, component_boxes
from u2pl.data.streams import Stream
from u2pl.methods.method import Method, MethodConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.schedules import Progress


class BoxBatch(NamedTuple):
    """Images, and the boxes of what they show."""

    image: Tensor  # uint8 [B, 3, H, W]
    boxes: Tensor  # int64 [B, N, 5]: class (-1 = none), top, left, bottom, right


class BoxStream(Dataset[BoxBatch]):
    """Crops of labelled images, with boxes around the connected parts of their masks.

    Args:
        labeled: stream of images with masks.
        things: the classes that get boxes.
        least: pixels of the smallest part that gets one.
    """

    def __init__(self, labeled: Stream, things: tuple[int, ...], least: int) -> None:
        self.labeled, self.things, self.least = labeled, things, least

    def __getitem__(self, position: int) -> BoxBatch:
        sample = self.labeled[position]
        found = torch.from_numpy(component_boxes(sample.label.numpy(), self.things, self.least))
        area = (found[:, 3] - found[:, 1]) * (found[:, 4] - found[:, 2])
        largest = found[area.argsort(descending=True, stable=True)][:MOST]
        boxes = torch.full((MOST, 5), -1)
        boxes[: len(largest)] = largest
        return BoxBatch(sample.image, boxes)


class DetectorTraining(Method[BoxBatch]):
    """The losses of Faster R-CNN, summed (Ren et al. 2015).

    Args:
        network: torchvision's Faster R-CNN.
        things: the ids of its classes, in its own order.
    """

    uses_unlabeled = False

    def __init__(self, network: nn.Module, things: tuple[int, ...]) -> None:
        nn.Module.__init__(self)
        self.config, self.student, self.num_classes = MethodConfig(), network, len(things)  # type: ignore[assignment]
        number = torch.zeros(max(things) + 1, dtype=torch.int64)
        number[list(things)] = torch.arange(1, len(things) + 1)
        self.register_buffer("number", number, persistent=False)

    number: Tensor

    def forward(self, batch: BoxBatch, progress: Progress) -> StepResult:
        targets = []
        for boxes in batch.boxes:
            own = boxes[boxes[:, 0] >= 0]
            corners = own[:, [2, 1, 4, 3]].float()
            targets.append({"boxes": corners, "labels": self.number[own[:, 0]]})
        losses = self.student(list(batch.image.float() / 255), targets)
        names = {
            "loss_classifier": "class",
            "loss_box_reg": "box",
            "loss_objectness": "objectness",
            "loss_rpn_box_reg": "proposal",
        }
        return weighted_sum({}, **{names[name]: value for name, value in losses.items()})

    def networks(self) -> dict[str, nn.Module]:
        return {"detector": self.student}
