"""Two processes with 4 + 4 images each follow one with 8 + 8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.following import OPTIONS, TwoProcesses, train_both
from u2pl.methods.discovery import method_names
from u2pl_da.app import APP

VARIANTS: dict[str, dict[str, Any]] = {
    "u2plplus as released": {"method_classmix": "batch", "method_pseudo.share_of": "batch"}
}
#: So that terms which are small in the paper show.
MORE: dict[str, dict[str, Any]] = {
    "source_only": {},
    "daformer": {"method_feature_distance.weight": 1},
    "u2plplus": {
        "method_feature_distance.weight": 1,
        "method_contrast.delta_p": 0,
        "method_lambda_c": 1,
        "method_warm_start": 0.25,
    },
}


@pytest.fixture(scope="module")
def runs(
    domains: dict[str, str],
    tiny: Callable[..., list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Folders two/NAME and one/NAME."""
    methods = {name: name.partition(" ")[0] for name in (*method_names(APP.methods), *VARIANTS)}
    changes = {
        name: OPTIONS | {"data_crop": 32} | MORE[method] | VARIANTS.get(name, {})
        for name, method in methods.items()
    }
    cases = {
        name: (method, tiny(method, **changes[name])[1::2]) for name, method in methods.items()
    }
    return train_both(
        APP.package, "AdaptRequest", domains, cases, tmp_path_factory.mktemp("processes")
    )


class TestTwoProcesses(TwoProcesses):
    app = APP
    variants = VARIANTS
    terms: ClassVar[dict[str, int]] = {
        "source_only": 1,
        "daformer": 3,
        "u2plplus": 4,
        "u2plplus as released": 4,
    }
