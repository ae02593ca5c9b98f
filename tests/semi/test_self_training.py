"""What the methods with a teacher share: which images student and teacher see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.contract import TOTAL, Build
from u2pl.methods.method import Method
from u2pl.networks.encoder import Encoder
from u2pl.schedules import Progress

STEP = 5
WITH_TEACHER = ("mean_teacher", "cutmix", "fixmatch", "esl", "u2pl", "u2plplus")


@contextmanager
def seen(method: Method[Any]) -> Iterator[dict[str, list[Tensor]]]:
    """The images that the encoders of student and teacher are given in the body."""
    found: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    hooks = [
        encoder.register_forward_pre_hook(lambda _, args, role=role: found[role].append(args[0]))
        for role, network in (("student", method.student), ("teacher", method.teacher))
        for encoder in network.modules()
        if isinstance(encoder, Encoder)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_only_the_student_sees_the_strong_view_and_only_of_unlabelled_images(
    name: str, build: Build
) -> None:
    looks = {}
    for kind in ("none", "photometric"):
        options = {"method_strong_view.kind": kind, "method_strong_view.jitter_probability": 1.0}
        method, batch = build(name, **options)
        with seen(method) as images:
            method(batch, Progress(STEP, TOTAL))
        looks[kind] = images
    plain, strong = looks["none"], looks["photometric"]
    (before,), (after,) = plain["student"], strong["student"]
    labeled = len(batch.image_l)
    assert torch.equal(before[:labeled], after[:labeled])
    assert (before[labeled:] != after[labeled:]).flatten(1).any(dim=1).all()
    for one, other in zip(plain["teacher"], strong["teacher"], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["u2pl", "u2plplus"])
def test_a_step_without_mixing_is_the_same_with_a_pass_less(
    name: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for shortcut in (True, False):
        method, batch = build(name, **{"method_mix.probability": 0.0})
        if not shortcut:
            mix = method.mix

            def copied(generator: torch.Generator, image: Tensor, *maps: Tensor, mix=mix) -> Any:
                mixed = mix(generator, image, *maps)
                return mixed._replace(image_B3HW=mixed.image_B3HW.clone())

            copied.mixes = mix.mixes  # type: ignore[attr-defined]
            monkeypatch.setattr(method, "mix", copied)
        torch.manual_seed(0)
        with seen(method) as images:
            results.append(method(batch, Progress(STEP, TOTAL)))
        assert [len(each) for each in images["teacher"]] == ([2, 2] if shortcut else [2, 4])
    for key, value in results[0].scalars.items():
        torch.testing.assert_close(value, results[1].scalars[key], equal_nan=True)


def test_a_teacher_with_statistics_of_its_own_looks_at_all_images(build: Build) -> None:
    options = {"method_mix.probability": 0.0, "method_teacher.statistics": "own"}
    method, batch = build("u2plplus", **options)
    with seen(method) as images:
        method(batch, Progress(STEP, TOTAL))
    assert [len(each) for each in images["teacher"]] == [2, 4]


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_what_to_try_names_what_is_not_done_yet(name: str, build: Build) -> None:
    view = "method.strong_view.kind=photometric"
    for kind in ("none", "photometric"):
        method, _ = build(name, **{"method_strong_view.kind": kind})
        assert method.remedy.endswith("suponly, which learns from labels alone")
        assert (view in method.remedy) == (kind == "none")
        assert f"{view}," not in method.remedy  # what can be pasted ends at a space
