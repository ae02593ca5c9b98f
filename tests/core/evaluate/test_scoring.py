from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from u2pl import distributed
from u2pl.errors import UserError
from u2pl.evaluate.counts import Counts
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.evaluate.scoring import evaluate

IDS = [f"{i:02}" for i in range(11)]


def counted(pixels: list[np.ndarray]) -> int:
    return sum(mask[2:].size for mask in pixels)


def test_networks_share_one_pass_and_return_to_their_mode(drawn, reader):
    seen = []
    networks = {"right": reader(0).train(), "wrong": reader(1).eval()}
    counts = evaluate(
        networks,
        drawn,
        IDS,
        EvaluationProtocol(),
        "cpu",
        3,
        lambda done, total: seen.append((done, total)),
    )
    assert drawn.decoded == IDS
    assert seen == [(i, 11) for i in range(1, 12)]
    right, wrong = counts["right"].score(), counts["wrong"].score()
    assert right.miou == right.pixel_accuracy == 100
    assert wrong.miou == wrong.pixel_accuracy == 0
    assert networks["right"].training and not networks["wrong"].training


@pytest.mark.parametrize("world", [1, 2, 3, 16])
def test_processes_share_the_images_without_counting_one_twice(monkeypatch, drawn, reader, world):
    """Each process counts images of its own; summed they are what one process counts.

    All say equally often how far they are: they agree on whether to go on.
    """
    networks, protocol = {"net": reader(0)}, EvaluationProtocol()
    alone = evaluate(networks, drawn, IDS, protocol, "cpu", 3)["net"]
    drawn.decoded.clear()
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    monkeypatch.setattr(distributed, "total", lambda value: value)
    shares, most = [], -(-11 // world)
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        seen = []

        def tell(*numbers, seen=seen):
            seen.append(numbers)

        shares.append(evaluate(networks, drawn, IDS, protocol, "cpu", 3, tell)["net"])
        assert seen == [(done, most) for done in range(1, most + 1)]
    assert sorted(drawn.decoded) == IDS
    for part in Counts._fields:
        parts = [getattr(share, part) for share in shares]
        assert torch.equal(torch.stack(parts).sum(0), getattr(alone, part))
    assert int(alone.confusion.sum()) == counted(list(drawn.masks.values()))
    assert alone.score().miou == 100


def test_counts_of_an_image_are_those_of_its_own_pixels(drawn, reader):
    counts = evaluate({"net": reader(1)}, drawn, IDS, EvaluationProtocol(), "cpu", 3)["net"]
    for index, id in enumerate(IDS):
        alone = evaluate({"net": reader(1)}, drawn, [id], EvaluationProtocol(), "cpu", 3)["net"]
        assert torch.equal(counts.images[index], alone.images[0])
        assert torch.equal(alone.images[0], by_class(alone.confusion))
    assert torch.equal(counts.images.sum(0), by_class(counts.confusion))


def by_class(matrix: Tensor) -> Tensor:
    return torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])


def test_center_crop_counts_only_real_pixels(drawn, reader):
    def pixels(crop: int) -> int:
        protocol = EvaluationProtocol(mode="center-crop", crop=crop)
        counts = evaluate({"net": reader(0)}, drawn, IDS, protocol, "cpu", 3)["net"]
        return int(counts.confusion.sum())

    assert pixels(64) == counted(list(drawn.masks.values()))
    assert pixels(8) == 11 * 64


def test_no_images_is_said(drawn):
    with pytest.raises(UserError, match="drawn: there is no image to evaluate"):
        evaluate({}, drawn, [], EvaluationProtocol(), "cpu", 3)


def test_images_without_mask_are_named_before_one_is_decoded(drawn):
    with pytest.raises(
        UserError,
        match=r"drawn: images without mask: '20', '21' .*: add their masks",
    ):
        evaluate({}, drawn, ["00", "20", "21"], EvaluationProtocol(), "cpu", 3)
    assert drawn.decoded == []
