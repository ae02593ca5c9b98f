"""ESL's step: its losses by loops, its parts, and its ablations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from harness.contract import TOTAL, Build
from u2pl.maps import downsample
from u2pl.pseudo.soft_label import SoftLabelConfig, soft_label
from u2pl.schedules import Progress

STEP = 5


def watched(method: Any) -> dict[str, Any]:
    """What mix and student give, and what the contrast is called with, in the next step."""
    seen: dict[str, Any] = {}
    mix, student, contrast = method.mix, method.student.forward, method.part_contrast.forward

    def mixing(*args: Any) -> Any:
        seen["prob"], seen["mixed"] = args[3], mix(*args)
        return seen["mixed"]

    def predicting(*args: Any, **kwargs: Any) -> Any:
        seen["student"] = student(*args, **kwargs)
        return seen["student"]

    def contrasting(*args: Any, **kwargs: Any) -> Any:
        seen["contrast"] = args
        return contrast(*args, **kwargs)

    mixing.mixes = mix.mixes  # type: ignore[attr-defined]
    method.mix, method.student.forward, method.part_contrast.forward = (
        mixing, predicting, contrasting,
    )  # fmt: skip
    return seen


@pytest.mark.parametrize("kind", ["dynamic", "top"])
def test_the_loss_equals_the_loop(kind: str, build: Build) -> None:
    options = {
        "method_soft_label.kind": kind,
        "method_lambda_u": 0.3,
        "method_lambda_c": 0.7,
        "method_part_contrast.confidence": 0.0,
        "method_mix.probability": 1.0,
    }
    method, batch = build("esl", **options)
    seen = watched(method)
    result = method(batch, Progress(STEP, TOTAL))
    size = batch.label_l.shape[-2:]

    teacher = method.teacher(batch.image_u).logits.double()
    prob = interpolate(teacher, scale_factor=4, mode="bilinear")[..., : size[0], : size[1]]
    torch.testing.assert_close(seen["prob"].double(), prob.softmax(1), rtol=0, atol=1e-5)
    target = soft_label(seen["mixed"].maps[0], SoftLabelConfig(kind=kind)).double()
    log_prob = interpolate(
        seen["student"].logits.detach().double(), scale_factor=4, mode="bilinear"
    )
    log_prob = log_prob[..., : size[0], : size[1]].log_softmax(dim=1)
    sup, soft, seen_l, seen_u = 0.0, 0.0, 0, 0
    for b, i, j in (batch.label_l != 255).nonzero().tolist():
        sup, seen_l = sup - log_prob[b, int(batch.label_l[b, i, j]), i, j].item(), seen_l + 1
    for b, i, j in seen["mixed"].valid_BHW.nonzero().tolist():
        soft -= float((target[b, :, i, j] * log_prob[2 + b, :, i, j]).sum())
        seen_u += 1
    contrast = result.scalars["loss/contrast"].item()
    assert contrast > 0
    expected = sup / seen_l + 0.3 * soft / seen_u + 0.7 * contrast
    assert result.loss.item() == pytest.approx(expected, rel=2e-4)


def test_anchors_are_labelled_pixels_and_what_the_teacher_is_sure_of(build: Build) -> None:
    method, batch = build("esl")
    teacher = method.teacher(torch.cat([batch.image_l, batch.image_u])).logits.softmax(dim=1)
    limit = teacher[2:].amax(dim=1).median().item()
    options = {"method_part_contrast.confidence": limit, "method_mix.probability": 0.0}
    method, batch = build("esl", **options)
    seen = watched(method)
    method(batch, Progress(STEP, TOTAL))
    _, _, anchor, part, _ = seen["contrast"]
    label = downsample(batch.label_l)
    assert torch.equal(anchor[:2], label.long())
    size = batch.label_l.shape[-2:]
    logits = method.teacher(batch.image_u).logits
    full = interpolate(logits, scale_factor=4, mode="bilinear")[..., : size[0], : size[1]]
    own = downsample(full.softmax(dim=1).argmax(dim=1))
    prob = teacher[2:].gather(1, own.unsqueeze(1)).squeeze(1)
    sure = (prob > limit) & downsample(batch.valid_u)
    assert sure.any() and not sure.all()
    assert torch.equal(anchor[2:], torch.where(sure, own, 255))
    # an anchor's part is one of its class, labelled or not
    known = (part < method.part_prototypes.slots) & (anchor != 255)
    assert known[:2].any() and known[2:].any()
    assert torch.equal(part[known] // method.config.parts, anchor[known])


def test_parts_are_found_in_the_labelled_images_of_each_class(build: Build) -> None:
    method, batch = build("esl")
    prototypes = method.part_prototypes
    assert prototypes.known.view(-1, method.config.parts)[:, 0].any()
    again, _ = build("esl")
    assert torch.equal(again.part_prototypes.center, prototypes.center)
    # a class without a labelled pixel has no part, and is never chosen
    bare = batch.label_l.clone()
    bare[bare == 1] = 255
    method.prepare(list(zip(batch.image_l, bare, strict=True)), 0)
    assert not prototypes.known.view(-1, method.config.parts)[1].any()
    result = method(batch, Progress(STEP, TOTAL))
    assert result.loss.isfinite()


def test_prototypes_follow_the_teachers_encoder(build: Build) -> None:
    method, batch = build("esl")
    before = method.part_prototypes.center.clone()
    method(batch, Progress(STEP, TOTAL))
    moved = (method.part_prototypes.center != before).any(dim=1)
    assert moved.any() and (method.part_prototypes.center[~moved] == before[~moved]).all()


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_rows_of_table_4(parts: int, build: Build) -> None:
    method, batch = build("esl", method_parts=parts)
    result = method(batch, Progress(STEP, TOTAL))
    result.loss.backward()
    assert ("loss/contrast" in result.scalars) == (parts > 0)
    assert all(p.grad is not None for p in method.student.parameters())
    assert method.part_prototypes.slots == method.num_classes * max(parts, 1)
    if parts == 1:  # a class is its own part: the mean of its features
        assert method.part_prototypes.known.any()
