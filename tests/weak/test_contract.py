"""What every method must keep; each file of the methods folder is enrolled by existing."""

from __future__ import annotations

import pytest
import torch

from harness.contract import Build, MethodContract, RecipeContract, trained
from u2pl_ws.app import APP
from u2pl_ws.batches import TagBatch


class TestMethods(MethodContract):
    app = APP
    variants = ("u2plplus on cam",)
    unlogged = 1

    def spoilt(self, batch: TagBatch) -> dict[str, TagBatch]:
        padding, untagged = torch.zeros_like(batch.valid), torch.zeros_like(batch.tags)
        flat = torch.full_like(batch.image, 90)
        return {
            "no tag": batch._replace(tags=untagged),
            "nothing but padding": batch._replace(valid=padding),
            "an image of one colour": batch._replace(image=flat),
            "nothing at all": TagBatch(flat, untagged, padding),
        }


class TestRecipes(RecipeContract):
    app = APP


@pytest.mark.parametrize("name", ["afa", "cam", "u2plplus", "u2plplus on cam"])
def test_all_of_one_student_is_trained_and_the_affinity_beside_it(name: str, build: Build) -> None:
    method, _ = build(name)
    assert method.networks()["student"] is method.student
    heads = {key for key, _ in method.named_parameters() if key.startswith("affinity.")}
    assert bool(heads) == (name in ("afa", "u2plplus"))
    student = {f"student.{key}" for key, _ in method.student.named_parameters()}
    assert trained(method).keys() == student | heads
