"""Recipes as files: those that are shipped, by name, and one's own. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from u2pl.errors import UserError, did_you_mean
from u2pl.files import expanded, parse_toml

#: Values by section and name, as TOML and JSON hold them.
Nested = dict[str, Any]
SUFFIX = ".toml"


def is_own(preset: str) -> bool:
    """Whether a preset is named by a file."""
    return preset.endswith(SUFFIX)


def preset_name(preset: str) -> str:
    """What a run calls its preset: a file's name without its folder."""
    return Path(preset).name if is_own(preset) else preset


def recipe_path(recipes: Path, name: str) -> Path:
    """The file of a recipe: a shipped one by name, or one's own `.toml` file.

    Raises:
        UserError: There is none; suggests the nearest shipped one.
    """
    if is_own(name):
        path = expanded(name)
        if not path.is_file():
            raise UserError(f"--preset {name}: there is no such file")
        return path
    path = recipes / f"{name}{SUFFIX}"
    if not path.is_file():
        known = sorted(entry.stem for entry in recipes.glob(f"*{SUFFIX}"))
        near = did_you_mean(name, known, 0.4)
        raise UserError(
            f"no preset {name!r}{near}; there are {', '.join(known)}, or FILE{SUFFIX} of your own"
        )
    return path


def read_recipe(path: Path) -> Nested:
    """The sections of a recipe; UserError if the file is no TOML, or a section no table."""
    try:
        values = parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}") from None
    for name, section in values.items():
        if not isinstance(section, dict):
            raise UserError(f"{path}: {name}: write it in its section, such as [train]")
    return values


def split_assignment(assignment: str) -> tuple[str, str]:
    """Key and value of a `--set`; UserError if it is written in another way."""
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {assignment}: write it as section.key=value")
    return key, text
