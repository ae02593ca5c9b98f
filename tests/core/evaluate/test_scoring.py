from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from u2pl import distributed
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Confusion
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.evaluate.scoring import evaluate

IDS = [f"{i:02}" for i in range(11)]


def counted(pixels: list[np.ndarray]) -> int:
    return sum(mask[2:].size for mask in pixels)


def test_networks_share_one_pass_and_return_to_their_mode(drawn, reader):
    seen = []
    networks = {"right": reader(0).train(), "wrong": reader(1).eval()}
    scores = evaluate(
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
    assert scores["right"].miou == scores["right"].pixel_accuracy == 100
    assert scores["wrong"].miou == scores["wrong"].pixel_accuracy == 0
    assert networks["right"].training and not networks["wrong"].training


@pytest.mark.parametrize("world", [1, 2, 3, 16])
def test_processes_share_the_images_without_counting_one_twice(monkeypatch, drawn, reader, world):
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    counts: list[Tensor] = []

    def total(value: Tensor) -> Tensor:
        counts.append(value)
        return torch.stack(counts).sum(0)

    monkeypatch.setattr(distributed, "total", total)
    score = None
    # rank 0 holds pixels and is the last to arrive: it sees the sum
    for rank in reversed(range(world)):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        with pytest.MonkeyPatch.context() as patch:
            if rank:
                patch.setattr(Confusion, "scores", lambda self: None)
            score = evaluate({"net": reader(0)}, drawn, IDS, EvaluationProtocol(), "cpu", 3)["net"]
    assert sorted(drawn.decoded) == IDS
    assert int(torch.stack(counts).sum(0)[:-1].sum()) == counted(list(drawn.masks.values()))
    assert score.miou == 100


def test_center_crop_counts_only_real_pixels(monkeypatch, drawn, reader):
    counts: list[Tensor] = []
    monkeypatch.setattr(distributed, "total", lambda value: counts.append(value) or value)
    evaluate(
        {"net": reader(0)}, drawn, IDS, EvaluationProtocol(mode="center-crop", crop=64), "cpu", 3
    )
    assert int(counts[0][:-1].sum()) == counted(list(drawn.masks.values()))
    evaluate(
        {"net": reader(0)}, drawn, IDS, EvaluationProtocol(mode="center-crop", crop=8), "cpu", 3
    )
    assert int(counts[1][:-1].sum()) == 11 * 64


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
