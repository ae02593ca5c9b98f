"""What can be wrong with a request and be seen before torch is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from u2pl.counting import OnProgress
from u2pl.errors import UserError
from u2pl.methods.discovery import check_file, check_name, known_methods
from u2pl.run.app import App
from u2pl.run.presets import read_recipe, recipe_path, split_assignment
from u2pl.run.request import Request
from u2pl.run.resumption import find_resumption
from u2pl.run.sections import METHOD, check_key, flat_keys, meant_by
from u2pl.training.run_folder import CONFIG, check_empty, check_same, read_config

#: Sources that are not opened in advance: they are downloaded, or loaded by a heavy package.
_SLOW = "hf"


def check_early(app: App, request: Request) -> None:
    """Look at method, preset, assignments and the places of the data, importing nothing heavy.

    Raises:
        UserError: What `train` would raise seconds later.
    """
    found = find_resumption(app.name, request, known_methods(app.methods))
    if found is not None:
        if found.finished:
            return
        request = found.request
    sections = app.sections
    known = [key for key, _ in flat_keys(sections)]
    for assignment in request.set:
        key, _ = split_assignment(assignment)
        section = key.partition(".")[0]
        # the method's own options need torch; a name without a section may be one of them
        if section in sections.model_fields or (section != METHOD and meant_by(key, known)):
            check_key(key, known)
    if request.method_file is not None:
        check_file(app.methods, request.method_file)
    else:
        _check_method(app, request)
    if request.preset is not None:
        read_recipe(recipe_path(app.recipes, request.preset))
    from u2pl.data.opening import open_source  # loads NumPy

    for name in request.SOURCES:
        place = str(getattr(request, name))
        if place.partition(":")[0] != _SLOW:
            with suppress(_Later):
                open_source(place, _not_now)


def check_place(app: App, request: Request) -> None:
    """Look at the folder that a run is to have, importing nothing heavy.

    Raises:
        UserError: It is not empty, or with `resume` holds no run, or another one.
    """
    folder = request.out
    if folder is None:
        return
    if not request.resume:
        check_empty(folder)
        return
    asked = {"app": app.name, "method_name": request.method, "seed": request.seed}
    there = read_config(folder) if (folder / CONFIG).is_file() else {}
    check_same(folder, {**there, **request.data_values, **asked}, request.accept_changed_data)


def _check_method(app: App, request: Request) -> None:
    """UserError if there is no such method; the name of a folder was meant as data."""
    name = request.method
    if name not in known_methods(app.methods) and Path(name).is_dir():
        option = request.SOURCES[0]
        raise UserError(
            f"no method {name!r}, but a folder: if it holds the data, type --{option} {name}; if a "
            f"run, --resume {name}"
        )
    check_name(app.methods, name)


class _Later(Exception):
    """Opening the data takes a while, and would be done twice."""


@contextmanager
def _not_now(what: str) -> Iterator[OnProgress]:
    """Counts nothing, for whatever is worth counting is left to `train`."""
    raise _Later(what)
    yield
