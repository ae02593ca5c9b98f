"""An app whose methods are files that it has never heard of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from u2pl.methods.discovery import method_names
from u2pl.run.app import App


@dataclass(frozen=True)
class Newcomers(App):
    """An app whose methods lie in a folder of their own."""

    own: Path = Path()

    @classmethod
    def of(cls, app: App, folder: Path) -> Newcomers:
        """The same app with the methods of another folder."""
        return cls(**vars(app), own=folder)

    @property
    def methods(self) -> Path:
        return self.own

    @contextmanager
    def importable(self) -> Iterator[Newcomers]:
        """For a while, its methods are imported as if they lay in the app's folder."""
        package = import_module(f"{self.package}.methods")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(package, "__path__", [*package.__path__, str(self.own)])
            yield self
            for name in method_names(self.own):
                sys.modules.pop(f"{package.__name__}.{name}", None)
