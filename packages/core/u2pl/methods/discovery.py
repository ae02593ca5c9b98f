"""The registry of methods is their folder: each file in it defines one; or a file is named."""

from __future__ import annotations

import ast
import difflib
import hashlib
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from u2pl.errors import UserError

if TYPE_CHECKING:
    from u2pl.methods.method import Method

#: Said of a method whose file does not say it.
UNSAID = "(its file has no docstring)"


def method_names(folder: Path) -> dict[str, str]:
    """Methods in a folder: name -> first line of its docstring. Imports nothing."""
    return {name: _first_line(folder / f"{name}.py") for name in known_methods(folder)}


def known_methods(folder: Path) -> list[str]:
    """Names of the methods in a folder. Opens no file."""
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def check_name(folder: Path, name: str) -> None:
    """UserError if no file of a folder defines this method; suggests the nearest. Imports nothing.

    Args:
        folder: of methods.
        name: of the method.
    """
    known = known_methods(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"no method {name!r}{meant}; there are {', '.join(known)}")


def check_file(folder: Path, file: Path) -> None:
    """UserError if a file cannot define a method of one's own. Imports nothing.

    Args:
        folder: of the app's methods, whose names are taken.
        file: to be imported later.
    """
    if file.suffix != ".py" or not file.is_file():
        problem = "does not exist" if not file.exists() else "is no .py file"
        raise UserError(f"--method-file {file}: it {problem}")
    if (folder / file.name).exists() and not (folder / file.name).samefile(file):
        raise UserError(
            f"--method-file {file}: {file.stem} is a method of the app; give the file a name of "
            "its own"
        )
    _parse(file)


def load_method(package: str, folder: Path, name: str) -> type[Method[Any]]:
    """The method class in the file `name` of a package.

    Raises:
        UserError: There is no such method (suggests the nearest name), its file cannot be parsed,
            or it does not define exactly one.
    """
    check_name(folder, name)
    file = folder / f"{name}.py"
    _parse(file)
    return _only_method(import_module(f"{package}.{name}"), file)


def load_method_file(folder: Path, file: Path) -> type[Method[Any]]:
    """The method class in a file outside of the package; the file is run.

    Raises:
        UserError: It cannot be parsed or imported, or does not define exactly one whole method.
    """
    check_file(folder, file)
    module = ModuleType(f"u2pl_method_file_{file.stem}")
    module.__file__ = str(file.absolute())
    sys.modules[module.__name__] = module  # pydantic looks up annotations there
    try:  # not by an import, which would leave a __pycache__ beside the file
        code = compile(_parse(file), module.__file__, "exec", dont_inherit=True)
        exec(code, vars(module))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever code of a user's own raises
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == module.__file__
        ]
        where = f", line {lines[-1]}" if lines else ""
        text = " ".join(str(error).split())
        raise UserError(f"{file}{where}: {type(error).__name__}: {text}") from error
    kind = _only_method(module, file)
    lacking = sorted(getattr(kind, "__abstractmethods__", ()))
    if lacking:
        raise UserError(f"{file}: {kind.__name__} does not define {', '.join(lacking)}")
    return kind


def file_digest(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def has_docstring(file: Path) -> bool:
    """Whether a file that can be parsed says in a docstring what it is."""
    return ast.get_docstring(_parse(file)) is not None


def _only_method(module: ModuleType, file: Path) -> type[Method[Any]]:
    from u2pl.methods.method import Method

    own = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Method) and c.__module__ == module.__name__
    ]
    if len(own) != 1:
        found = ", ".join(c.__name__ for c in own) or "none"
        raise UserError(
            f"{file} must define one subclass of u2pl.methods.method.Method and defines {found}"
        )
    return own[0]


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{file}{where}: {error.msg}") from None
    except (OSError, ValueError) as error:  # not UTF-8, or null bytes
        raise UserError(f"{file} cannot be read as Python ({error})") from None


def _first_line(path: Path) -> str:
    try:
        text = ast.get_docstring(_parse(path))
    except UserError as error:
        return f"(cannot be used: {error})"
    return text.splitlines()[0] if text else UNSAID
