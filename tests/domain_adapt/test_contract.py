"""What every method must keep; each file of the methods folder is enrolled by existing."""

from __future__ import annotations

import pytest
import torch

from harness.contract import Build, MethodContract
from u2pl.methods.method import Method
from u2pl_da.app import APP
from u2pl_da.batches import DomainBatch

VARIANTS = {
    "daformer without distance": {"method_feature_distance.weight": 0},
    "daformer as released": {"method_classmix": "batch", "method_pseudo.share_of": "batch"},
    "u2plplus without distance": {"method_feature_distance.weight": 0},
    "u2plplus with the rest": {
        "method_unsupervised.entropy_filter": "true",
        "method_negatives.reliable": "true",
        "method_prototypes.denoise": "false",
        "method_evaluate": "student",
        "method_teacher.statistics": "averaged",
    },
}


@pytest.fixture
def build(build: Build) -> Build:
    """The same for variants; and the batch is one in which something is at stake."""

    def make(name: str, seed: int = 0) -> tuple[Method, DomainBatch]:
        method, batch = build(name.partition(" ")[0], seed, **VARIANTS.get(name, {}))
        assert batch.image_l.shape == (2, 3, 64, 64)
        if batch.image_t.numel():
            assert (
                batch.border_t.any() and not batch.border_t.all() and (batch.truth_t == 255).all()
            )
        return method, batch

    return make


class TestMethods(MethodContract):
    app = APP
    variants = VARIANTS
    constants = (*MethodContract.constants, ".is_thing")

    def spoilt(self, batch: DomainBatch) -> dict[str, DomainBatch]:
        unlabelled = batch._replace(label_l=torch.full_like(batch.label_l, 255))
        invalid = batch._replace(valid_t=torch.zeros_like(batch.valid_t))
        return {
            "no source label": unlabelled,
            "no valid target pixel": invalid,
            "nothing but border": batch._replace(border_t=torch.ones_like(batch.border_t)),
            "nothing at all": unlabelled._replace(valid_t=invalid.valid_t),
        }
