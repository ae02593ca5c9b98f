"""Tests that a subclass in an app's folder brings to life for each of its methods."""

from __future__ import annotations

from typing import ClassVar

import pytest

from u2pl.methods.discovery import method_names
from u2pl.run.app import App


class EveryMethod:
    """Runs each test that takes a `name` once for every method of the app, enrolled by its file.

    Variants come on top, see `Tiny`.
    """

    app: ClassVar[App]
    variants: ClassVar[tuple[str, ...]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """The values of `name`, `method` (no variants) and `recipe`."""
        methods = sorted(method_names(self.app.methods))
        values = {
            "name": [*methods, *self.variants],
            "method": methods,
            "recipe": sorted(path.stem for path in self.app.recipes.glob("*.toml")),
        }
        for key in values:  # in one order: processes that share out the tests have to agree
            if key in metafunc.fixturenames:
                metafunc.parametrize(key, values[key])
