"""What the fields of an annotation hold, or one line that says which one is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from u2pl.errors import UserError


def whole(value: object, where: str, least: int = 0) -> int:
    """A whole number, also written as 3.0; UserError if it is none, or below `least`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        wanted = "a positive whole number" if least == 1 else "a whole number"
        raise UserError(f"{where} is {shown(value)}: it must be {wanted}")
    return value


def number(text: object, where: str) -> float:
    """A finite number, also as text; UserError if it is none."""
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value) or isinstance(text, bool):
        raise UserError(f"{where} is {shown(text)}: it must be a finite number")
    return value


def word(value: object, where: str) -> str:
    """A text that is not blank, without blanks around it; UserError if it is none."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} is {shown(value)}: it must be a text that is not blank")
    return value.strip()


def entries(value: object, where: str) -> list[Any]:
    """A list; UserError if it is none."""
    if not isinstance(value, list):
        raise UserError(f"{where} is {shown(value)}: it must be a list")
    return value


def fields(value: object, where: str) -> dict[str, Any]:
    """An object with fields; UserError if it is none."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is {shown(value)}: it must be an object with fields")
    return value


def points(value: object, where: str) -> np.ndarray:
    """x and y of corners, float64 [N, 2]; UserError if they are no pairs of finite numbers.

    Args:
        value: pairs, or x and y in turn, as numbers or texts.
        where: what is said of them in errors.
    """
    try:
        found = np.asarray(value, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where} is {shown(value)}: it must be the x and y of corners") from None
    if not np.isfinite(found).all():
        corner = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
        raise UserError(f"{where} has a corner, number {corner + 1}, that is not finite")
    return found


def shown(value: object) -> str:
    """A value in a few characters."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = "an object" if isinstance(value, dict) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
