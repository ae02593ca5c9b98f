"""What every method must keep; each file of the methods folder is enrolled by existing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate
from u2pl_semi.planning import SemiRequest

from harness.contract import TOTAL, Build, MethodContract
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import Method
from u2pl_semi.app import APP
from u2pl_semi.task import make_plan


@pytest.fixture
def build(folder: Path, tiny: Callable[..., list[str]]) -> Build:
    """A method with a tiny network, and a batch of 2 + 2 images."""

    def make(name: str, seed: int = 0) -> tuple[Method, PairBatch]:
        options = tuple(
            tiny(name, **({} if name == "suponly" else {"method_warm_start": 0.3}))[1::2]
        )
        plan = make_plan(APP, SemiRequest(name, "demo", options, TOTAL, seed, data=str(folder)))
        dataset = plan.build_dataset()
        return plan.build_method().train(), default_collate([dataset[index] for index in range(2)])

    return make


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
