"""Two processes with 2 + 2 images each follow one with 4 + 4."""

from __future__ import annotations

from typing import ClassVar

from harness.following import TwoProcesses
from u2pl_semi.app import APP


class TestTwoProcesses(TwoProcesses):
    app = APP
    variants = (
        "u2plplus unmixed",
        "fixmatch weighted",
        "fixmatch on tokens",
        "suponly on frozen tokens",
    )
    without_batchnorm = frozenset({"fixmatch on tokens", "suponly on frozen tokens"})
    terms: ClassVar = {
        "suponly": 1,
        "cutmix": 2,
        "mean_teacher": 2,
        "ael": 2,
        "augseg": 2,
        "fixmatch": 2,
        "fixmatch weighted": 2,
        "fixmatch on tokens": 2,
        "suponly on frozen tokens": 1,
        "unimatch": 4,
        "unimatch_v2": 3,
        "cps": 3,
        "esl": 3,
        "u2pl": 3,
        "u2plplus": 3,
        "u2plplus unmixed": 3,
    }
