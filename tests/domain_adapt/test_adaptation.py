"""What the methods with a teacher have in common."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.contract import Build, optimizer_of, steps
from u2pl.schedules import Progress

METHODS = ("daformer", "u2plplus")
CALM = {"method_strong_view.jitter_probability": 0, "method_strong_view.blur_probability": 0}


@pytest.mark.parametrize("name", METHODS)
def test_the_pretrained_encoder_never_changes(name: str, build: Build) -> None:
    method: Any
    method, batch = build(name)
    before = {key: value.clone() for key, value in method.imagenet.state_dict().items()}
    students = [value.clone() for value in method.student.encoder.parameters()]
    steps(method, batch, 0, 5, optimizer_of(method))
    assert any(key.endswith("running_mean") for key in before)
    assert all(
        torch.equal(value, before[key]) for key, value in method.imagenet.state_dict().items()
    )
    assert not any(
        torch.equal(a, b)
        for a, b in zip(students, method.student.encoder.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_teacher_is_the_mean_of_the_students_until_its_momentum_is_reached(
    name: str, build: Build
) -> None:
    """m = min(1 - 1/(t + 1), m0), t counting the steps done; the initial copy counts too."""
    limit = 0.6
    method: Any
    method, batch = build(name, **{"method_teacher.momentum": limit, "method_teacher.ramp": "true"})
    optimizer, followed = optimizer_of(method), dict(method.student.named_parameters())
    average = {key: value.detach().double() for key, value in followed.items()}
    for step in range(4):
        steps(method, batch, step, step + 1, optimizer)
        m = min(1 - 1 / (step + 2), limit)
        average = {
            key: m * value + (1 - m) * followed[key].detach().double()
            for key, value in average.items()
        }
        for key, value in method.teacher.network.named_parameters():
            torch.testing.assert_close(value.double(), average[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_the_statistics_of_the_teacher_follow_the_clean_target_images_alone(
    name: str, build: Build
) -> None:
    method: Any
    method, batch = build(name)
    other, _ = build(name)
    steps(method, batch, 0, 4, optimizer_of(method))
    other.load_state_dict(method.state_dict())
    method(
        batch, Progress(5, 10)
    )  # behind the warm start: U2PL+ also shows the teacher source and mixed images
    other.teacher(batch.image_t)
    for (key, value), (_, expected) in zip(
        method.teacher.named_buffers(), other.teacher.named_buffers(), strict=True
    ):
        assert torch.equal(value, expected), key
    moved = dict(method.teacher.named_buffers())["network.encoder.model.bn1.running_mean"]
    assert not torch.equal(
        moved, dict(method.student.named_buffers())["encoder.model.bn1.running_mean"]
    )


def test_half_of_the_classes_of_each_image_are_pasted_with_label_and_weight(build: Build) -> None:
    method: Any
    method, batch = build("daformer", **CALM)
    batch.label_l[:, :, :5] = 255
    label_t, weight_t = torch.full((2, 64, 64), 7), torch.full((2, 64, 64), 0.25)
    mixed = method.mix(Progress(0, 10).generator(), batch, label_t, weight_t)
    for b in range(2):
        taken = set(batch.label_l[b][mixed.pasted_BHW[b]].tolist())
        left = set(batch.label_l[b][~mixed.pasted_BHW[b]].tolist())
        assert not taken & left and 255 in left
        assert len(taken) == -(-len((taken | left) - {255}) // 2)
    pasted = mixed.pasted_BHW
    assert torch.equal(mixed.label_BHW, torch.where(pasted, batch.label_l.long(), 7))
    assert torch.equal(mixed.weight_BHW, torch.where(pasted, 1.0, 0.25))
    assert torch.equal(
        mixed.image_B3HW,
        torch.where(pasted.unsqueeze(1), batch.image_l, batch.image_t).float() / 255,
    )


@pytest.mark.parametrize("released", [True, False])
def test_the_released_classmix_draws_from_the_whole_batch(released: bool, build: Build) -> None:
    """One image shows a single class.

    Drawn per image it is always pasted as a whole; drawn from the batch's classes it may be left
    out.
    """
    method: Any
    method, batch = build("daformer", method_classmix="batch" if released else "image")
    batch.label_l[0], batch.label_l[1] = 0, torch.arange(64).div(16, rounding_mode="floor")
    target, weight = torch.zeros(2, 64, 64, dtype=torch.long), torch.zeros(2, 64, 64)
    shares = {
        method.mix(Progress(s, 10).generator(), batch, target, weight)
        .pasted_BHW[0]
        .float()
        .mean()
        .item()
        for s in range(6)
    }
    assert shares == ({0.0, 1.0} if released else {1.0})


def test_one_weight_per_image_or_one_for_the_batch(build: Build) -> None:
    prob = torch.full((2, 4, 64, 64), 0.1)
    prob[0, 0], prob[1, 0, :16] = 0.7, 0.7
    for share_of, shares in (("image", [1.0, 0.25]), ("batch", [0.625, 0.625])):
        method: Any
        method, batch = build(
            "daformer", **{"method_pseudo.share_of": share_of, "method_pseudo.threshold": 0.65}
        )
        batch = batch._replace(valid_t=torch.ones_like(batch.valid_t))
        batch.border_t[:] = torch.arange(64) < 8
        believed = method.pseudo_labels(prob, batch)
        assert believed.share_B.tolist() == shares
        assert believed.weight_BHW[:, :8].sum() == 0
        assert all((believed.weight_BHW[b, 8:] == shares[b]).all() for b in range(2))


def test_the_network_that_is_the_result_comes_first(build: Build) -> None:
    for first, second in (("student", "teacher"), ("teacher", "student")):
        method: Any
        method, _ = build("daformer", method_evaluate=first)
        assert list(method.networks()) == [first, second]
        assert method.networks()["teacher"] is method.teacher.network


@pytest.mark.parametrize(
    "off", [{"method_feature_distance.weight": 0}, {"method_feature_distance.things": "[]"}]
)
def test_without_feature_distance_there_is_no_second_encoder(
    off: dict[str, Any], build: Build
) -> None:
    method: Any
    method, batch = build("daformer", **off)
    assert method.imagenet is None
    assert not [key for key in method.state_dict() if key.startswith("imagenet")]
    assert "loss/distance" not in method(batch, Progress(0, 10)).scalars
