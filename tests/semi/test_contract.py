"""What every method must keep; each file of the methods folder is enrolled by existing."""

from __future__ import annotations

import pytest
import torch

from harness.contract import Build, MethodContract, RecipeContract, trained
from u2pl.methods.batches import PairBatch
from u2pl_semi.app import APP


class TestMethods(MethodContract):
    app = APP

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


@pytest.mark.parametrize(
    "name", ["cutmix", "fixmatch", "mean_teacher", "suponly", "u2pl", "u2plplus", "unimatch"]
)
def test_all_of_one_student_is_trained(name: str, build: Build) -> None:
    method, _ = build(name)
    assert method.networks()["student"] is method.student
    assert trained(method).keys() == {f"student.{k}" for k, _ in method.student.named_parameters()}
