"""A run that was stopped or killed goes on as if nothing had happened."""

from __future__ import annotations

from typing import ClassVar

from harness.resuming import ResumedRuns
from u2pl_ws.app import APP


class TestResumedRuns(ResumedRuns):
    app = APP
    turn = 2
    steps = 8
    usual: ClassVar = {
        "train.checkpoint_every": 3,
        "train.evaluations": 1,
        "method.cam.scales": [1.0],
    }
