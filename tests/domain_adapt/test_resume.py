"""A run that was stopped or killed goes on as if nothing had happened: same weights, same journal, same summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.resuming import ResumedRuns, Train
from u2pl_da.app import APP

STEPS = 8


@pytest.fixture
def train(words: Callable[..., list[Any]], domains: dict[str, str]) -> Train:
    """The command of a run of STEPS steps, of which most are behind the warm start."""

    def command(method: str, out: Path, *more: Any, **changes: Any) -> list[Any]:
        usual = {"train_checkpoint_every": 3, "train_evaluations": 1, "data_crop": 32}
        usual |= {"method_warm_start": 0.25} if method == "u2plplus" else {}
        return [*words(method, domains, STEPS, out, **usual | changes), *more]

    return command


class TestResumedRuns(ResumedRuns):
    app = APP
    steps = STEPS
