"""AugSeg's step by a loop over pixels, and what is pasted where the teacher is unsure."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.contract import TOTAL, Build
from harness.slow import enlarged
from u2pl.schedules import Progress

PROGRESS = Progress(5, TOTAL)


def watched(method: Any) -> dict[str, Any]:
    """What student and teacher see, what the mix is given, and what both give."""
    seen: dict[str, Any] = {}
    student, teacher, mix = method.student.forward, method.teacher.forward, method.mix

    def predicting(image: Tensor, **kwargs: Any) -> Any:
        seen["student sees"], seen["student"] = image, student(image, **kwargs)
        return seen["student"]

    def teaching(image: Tensor, **kwargs: Any) -> Any:
        seen["teacher sees"], seen["teacher"] = image, teacher(image, **kwargs)
        return seen["teacher"]

    def mixing(*args: Any) -> Any:
        _, seen["sure"], seen["labeled"], seen["unlabeled"] = args
        seen["mixed"] = mix(*args)
        return seen["mixed"]

    method.student.forward, method.teacher.forward, method.mix = predicting, teaching, mixing
    return seen


@pytest.mark.parametrize("below", [0.0, 0.4])
def test_the_loss_equals_the_loop(below: float, build: Build) -> None:
    method, batch = build("augseg")
    prob = method.teacher(batch.image_u).logits.softmax(dim=1)
    confidence = prob.amax(dim=1).quantile(below).item() if below else 0.0
    options = {"method_confidence": confidence, "method_lambda_u": 0.7}
    method, batch = build("augseg", **options)
    seen = watched(method)
    result = method(batch, PROGRESS)
    size = batch.label_l.shape[-2:]

    # the teacher's labels of the clean images, and how sure it is of each image
    prob = enlarged(seen["teacher"].logits, size).softmax(dim=1)
    label, top = seen["unlabeled"].maps[:2]
    assert (label != prob.argmax(dim=1)).float().mean() < 0.002
    torch.testing.assert_close(top.double(), prob.amax(dim=1), rtol=0, atol=1e-5)
    entropy = -(prob * prob.log()).sum(dim=1) / math.log(prob.shape[1])
    for b, valid in enumerate(batch.valid_u):
        sure = ((1 - entropy[b]) * prob[b].amax(dim=0))[valid].mean().item()
        assert seen["sure"][b].item() == pytest.approx(sure, rel=1e-3)

    log_prob = enlarged(seen["student"].logits, size).log_softmax(dim=1)
    mixed = seen["mixed"]
    sums, counts = {"sup": 0.0, "unsup": 0.0}, {"sup": 0, "unsup": 0}
    for b, i, j in (batch.label_l != 255).nonzero().tolist():
        sums["sup"] -= log_prob[b, int(batch.label_l[b, i, j]), i, j].item()
        counts["sup"] += 1
    for b, i, j in mixed.valid_BHW.nonzero().tolist():
        counts["unsup"] += 1
        if mixed.maps[1][b, i, j] >= confidence:
            sums["unsup"] -= log_prob[2 + b, int(mixed.maps[0][b, i, j]), i, j].item()
    sup, unsup = (sums[name] / counts[name] for name in ("sup", "unsup"))
    assert result.loss.item() == pytest.approx(sup + 0.7 * unsup, rel=2e-4)
    share = (mixed.maps[1][mixed.valid_BHW] >= confidence).float().mean()
    assert 0 < share < 1 or not below


def test_the_teacher_sees_clean_images_and_the_student_changed_ones(build: Build) -> None:
    method, batch = build("augseg", **{"method_intensity.most": 11})
    seen = watched(method)
    method(batch, PROGRESS)
    assert torch.equal(seen["teacher sees"], batch.image_u)
    images = len(batch.image_l)
    assert torch.equal(seen["student sees"][:images], batch.image_l)
    assert torch.equal(seen["student sees"][images:], seen["mixed"].image_B3HW)
    strong = seen["unlabeled"].image_B3HW
    assert (strong != batch.image_u).flatten(1).any(dim=1).all()
    assert torch.equal(seen["labeled"].image_B3HW, batch.image_l)


def test_pasted_labelled_pixels_bring_their_true_labels(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One colour tells them; only they are sure enough to be learned from."""
    monkeypatch.setattr(
        "u2pl_semi.methods.augseg.image_confidence", lambda prob, _: torch.zeros(len(prob))
    )
    options = {"method_intensity.most": 0, "method_confidence": 0.999}
    method, batch = build("augseg", **options)
    colour = torch.tensor([1, 254, 3], dtype=torch.uint8).view(1, 3, 1, 1)
    batch = batch._replace(image_l=colour.expand_as(batch.image_l).clone())
    assert not (batch.image_u == colour).all(dim=1).any()
    batch.label_l[:, ::3] = 255
    seen, pasted = watched(method), []
    for step in range(4, 10):
        result = method(batch, Progress(step, TOTAL))
        mixed = seen["mixed"]
        own = (mixed.image_B3HW == colour).all(dim=1)
        label, top, _, truth = mixed.maps
        assert torch.equal(label[own], batch.label_l[own].long())
        assert torch.equal(truth[own], batch.label_l[own])
        assert torch.equal(mixed.valid_BHW[own], (batch.label_l != 255)[own])
        assert (top[own] == 1).all() and (top[~own] < 0.999).all()
        pasted.append((own & mixed.valid_BHW).sum().item())
        if pasted[-1]:
            share = pasted[-1] / mixed.valid_BHW.sum().item()
            assert result.scalars["confident_share"].item() == pytest.approx(share)
            assert result.scalars["accuracy/confident"] == 1
            assert result.scalars["loss/unsup"] > 0
    assert max(pasted) > 20


def test_a_teacher_that_is_sure_receives_no_labelled_pixels(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "u2pl_semi.methods.augseg.image_confidence", lambda prob, _: torch.ones(len(prob))
    )
    method, batch = build("augseg")
    seen = watched(method)
    for step in range(4, 10):
        method(batch, Progress(step, TOTAL))
        assert (seen["mixed"].maps[1] < 1).all()
