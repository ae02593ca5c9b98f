"""meta.toml: optional facts about a folder of photos."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from u2pl.data.ids import first_three
from u2pl.errors import UserError
from u2pl.files import parse_toml


class Meta(NamedTuple):
    """Values of the attributes of `Source` with the same names."""

    things: tuple[str, ...] = ()
    void_rows: tuple[float, float] = (0.0, 0.0)


def read_meta(path: Path, classes: tuple[str, ...]) -> Meta:
    """Read meta.toml: `things`, some of `classes`; `void_top`, `void_bottom`, shares of the height.

    Without the file the defaults hold. Raises UserError if it is not valid TOML, or has an unknown
    key or class or an invalid share.
    """
    if not path.exists():
        return Meta()
    try:
        found = parse_toml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(
            f'{path} cannot be read as TOML ({error}): write lines such as things = ["car"] and '
            "void_top = 0.03"
        ) from None
    unknown = sorted(found.keys() - {"things", "void_top", "void_bottom"})
    if unknown:
        raise UserError(
            f"{path} has an unknown key {unknown[0]!r}: it may hold things, void_top and "
            "void_bottom"
        )
    top, bottom = (_share(path, key, found.get(key, 0.0)) for key in ("void_top", "void_bottom"))
    if top + bottom >= 1:
        raise UserError(
            f"{path}: void_top {top} and void_bottom {bottom} leave nothing of the image: their "
            "sum must be below 1"
        )
    return Meta(_things(path, found.get("things", []), classes), (top, bottom))


def _share(path: Path, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise UserError(
            f"{path}: {key} is {value!r}: write a share of the image's height, from 0 to below 1"
        )
    return float(value)


def _things(path: Path, value: object, classes: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError(f'{path}: things must be a list of class names, such as ["car", "person"]')
    unknown = [name for name in value if name not in classes]
    if unknown:
        raise UserError(
            f"{path}: things names classes that classes.txt does not have: {first_three(unknown)}: "
            "correct the names"
        )
    return tuple(dict.fromkeys(value))
