"""Two processes with 2 + 2 images each follow one with 4 + 4."""

from __future__ import annotations

from typing import ClassVar

from harness.following import TwoProcesses
from u2pl_da.app import APP


class TestTwoProcesses(TwoProcesses):
    app = APP
    variants = ("u2plplus as released",)
    terms: ClassVar = {"source_only": 1, "daformer": 3, "u2plplus": 4, "u2plplus as released": 4}
    loud: ClassVar = {"data.crop": 32, "method.feature_distance.weight": 1}
