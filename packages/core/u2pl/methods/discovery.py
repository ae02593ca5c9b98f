"""The registry of methods is their folder: each file in it defines one."""

from __future__ import annotations

import ast
import difflib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2pl.errors import UserError

if TYPE_CHECKING:
    from u2pl.methods.method import Method


def method_names(folder: Path) -> dict[str, str]:
    """Methods in a folder: name -> first line of its docstring. Imports nothing."""
    files = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
    return {path.stem: _first_line(path) for path in files}


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return text.splitlines()[0] if text else "(its file has no docstring)"


def load_method(package: str, folder: Path, name: str) -> type[Method[Any]]:
    """The method class in the file `name` of a package.

    Raises:
        UserError: There is no such method; suggests the nearest name.
    """
    from u2pl.methods.method import Method

    known = method_names(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"no method {name!r}{meant}; there are {', '.join(known)}")
    module = import_module(f"{package}.{name}")
    own = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Method) and c.__module__ == module.__name__
    ]
    assert len(own) == 1, f"{module.__name__} must define exactly one method"
    return own[0]
