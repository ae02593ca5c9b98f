"""Tests that a subclass in an app's folder brings to life for each of its methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from u2pl.cli.app import App

from u2pl.methods.discovery import method_names


class EveryMethod:
    """Runs each test that takes a `name` once for every method of the app, enrolled by its file, and for every variant.

    A variant is a method with some options; what they mean is up to the app's fixtures.
    """

    app: ClassVar[App]
    variants: ClassVar[Mapping[str, Any]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """The values of `name`, `method` (no variants) and `recipe`."""
        methods = sorted(method_names(self.app.methods))
        values = {
            "name": [*methods, *self.variants],
            "method": methods,
            "recipe": sorted(path.stem for path in self.app.recipes.glob("*.toml")),
        }
        for key in values.keys() & set(metafunc.fixturenames):
            metafunc.parametrize(key, values[key])
