"""Two processes with 4 + 4 images each follow one with 8 + 8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.following import OPTIONS, TwoProcesses, train_both
from u2pl.methods.discovery import method_names
from u2pl_semi.app import APP

#: An untrained network is nowhere sure of a class: without these no pixel would count and the terms would be zero.
MORE: dict[str, dict[str, Any]] = {
    "cutmix": {"method_confidence": 0},
    "u2pl": {"method_contrast.delta_p": 0, "method_lambda_c": 1, "method_mix.probability": 1},
    "u2plplus": {"method_contrast.delta_p": 0, "method_lambda_c": 1, "method_mix.probability": 1},
}


@pytest.fixture(scope="module")
def runs(
    folder: Path, tiny: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folders two/METHOD and one/METHOD."""
    warm = {
        name: {} if name == "suponly" else {"method_warm_start": 0.25}
        for name in method_names(APP.methods)
    }
    cases = {
        name: (name, tiny(name, **OPTIONS, **warm[name], **MORE.get(name, {}))[1::2])
        for name in warm
    }
    return train_both(
        APP.package,
        "SemiRequest",
        {"data": str(folder)},
        cases,
        tmp_path_factory.mktemp("processes"),
    )


class TestTwoProcesses(TwoProcesses):
    app = APP
    terms: ClassVar[dict[str, int]] = {"suponly": 1, "u2pl": 3, "u2plplus": 3}
