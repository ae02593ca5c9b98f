"""A run that was stopped or killed goes on as if nothing had happened."""

from __future__ import annotations

from harness.resuming import ResumedRuns
from u2pl_semi.app import APP


class TestResumedRuns(ResumedRuns):
    app = APP
    turn = 0
    steps = 10
    processes = (2, 1)
