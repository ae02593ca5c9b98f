"""Two processes with 2 images each follow one with 4."""

from __future__ import annotations

from typing import ClassVar

from harness.following import TwoProcesses
from u2pl_ws.app import APP


class TestTwoProcesses(TwoProcesses):
    app = APP
    variants = ("u2plplus on cam",)
    terms: ClassVar = {"cam": 2, "afa": 3, "u2plplus": 4, "u2plplus on cam": 3}
    loud: ClassVar = {"method.affinity.weight": 1, "method.cam.scales": [1.0, 0.5]}
