from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate
from torchvision.models.detection.faster_rcnn import FasterRCNN

from u2pl.data.boxes import MOST, component_boxes
from u2pl.data.sources.folder import Folder
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.mixing.masks import box_mask
from u2pl.schedules import Progress
from u2pl_semi.detector.training import BoxBatch, BoxStream, DetectorTraining

LABELED = ("3", "4", "5", "6")


def streams(things: Path, least: int) -> tuple[Stream, BoxStream]:
    cut = TrainTransform(48, (0.5, 1.5), flip=True)
    labeled = Stream(Folder(things), LABELED, cut, 0, "labeled")
    return labeled, BoxStream(labeled, (2, 1), least)


def test_boxes_are_those_of_the_parts_of_the_crop_the_largest_first(things: Path) -> None:
    labeled, stream = streams(things, 150)
    few = 0
    for position in range(12):
        sample, found = labeled[position], stream[position]
        label = sample.label.numpy()
        expected = component_boxes(label, (1, 2), 150)
        few += len(expected) < len(component_boxes(label, (1, 2)))
        assert torch.equal(found.image, sample.image)
        assert found.boxes.shape == (MOST, 5) and found.boxes.dtype == torch.int64
        real = found.boxes[found.boxes[:, 0] >= 0]
        assert sorted(real.tolist()) == sorted(expected.tolist())
        assert (found.boxes[len(real) :] == -1).all()
        area = box_mask(real[:, 1:], label.shape).sum(dim=(1, 2))
        assert (area.diff() <= 0).all()
    assert few > 0


class Dots(Stream):
    """A stream of one crop with more parts than a crop may have boxes, one of them large."""

    def __getitem__(self, position: int):  # type: ignore[no-untyped-def]
        label = torch.zeros(48, 48, dtype=torch.uint8)
        label[:30:3, ::3] = 1
        label[34:44, 5:40] = 2
        return super().__getitem__(position)._replace(label=label)


def test_of_many_parts_the_largest_get_boxes(things: Path) -> None:
    cut = TrainTransform(48, (1.0, 1.0), flip=False)
    boxes = BoxStream(Dots(Folder(things), LABELED, cut, 0, "l"), (1, 2), 1)[0].boxes
    assert boxes[0].tolist() == [2, 34, 5, 44, 40]
    assert (boxes[1:, 0] == 1).all() and len(boxes) == MOST


@pytest.fixture
def method(network: FasterRCNN) -> DetectorTraining:
    return DetectorTraining(network, (3, 1)).train()


def batch(*boxes: list[list[int]]) -> BoxBatch:
    """Random images with these boxes."""
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (len(boxes), 3, 64, 64), generator=draw, dtype=torch.uint8)
    padded = torch.full((len(boxes), MOST, 5), -1)
    for row, own in zip(padded, boxes, strict=True):
        row[: len(own)] = torch.tensor(own).reshape(-1, 5)
    return BoxBatch(image, padded)


TWO, ONE = [[3, 4, 8, 40, 30], [1, 30, 30, 60, 62]], [[1, 0, 0, 64, 64]]


@pytest.mark.parametrize("boxes", [(TWO, ONE), (TWO, []), ([], [])])
def test_a_step_has_finite_losses_and_gradients(
    method: DetectorTraining, boxes: tuple[list[list[int]], ...]
) -> None:
    torch.manual_seed(0)
    result = method(batch(*boxes), Progress(0, 10))
    result.loss.backward()
    terms = {f"loss/{name}" for name in ("class", "box", "objectness", "proposal")}
    assert result.scalars.keys() >= terms
    losses = [float(result.scalars[name]) for name in sorted(terms)]
    assert all(np.isfinite(losses)) and sum(losses) == pytest.approx(
        float(result.loss.detach()), rel=1e-5
    )
    for name, value in method.named_parameters():
        if value.requires_grad:
            assert value.grad is not None and value.grad.isfinite().all(), name
    if any(boxes):
        assert all(loss > 0 for loss in losses)
        moved = [name for name, value in method.named_parameters() if value.grad.any()]  # type: ignore[union-attr]
        for part in ("encoder", "fpn", "rpn.head", "box_head", "cls_score", "bbox_pred"):
            assert any(part in name for name in moved), part


def test_the_network_gets_its_own_numbers_and_corners_as_it_wants_them(
    method: DetectorTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def forward(images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]):  # type: ignore[no-untyped-def]
        seen["images"], seen["targets"] = images, targets
        names = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
        return {name: torch.ones(()) for name in names}

    monkeypatch.setattr(method.student, "forward", forward)
    given = batch(TWO, [])
    method(given, Progress(0, 10))
    first, second = seen["targets"]
    assert first["boxes"].tolist() == [[8, 4, 30, 40], [30, 30, 62, 60]]  # left, top, right, bottom
    assert first["labels"].tolist() == [1, 2]  # classes 3 and 1 are its first and second
    assert second["boxes"].shape == (0, 4) and second["labels"].shape == (0,)
    assert torch.equal(seen["images"][1], given.image[1].float() / 255)


def test_steps_find_an_object(things: Path, method: DetectorTraining) -> None:
    """Of a batch that is shown again and again the loss falls."""
    torch.manual_seed(0)
    stream = BoxStream(streams(things, 20)[0], (3, 1), 20)
    same = default_collate([stream[position] for position in range(4)])
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    losses = []
    for step in range(14):
        result = method(same, Progress(step, 14))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(float(result.loss.detach()))
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
