"""Data sources by name, as on the command line; each file in sources/ is a scheme `NAME:PATH`."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable
from importlib import import_module

from u2pl.data import sources
from u2pl.data.demo.scenes import DEMOS, Scenes
from u2pl.data.source import Source
from u2pl.errors import UserError, did_you_mean
from u2pl.files import expanded

#: The scheme of a path without one.
PLAIN = "folder"


def open_source(text: str) -> Source:
    """Open a demo (`demo`, `demo-source`, `demo-target`, `demo-tags`), a folder, or `SCHEME:PATH`.

    A scheme may take options: `voc:PATH?protocol=blender`. Raises UserError if there is no such
    source or it is incomplete.
    """
    if text in DEMOS:
        look, seed, objects = DEMOS[text]
        return Scenes(text, look, objects, seed)
    scheme, colon, rest = text.partition(":")
    if colon and scheme in schemes():
        return _open(text, scheme, rest)
    named = colon and scheme.isalnum() and len(scheme) > 1
    if named and not expanded(text).exists():
        known = ", ".join(f"{name}:{'NAME' if name == 'hf' else 'PATH'}" for name in schemes())
        near = did_you_mean(scheme, schemes())
        raise UserError(
            f"unknown data source {scheme!r} in {text!r}{near}: write {', '.join(DEMOS)}, a "
            "folder, or "
            f"{known}"
        )
    return source_class(PLAIN)(text)


def schemes() -> list[str]:
    """The schemes: the names of the files in sources/."""
    return [found.name for found in pkgutil.iter_modules(sources.__path__)]


def source_class(scheme: str) -> Callable[..., Source]:
    """The one subclass of Source in a scheme's file."""
    module = import_module(f"{sources.__name__}.{scheme}")
    (found,) = (
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, Source)
        and kind.__module__ == module.__name__
    )
    return found


def _open(text: str, scheme: str, rest: str) -> Source:
    kind = source_class(scheme)
    _, *allowed = inspect.signature(kind).parameters  # after the path
    location, _, query = rest.partition("?")
    # Not parse_qsl: in a path + and % mean themselves.
    options = {
        name: value
        for name, equals, value in (part.partition("=") for part in re.split(r"&(?=\w+=)", query))
        if equals
    }
    wrong = sorted(set(options) - set(allowed)) or ([query] if query and not options else [])
    if wrong or not location:
        possible = "?" + "&".join(f"{option}=…" for option in allowed) if allowed else "no options"
        problem = f"unknown option {wrong[0]!r}" if wrong else "no path"
        raise UserError(f"data source {text!r}: {problem}; write {scheme}:PATH, {possible}")
    return kind(location, **options)
