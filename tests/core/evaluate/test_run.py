from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from u2pl import distributed
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Confusion
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.evaluate.scoring import evaluate, picture_rows
from u2pl.networks.segmentor import SegOutput


class Drawn:
    """Eleven images of several sizes, whose red channel says the class of each 4x4 block; part of each mask is ignored."""

    name, classes = "drawn", ("a", "b", "c")

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.masks = {
            f"{i:02}": draw.integers(0, 3, (3 + i % 3, 4 + i % 2))
            .repeat(4, 0)
            .repeat(4, 1)
            .astype(np.uint8)
            for i in range(11)
        }
        self.decoded: list[str] = []

    def has_mask(self, id: str) -> bool:
        return id in self.masks

    def image(self, id: str) -> Image.Image:
        self.decoded.append(id)
        return Image.fromarray(np.stack([self.masks[id] * 100] * 3, -1))

    def mask(self, id: str) -> np.ndarray:
        mask = self.masks[id].copy()
        mask[:2] = 255
        return mask


class Reader(nn.Module):
    """Reads the class from the red channel, `shift` classes off."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.drop = nn.Dropout(0.9)

    def forward(self, image: Tensor, embed: bool = True) -> SegOutput:
        ids = (image[:, 0, ::4, ::4] * 255 / 100).round().long()
        logits = nn.functional.one_hot((ids + self.shift) % 3, 3).permute(0, 3, 1, 2) * 1000.0
        return SegOutput(self.drop(logits))


IDS = [f"{i:02}" for i in range(11)]


def counted(pixels: list[np.ndarray]) -> int:
    return sum(mask[2:].size for mask in pixels)


def nearest(monkeypatch):
    """The reader's blocks have hard edges; bilinear upsampling would blur them."""
    monkeypatch.setattr(
        "u2pl.evaluate.inference.upsample",
        lambda logits, size: logits.repeat_interleave(4, -1).repeat_interleave(4, -2)[
            ..., : size[0], : size[1]
        ],
    )


def test_networks_share_one_pass_and_return_to_their_mode(monkeypatch):
    nearest(monkeypatch)
    source, seen = Drawn(), []
    networks = {"right": Reader(0).train(), "wrong": Reader(1).eval()}
    scores = evaluate(
        networks,
        source,
        IDS,
        EvaluationProtocol(),
        "cpu",
        3,
        lambda done, total: seen.append((done, total)),
    )
    assert source.decoded == IDS
    assert seen == [(i, 11) for i in range(1, 12)]
    assert scores["right"].miou == scores["right"].pixel_accuracy == 100
    assert scores["wrong"].miou == scores["wrong"].pixel_accuracy == 0
    assert networks["right"].training and not networks["wrong"].training


@pytest.mark.parametrize("world", [1, 2, 3, 16])
def test_processes_share_the_images_without_counting_one_twice(monkeypatch, world):
    nearest(monkeypatch)
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    counts: list[Tensor] = []

    def total(value: Tensor) -> Tensor:
        counts.append(value)
        return torch.stack(counts).sum(0)

    monkeypatch.setattr(distributed, "total", total)
    source, score = Drawn(), None
    for rank in reversed(
        range(world)
    ):  # rank 0 holds pixels and is the last to arrive: it sees the sum
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        with pytest.MonkeyPatch.context() as patch:
            if rank:
                patch.setattr(Confusion, "scores", lambda self: None)
            score = evaluate({"net": Reader(0)}, source, IDS, EvaluationProtocol(), "cpu", 3)["net"]
    assert sorted(source.decoded) == IDS
    assert int(torch.stack(counts).sum(0)[:-1].sum()) == counted(list(source.masks.values()))
    assert score.miou == 100


def test_center_crop_counts_only_real_pixels(monkeypatch):
    nearest(monkeypatch)
    counts: list[Tensor] = []
    monkeypatch.setattr(distributed, "total", lambda value: counts.append(value) or value)
    source = Drawn()
    evaluate(
        {"net": Reader(0)}, source, IDS, EvaluationProtocol(mode="center-crop", crop=64), "cpu", 3
    )
    assert int(counts[0][:-1].sum()) == counted(list(source.masks.values()))
    evaluate(
        {"net": Reader(0)}, source, IDS, EvaluationProtocol(mode="center-crop", crop=8), "cpu", 3
    )
    assert int(counts[1][:-1].sum()) == 11 * 64


def test_no_images_is_said():
    with pytest.raises(UserError, match="drawn: there is no image to evaluate"):
        evaluate({}, Drawn(), [], EvaluationProtocol(), "cpu", 3)


def test_images_without_mask_are_named_before_one_is_decoded():
    source = Drawn()
    with pytest.raises(
        UserError,
        match=r"drawn: images without mask: '20', '21' .*: add their masks, or score on another split",
    ):
        evaluate({}, source, ["00", "20", "21"], EvaluationProtocol(), "cpu", 3)
    assert source.decoded == []


def test_picture_rows_are_spread_over_the_split(monkeypatch):
    nearest(monkeypatch)
    rows = picture_rows(Reader(0), Drawn(), IDS, EvaluationProtocol(), "cpu", count=4)
    assert [row.title for row in rows] == ["00", "02", "05", "08"]
    for row in rows:
        seen = row.truth != 255
        assert row.image.shape[:2] == row.prediction.shape == row.truth.shape
        assert (row.prediction[seen] == row.truth[seen]).all() and not seen.all()
    assert len(picture_rows(Reader(0), Drawn(), IDS[:2], EvaluationProtocol(), "cpu", count=4)) == 2
