"""What every method must keep; each file of the methods folder is enrolled by existing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

from harness.contract import TOTAL, WARM_START, Build, MethodContract, RecipeContract, trained
from harness.tiny import Tiny, method_of
from u2pl.counting import silently
from u2pl.errors import UserError
from u2pl.methods.batches import PairBatch
from u2pl.methods.discovery import load_method, method_names
from u2pl.run.presets import recipe_path
from u2pl.run.recipe import Recipe, resolve
from u2pl.run.train import make_task
from u2pl.schedules import Progress
from u2pl_semi.app import APP


class TestMethods(MethodContract):
    app = APP
    variants = ("fixmatch weighted", "unimatch weighted", "u2plplus weighted")

    def spoilt(self, batch: PairBatch) -> dict[str, PairBatch]:
        unknown = torch.full_like(batch.label_l, 255)
        empty = batch._replace(
            label_l=unknown,
            valid_u=torch.zeros_like(batch.valid_u),
            truth_u=torch.full_like(batch.truth_u, 255),
        )
        return {"no label and no valid pixel": empty}


class TestRecipes(RecipeContract):
    app = APP


@pytest.mark.parametrize("name", sorted(method_names(APP.methods).keys() - {"cps"}))
def test_all_of_one_student_is_trained(name: str, build: Build) -> None:
    method, _ = build(name)
    assert method.networks()["student"] is method.student
    assert trained(method).keys() == {f"student.{k}" for k, _ in method.student.named_parameters()}


@pytest.mark.parametrize("name", method_names(APP.methods))
def test_the_auxiliary_classifier_is_trained_by_the_labels_in_every_step(
    name: str, build: Build
) -> None:
    plain, batch = build(name)
    method, _ = build(name, network_auxiliary=True)
    for step in (0, 5):
        method.zero_grad()
        result = method(batch, Progress(step, TOTAL))
        result.loss.backward()
        students = [part for part in (method.student, getattr(method, "second", None)) if part]
        for student in students:
            assert all(p.grad is not None and p.grad.any() for p in student.auxiliary.parameters())
        assert all(p.grad is not None for p in trained(method).values())
    assert plain.student.auxiliary is None


def test_a_recipe_that_changes_the_kind_takes_that_kinds_numbers() -> None:
    """What follows from a nested default of the method is not kept beside the recipe's choice."""
    kind = load_method("u2pl_semi.methods", APP.methods, "fixmatch")
    own = kind.Config().strong_view
    _, options = resolve(recipe_path(APP.recipes, "demo"), kind.Config)
    view = options.strong_view
    assert (own.kind, own.strength, own.grey_probability) == ("unimatch", 0.5, 0.2)
    assert (view.kind, view.strength, view.grey_probability) == ("photometric", 0.2, 0.0)
    # and the method's own nested defaults stay where the recipe is silent
    assert options.mix.kind == "boxes" and options.teacher.momentum == 0.996


def test_a_contrast_without_representation_is_refused() -> None:
    request = APP.request(method="u2plplus", preset="demo", set=["network.embed_dim=0"])
    with pytest.raises(UserError, match=r"^network\.embed_dim=0 leaves the contrast nothing"):
        _ = Recipe.of_request(APP, request).network
    request = APP.request(method="suponly", preset="demo", set=["network.embed_dim=0"])
    assert Recipe.of_request(APP, request).network.embed_dim == 0


#: The methods with state, choices or memory of each class.
BY_CLASS = ("ael", "esl", "u2plplus weighted")


@pytest.mark.parametrize(
    ("name", "classes"),
    [*((name, 2) for name in method_names(APP.methods)), *((name, 150) for name in BY_CLASS)],
)
def test_two_classes_and_many_are_trained_alike(
    name: str, classes: int, make_data: Callable[..., Path], tiny: Tiny, tmp_path: Path
) -> None:
    folder = make_data(tmp_path / "data", classes=classes)
    words = tiny.assignments(name, {"method.warm_start": WARM_START})
    request = APP.request.of(
        method=method_of(name), preset="light", data=str(folder), labeled="labeled", set=words
    )
    task = make_task(APP, request, silently)
    dataset, method = task.dataset(), task.build_method().train()
    task.prepare(method)
    batch = default_collate([dataset[position] for position in range(2)])
    for step in (5, 6):  # the queues hold something after the first
        method.zero_grad()
        result = method(batch, Progress(step, TOTAL))
        result.loss.backward()
        assert result.loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained(method).values())
        method.after_step(Progress(step, TOTAL))
