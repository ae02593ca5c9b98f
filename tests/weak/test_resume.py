"""A run that was stopped or killed goes on as if nothing had happened: same weights, same journal, same summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.commands import Launcher
from harness.resuming import ResumedRuns, Train
from u2pl_ws.app import APP

STEPS = 8


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """Of one thread; that two make no difference is tested with the other apps."""
    made = Launcher(APP, 1)
    yield made
    made.close()


@pytest.fixture
def train(tiny: Callable[..., list[str]], folder: Path) -> Train:
    """The command of a run of STEPS steps, of which most are behind the warm start, and half are walked."""

    def command(method: str, out: Path, *more: Any, **changes: Any) -> list[Any]:
        usual: dict[str, Any] = {
            "train_checkpoint_every": 3,
            "train_evaluations": 1,
            "method_warm_start": 0.25,
            "method_cam.scales": "[1.0]",
        }
        usual |= (
            {}
            if method == "cam"
            else {"method_affinity.walk_start": 0.5, "network_encoder": "mit_b0"}
        )
        words = [
            "train",
            method,
            "--data",
            folder,
            "--preset",
            "demo",
            "--steps",
            STEPS,
            "--cpu",
            "--out",
            out,
        ]
        return [*words, *tiny(method, **{**usual, **changes}), *more]

    return command


class TestResumedRuns(ResumedRuns):
    app = APP
    steps = STEPS
