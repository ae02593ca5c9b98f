"""One of the apps: what it is called, where its methods and recipes lie, and how a task is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Protocol, cast

from u2pl.run.request import Request

if TYPE_CHECKING:
    from u2pl.counting import Counting
    from u2pl.run.recipe import Recipe
    from u2pl.run.sections import Sections
    from u2pl.run.task import Part, Task

#: The apps by the name that `u2pl.train` takes, and where each one's `APP` is.
APPS = {"semi": "u2pl_semi.app", "domain_adapt": "u2pl_da.app", "weak": "u2pl_ws.app"}


class TaskModule(Protocol):
    """What the file `task.py` of an app defines."""

    def make_task(self, app: App, request: Request, recipe: Recipe, counting: Counting) -> Task:
        """Open the data of a request; UserError for whatever cannot work."""

    def parts_without_task(self, request: Request) -> list[Part]:
        """What `doctor` can still look at when `make_task` has failed; none if nothing."""


@dataclass(frozen=True)
class App:
    """An app; importing it is cheap, torch is loaded when a task is made."""

    name: str  # of the program: u2pl-semi
    package: str  # u2pl_semi
    folder: Path  # of the package
    request: type[Request]
    text: str  # what it does, for --help
    baseline: str  # the method that learns from labels alone, which others have to beat
    presets: Mapping[str, str] = field(default_factory=dict)  # data scheme -> its recipe
    options: str = "u2pl.run.sections:Sections"  # those that its methods share, see `sections`
    views: tuple[Mapping[str, object], ...] = ({},)  # evaluation variants that `evaluate` scores

    @property
    def methods(self) -> Path:
        """Folder of its methods."""
        return self.folder / "methods"

    @property
    def recipes(self) -> Path:
        """Folder of its presets."""
        return self.folder / "recipes"

    @property
    def sections(self) -> type[Sections]:
        """The options that its methods share."""
        return cast("type[Sections]", resolve_name(self.options))

    @property
    def task_module(self) -> TaskModule:
        """Its file `task.py`; loads torch."""
        return cast(TaskModule, import_module(f"{self.package}.task"))


def find_app(name: str) -> App:
    """An app by its name in `APPS`, or by that of its program."""
    from u2pl.errors import UserError, did_you_mean

    for short, module in APPS.items():
        if name in (short, module.partition(".")[0]):
            app: App = import_module(module).APP
            return app
        if name.startswith("u2pl-") and import_module(module).APP.name == name:
            return cast(App, import_module(module).APP)
    raise UserError(
        f"there is no app {name!r}{did_you_mean(name, APPS)}; there are {', '.join(APPS)}"
    )
