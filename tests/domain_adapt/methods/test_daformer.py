"""DAFormer's step, term by term, by loops over pixels."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harness.contract import Build, optimizer_of, steps
from u2pl.schedules import Progress

THRESHOLD, WEIGHT, SHARE = 0.3, 0.05, 0.5  # as in conftest.py
SIDE = 64


def full_size(logits: Tensor) -> Tensor:
    return interpolate(logits.double(), scale_factor=4, mode="bilinear")


def minus_log(logits: Tensor, label: Tensor) -> dict[tuple[int, int, int], float]:
    """-log p of the label at every pixel that has one."""
    log_prob = full_size(logits).log_softmax(dim=1)
    places = [
        place
        for place in product(range(len(label)), range(SIDE), range(SIDE))
        if label[place] != 255
    ]
    return {(b, i, j): -log_prob[b, label[b, i, j].long(), i, j].item() for b, i, j in places}


def slow_weights(prob: Tensor, batch: Any, pasted: Tensor) -> tuple[list[float], Tensor]:
    """q of each image, and the weight of each pixel.

    1 on source pixels, else q; 0 on padding and border rows.
    """
    shares, weight = [], torch.zeros(len(prob), SIDE, SIDE, dtype=torch.float64)
    for b in range(len(prob)):
        confident = [
            bool(prob[b, :, i, j].max() >= THRESHOLD)
            for i, j in product(range(SIDE), range(SIDE))
            if batch.valid_t[b, i, j]
        ]
        shares.append(sum(confident) / len(confident))
        for i, j in product(range(SIDE), range(SIDE)):
            believed = batch.valid_t[b, i, j] and not batch.border_t[b, i]
            weight[b, i, j] = 1.0 if pasted[b, i, j] else shares[b] if believed else 0.0
    return shares, weight


def slow_distance(deep: Tensor, reference: Tensor, label: Tensor, things: tuple[int, ...]) -> float:
    found = []
    for b, i, j in product(*(range(size) for size in (len(deep), *deep.shape[-2:]))):
        winner, pixels = Counter(
            label[b, 32 * i : 32 * i + 32, 32 * j : 32 * j + 32].flatten().tolist()
        ).most_common(1)[0]
        if winner in things and pixels / 32**2 >= SHARE:
            found.append((deep[b, :, i, j] - reference[b, :, i, j]).double().norm().item())
    return sum(found) / len(found)


def test_the_step_is_the_sum_of_its_terms(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    method: Any
    method, batch = build("daformer", network_dropout=0)
    steps(method, batch, 0, 3, optimizer_of(method))  # away from the pretrained weights
    batch.valid_t[1, :, 50:] = False
    batch.label_l[0, :9] = 255
    seen: list[Any] = []
    mix = method.mix
    monkeypatch.setattr(method, "mix", lambda *args: seen.append(mix(*args)) or seen[-1])
    result = method(batch, Progress(3, 10))
    (mixed,) = seen

    with torch.no_grad():
        prob = full_size(method.teacher(batch.image_t, embed=False).logits).softmax(dim=1)
        source, target = method.student(batch.image_l), method.student(mixed.image_B3HW)
        reference = method.imagenet.encoder(method.student.prepare(batch.image_l))[-1]
    shares, weight = slow_weights(prob, batch, mixed.pasted_BHW)
    assert min(shares) > 0 and max(shares) < 1 and mixed.pasted_BHW.any()
    assert torch.equal(
        mixed.label_BHW, torch.where(mixed.pasted_BHW, batch.label_l.long(), prob.argmax(dim=1))
    )
    torch.testing.assert_close(mixed.weight_BHW.double(), weight, rtol=1e-5, atol=1e-7)
    assert (weight == 0).any() and (weight == 1).any()

    known, believed = (
        minus_log(source.logits, batch.label_l),
        minus_log(target.logits, mixed.label_BHW),
    )
    sup = sum(known.values()) / len(known)
    unsup = sum(weight[place].item() * value for place, value in believed.items()) / weight.numel()
    distance = slow_distance(
        source.deep, reference, batch.label_l, method.config.feature_distance.things
    )
    assert distance > 0
    found = {
        key: float(result.scalars[key]) for key in ("loss/sup", "loss/unsup", "loss/distance", "q")
    }
    expected = {
        "loss/sup": sup,
        "loss/unsup": unsup,
        "loss/distance": distance,
        "q": sum(shares) / 2,
    }
    assert found == pytest.approx(expected, rel=1e-4)
    assert result.loss.item() == pytest.approx(sup + unsup + WEIGHT * distance, rel=1e-4)
    assert torch.isnan(result.scalars["accuracy/target"])  # no target image has a mask
