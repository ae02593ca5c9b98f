"""UniMatch's step: its loss by a loop over pixels, and which image trains which."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.contract import TOTAL, Build
from harness.slow import confident_loss, enlarged
from u2pl.networks.segmentor import SegOutput
from u2pl.schedules import Progress

STEP = 5


def watched(method: Any) -> tuple[list[SegOutput], list[Any]]:
    """What the student's decoder and the mix give in the steps that follow."""
    outputs: list[SegOutput] = []
    views: list[Any] = []
    decode, mix = method.student.decode, method.mix

    def decoding(*args: Any, **kwargs: Any) -> SegOutput:
        outputs.append(decode(*args, **kwargs))
        return outputs[-1]

    def mixing(*args: Any) -> Any:
        views.append((args[1], mix(*args)))
        return views[-1][1]

    method.student.decode, method.mix = decoding, mixing
    return outputs, views


@pytest.mark.parametrize("confidence", [0.0, 0.4])
def test_the_loss_equals_the_loop(confidence: float, build: Build) -> None:
    options = {"method_confidence": confidence, "method_lambda_s": 0.6, "method_lambda_fp": 0.3}
    method, batch = build("unimatch", **options)
    outputs, views = watched(method)
    result = method(batch, Progress(STEP, TOTAL))
    size, images = batch.label_l.shape[-2:], len(batch.image_l)

    weak, strong = (enlarged(output.logits.detach(), size) for output in outputs)
    logits_l, logits_w, logits_fp = weak.split(images)
    prob = logits_w.softmax(dim=1)
    top, label = prob.max(dim=1)
    share = ((top >= confidence) & batch.valid_u).sum() / batch.valid_u.sum()
    assert 0 < share < 1 or confidence == 0
    known = batch.label_l != 255
    sup = confident_loss(logits_l, batch.label_l, torch.ones(known.shape), known, 0.0)
    fp = confident_loss(logits_fp, label, top, batch.valid_u, confidence)
    s1, s2 = (
        confident_loss(logits, *view.maps[:2], view.valid_BHW, confidence)
        for logits, (_, view) in zip(strong.chunk(2), views, strict=True)
    )
    found = {key.removeprefix("loss/"): value.item() for key, value in result.scalars.items()}
    for name, value in {"sup": sup, "fp": fp, "s1": s1, "s2": s2}.items():
        assert found[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name
    expected = (sup + 0.6 * (s1 + s2) / 2 + 0.3 * fp) / 2
    assert result.loss.item() == pytest.approx(expected, rel=2e-4)
    assert found["confident_share"] == pytest.approx(share.item(), rel=1e-3)


def test_both_views_are_strong_differ_and_carry_the_labels_of_the_clean_images(
    build: Build,
) -> None:
    options = {
        "method_strong_view.kind": "unimatch",
        "method_strong_view.jitter_probability": 1.0,
        "method_mix.probability": 1.0,
        "method_confidence": 0.0,
    }
    method, batch = build("unimatch", **options)
    outputs, views = watched(method)
    method(batch, Progress(STEP, TOTAL))
    clean = batch.image_u / 255
    (one, first), (two, second) = views
    for image in (one, two):
        assert (image != clean).flatten(1).any(dim=1).all()
    assert not torch.equal(one, two)
    assert not torch.equal(first.image_B3HW, second.image_B3HW)
    _, logits_w, _ = enlarged(outputs[0].logits.detach(), batch.label_l.shape[-2:]).split(2)
    label = logits_w.argmax(dim=1)
    for image, view in ((one, first), (two, second)):
        pasted = (view.image_B3HW != image).any(dim=1)
        assert pasted.any() and not pasted.all()
        assert torch.equal(view.maps[0], torch.where(pasted, label.roll(-1, 0), label)) or (
            # where both images happen to have the same colour, the label tells
            (view.maps[0] != torch.where(pasted, label.roll(-1, 0), label)).float().mean() < 0.02
        )


def test_the_perturbed_branch_loses_channels_of_every_map(build: Build) -> None:
    method, batch = build("unimatch", method_dropout=0.5)
    seen: list[list[Tensor]] = []
    decode = method.student.decode

    def decoding(maps: list[Tensor], *args: Any, **kwargs: Any) -> SegOutput:
        seen.append(maps)
        return decode(maps, *args, **kwargs)

    method.student.decode = decoding
    method(batch, Progress(STEP, TOTAL))
    for each in seen[0]:
        _, clean, dropped = each.split(2)
        gone = (dropped == 0).flatten(2).all(dim=2)
        assert 0.2 < gone.float().mean() < 0.8
        assert torch.allclose(dropped[~gone], 2 * clean[~gone])


def test_labels_take_no_gradient(build: Build) -> None:
    """With the weights of everything else at 0, the clean unlabelled images teach nothing."""
    method, batch = build("unimatch", method_lambda_s=0.0, method_lambda_fp=0.0)
    outputs, _ = watched(method)
    result = method(batch, Progress(STEP, TOTAL))
    (grad,) = torch.autograd.grad(result.loss, outputs[0].logits)
    assert grad[:2].any() and not grad[2:].any()
