"""Two processes with 4 images each follow one with 8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.following import OPTIONS, TwoProcesses, train_both
from u2pl.methods.discovery import method_names
from u2pl_ws.app import APP

VARIANTS = {"u2plplus on cam": "u2plplus"}
#: So that terms which are small in the paper show.
LOUD: dict[str, Any] = {"method_affinity.weight": 1, "method_affinity.walk_start": 0.5}
MORE: dict[str, dict[str, Any]] = {
    "cam": {},
    "afa": LOUD | {"network_encoder": "mit_b0"},
    "u2plplus": LOUD | {"network_encoder": "mit_b0", "method_lambda_c": 1},
    "u2plplus on cam": {"method_lambda_c": 1},
}


@pytest.fixture(scope="module")
def runs(
    folder: Path, tiny: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folders two/NAME and one/NAME."""
    usual = OPTIONS | {"method_warm_start": 0.25, "method_cam.scales": "[1.0,0.5]"}
    methods = {name: name for name in method_names(APP.methods)} | VARIANTS
    cases = {
        name: (method, tiny(name, **{**usual, **MORE[name]})[1::2])
        for name, method in methods.items()
    }
    return train_both(
        APP.package,
        "WeakRequest",
        {"data": str(folder)},
        cases,
        tmp_path_factory.mktemp("processes"),
    )


class TestTwoProcesses(TwoProcesses):
    app = APP
    variants = VARIANTS
    terms: ClassVar[dict[str, int]] = {"afa": 3, "u2plplus": 4, "u2plplus on cam": 3}
