"""Data sources by name, as on the command line; each file in sources/ is a scheme `NAME:PATH`."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable
from importlib import import_module

from u2pl.counting import Counting, silently
from u2pl.data import sources
from u2pl.data.demo.scenes import DEMOS, Scenes
from u2pl.data.recognition import DRAWN, recognise
from u2pl.data.source import Source
from u2pl.data.unpacking import unpacked
from u2pl.errors import UserError, did_you_mean
from u2pl.files import expanded

#: The scheme of a path without one.
PLAIN = "folder"


def open_source(text: str, counting: Counting = silently) -> Source:
    """Open a demo (`demo`, `demo-source`, `demo-target`, `demo-tags`), a path, or `SCHEME:PATH`.

    A scheme may take options: `voc:PATH?protocol=blender`. A path without scheme is a folder of
    photos, or what a labelling program wrote (`recognise`).

    Args:
        text: as on the command line.
        counting: told how far it is, where a first look takes a while.

    Raises UserError if there is no such source or it is incomplete.
    """
    if text in DEMOS:
        look, seed, objects = DEMOS[text]
        return Scenes(text, look, objects, seed)
    scheme, colon, rest = text.partition(":")
    if colon and scheme in schemes():
        return _open(text, scheme, rest, counting)
    named = colon and scheme.isalnum() and len(scheme) > 1
    if named and not expanded(text).exists():
        known = ", ".join(f"{name}:{'NAME' if name == 'hf' else 'PATH'}" for name in schemes())
        near = did_you_mean(scheme, schemes())
        raise UserError(
            f"unknown data source {scheme!r} in {text!r}{near}: write {', '.join(DEMOS)}, a "
            "folder, or "
            f"{known}"
        )
    location, options, _ = text.partition("?")
    if options and not expanded(text).exists() and expanded(location).exists():
        scheme = recognise(unpacked(expanded(location), counting)) or PLAIN
        raise UserError(f"{text}: options need the name of a format: write '{scheme}:{text}'")
    place = unpacked(expanded(text), counting)
    scheme = recognise(place) or PLAIN
    return opener(scheme)(place, **_counted(scheme, counting))


def schemes() -> list[str]:
    """The schemes: the names of the files in sources/."""
    return [found.name for found in pkgutil.iter_modules(sources.__path__)]


def opener(scheme: str) -> Callable[..., Source]:
    """What opens a scheme: `open_scheme` of its file, or else the one subclass of Source in it."""
    module = import_module(f"{sources.__name__}.{scheme}")
    if hasattr(module, "open_scheme"):
        found: Callable[..., Source] = module.open_scheme
        return found
    (kind,) = (
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, Source)
        and kind.__module__ == module.__name__
    )
    return kind


def _counted(scheme: str, counting: Counting) -> dict[str, Counting]:
    takes = "counting" in inspect.signature(opener(scheme)).parameters
    return {"counting": counting} if takes else {}


def _open(text: str, scheme: str, rest: str, counting: Counting) -> Source:
    kind, counted = opener(scheme), _counted(scheme, counting)
    _, *allowed = inspect.signature(kind).parameters  # after the path
    allowed = [name for name in allowed if name not in counted]
    location, _, query = rest.partition("?")
    # Not parse_qsl: in a path + and % mean themselves.
    parts = [part.partition("=") for part in re.split(r"&(?=\w+=)", query)]
    options = {name: value for name, equals, value in parts if equals}
    names = [name for name, equals, _ in parts if equals]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"data source {text!r}: option {twice[0]!r} is given twice: keep one")
    wrong = sorted(set(options) - set(allowed)) or ([query] if query and not options else [])
    if wrong or not location:
        possible = "?" + "&".join(f"{option}=…" for option in allowed) if allowed else "no options"
        problem = f"unknown option {wrong[0]!r}" if wrong else "no path"
        raise UserError(f"data source {text!r}: {problem}; write {scheme}:PATH, {possible}")
    if scheme in (PLAIN, *DRAWN):
        location = str(unpacked(expanded(location), counting))
    return kind(location, **options, **counted)
