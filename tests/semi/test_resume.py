"""A run that was stopped or killed goes on as if nothing had happened: same weights, same journal, same summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.resuming import ResumedRuns, Train
from u2pl_semi.app import APP

STEPS = 10


@pytest.fixture
def train(tiny: Callable[..., list[str]], folder: Path) -> Train:
    """The command of a run of STEPS steps, of which the last two thirds are behind the warm start."""

    def command(method: str, out: Path, *more: Any, **changes: Any) -> list[Any]:
        changes = (
            {"train_checkpoint_every": 4}
            | ({} if method == "suponly" else {"method_warm_start": 0.3})
            | changes
        )
        common = ["--data", folder, "--preset", "demo", "--steps", STEPS, "--cpu", "--out", out]
        return ["train", method, *common, *tiny(method, **changes), *more]

    return command


class TestResumedRuns(ResumedRuns):
    app = APP
    steps = STEPS
