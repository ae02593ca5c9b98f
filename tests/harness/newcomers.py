"""An app whose methods are files that it has never heard of."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from u2pl.run.app import App


@dataclass(frozen=True)
class Extended(App):
    """An app whose methods lie in a folder of their own."""

    own: Path = Path()

    @property
    def methods(self) -> Path:
        return self.own


def with_methods(app: App, folder: Path) -> App:
    """The app with the methods of another folder; they are imported as if they lay in its own."""
    package = import_module(f"{app.package}.methods")
    if str(folder) not in package.__path__:
        package.__path__.append(str(folder))
    return Extended(**vars(app), own=folder)
