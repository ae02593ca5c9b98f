"""FixMatch's step by a loop over pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from harness.contract import TOTAL, Build
from u2pl.networks.segmentor import SegOutput
from u2pl.schedules import Progress


@pytest.mark.parametrize("below", [0.0, 0.3])
def test_the_loss_equals_the_loop(below: float, build: Build) -> None:
    method, batch = build("fixmatch")
    prob = method.teacher(batch.image_u).logits.softmax(dim=1)
    confidence = prob.amax(dim=1).quantile(below).item() if below else 0.0
    options = {"method_confidence": confidence, "method_lambda_u": 0.7}
    method, batch = build("fixmatch", **options)
    seen: dict[str, Any] = {}
    student, mix = method.student.forward, method.mix

    def predicting(*args: Any, **kwargs: Any) -> SegOutput:
        seen["student"] = student(*args, **kwargs)
        return seen["student"]

    def mixing(*args: Any) -> Any:
        seen["label"], seen["top"] = args[3], args[4]
        seen["mixed"] = mix(*args)
        return seen["mixed"]

    method.student.forward, method.mix = predicting, mixing
    result = method(batch, Progress(5, TOTAL))
    size = batch.label_l.shape[-2:]

    # the teacher's labels of the clean images
    prob = F.interpolate(
        method.teacher(batch.image_u).logits.double(), scale_factor=4, mode="bilinear"
    )[..., : size[0], : size[1]].softmax(dim=1)
    assert (seen["label"] != prob.argmax(dim=1)).float().mean() < 0.002
    torch.testing.assert_close(seen["top"].double(), prob.amax(dim=1), rtol=0, atol=1e-5)

    logits = F.interpolate(
        seen["student"].logits.detach().double(), scale_factor=4, mode="bilinear"
    )[..., : size[0], : size[1]].log_softmax(dim=1)
    mixed = seen["mixed"]
    sums, counts = {"sup": 0.0, "unsup": 0.0}, {"sup": 0, "unsup": 0}
    for b, i, j in (batch.label_l != 255).nonzero().tolist():
        sums["sup"] -= logits[b, int(batch.label_l[b, i, j]), i, j].item()
        counts["sup"] += 1
    for b, i, j in mixed.valid_BHW.nonzero().tolist():
        counts["unsup"] += 1
        if mixed.maps[1][b, i, j] >= confidence:
            sums["unsup"] -= logits[2 + b, int(mixed.maps[0][b, i, j]), i, j].item()
    sup, unsup = (sums[name] / counts[name] for name in ("sup", "unsup"))
    assert result.loss.item() == pytest.approx((sup + 0.7 * unsup) / 2, rel=2e-4)
    share = (mixed.maps[1][mixed.valid_BHW] >= confidence).float().mean()
    assert 0 < share < 1 or not below


def test_without_a_confident_pixel_only_labels_teach(build: Build) -> None:
    method, batch = build("fixmatch", method_confidence=0.999)
    result = method(batch, Progress(5, TOTAL))
    assert result.scalars["loss/unsup"] == 0 and result.scalars["confident_share"] == 0
    torch.testing.assert_close(result.loss.detach(), result.scalars["loss/sup"] / 2)
    result.loss.backward()  # what no pixel teaches is still connected
    assert all(p.grad is not None for p in method.student.parameters() if p.requires_grad)


@pytest.mark.parametrize("paste", ["images", "views"])
def test_boxes_are_pasted_into_images_or_into_their_strong_views(paste: str, build: Build) -> None:
    options = {
        "method_paste": paste,
        "method_mix.probability": 1.0,
        "method_strong_view.jitter_probability": 1.0,
    }
    method, batch = build("fixmatch", **options)
    seen: list[Any] = []
    mix, student = method.mix, method.student.forward

    def mixing(*args: Any) -> Any:
        seen.append((args[1], mix(*args).image_B3HW))
        return mix(torch.Generator().manual_seed(0), *args[1:])

    def predicting(image: torch.Tensor, **kwargs: Any) -> SegOutput:
        seen.append(image[2:])
        return student(image, **kwargs)

    method.mix, method.student.forward = mixing, predicting
    method(batch, Progress(5, TOTAL))
    (before, _), shown = seen
    clean = batch.image_u / 255
    changed = (before != clean).flatten(1).any(dim=1)
    assert changed.all() if paste == "views" else not changed.any()
    mixed = mix(torch.Generator().manual_seed(0), before, batch.valid_u, batch.truth_u)
    same = torch.equal(shown, mixed.image_B3HW)
    assert same if paste == "views" else not same
