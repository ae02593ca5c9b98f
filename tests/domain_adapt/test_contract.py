"""What every method must keep; each file of the methods folder is enrolled by existing."""

from __future__ import annotations

import pytest
import torch

from harness.contract import Build, MethodContract, RecipeContract, trained
from u2pl_da.app import APP
from u2pl_da.batches import DomainBatch


class TestMethods(MethodContract):
    app = APP
    variants = (
        "daformer without distance",
        "daformer as released",
        "u2plplus without distance",
        "u2plplus with the rest",
    )

    def spoilt(self, batch: DomainBatch) -> dict[str, DomainBatch]:
        unlabelled = batch._replace(label_l=torch.full_like(batch.label_l, 255))
        invalid = batch._replace(valid_t=torch.zeros_like(batch.valid_t))
        return {
            "no source label": unlabelled,
            "no valid target pixel": invalid,
            "nothing but border": batch._replace(border_t=torch.ones_like(batch.border_t)),
            "nothing at all": unlabelled._replace(valid_t=invalid.valid_t),
        }


class TestRecipes(RecipeContract):
    app = APP


@pytest.mark.parametrize("name", ["daformer", "source_only", "u2plplus"])
def test_all_of_one_student_is_trained(name: str, build: Build) -> None:
    method, _ = build(name)
    assert method.networks()["student"] is method.student
    assert trained(method).keys() == {f"student.{k}" for k, _ in method.student.named_parameters()}


def test_something_is_at_stake_in_the_batch(build: Build) -> None:
    _, batch = build("daformer")
    assert batch.image_l.shape == (2, 3, 64, 64)
    assert batch.border_t.any() and not batch.border_t.all()
    assert (batch.truth_t == 255).all()
