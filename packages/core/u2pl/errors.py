"""Mistakes of users, in one line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(ValueError):
    """One line for a person: what is wrong, where, and what to do.

    Commands print it and exit with code 2.
    """


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` (did you mean X?)` with the nearest known word, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""


def explain(error: ValidationError, prefix: str = "") -> str:
    """The first complaint of pydantic in one line; `prefix` goes in front of the option's name."""
    first = error.errors()[0]
    where = (prefix + ".".join(str(part) for part in first["loc"])).rstrip(".")
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # a whole section, whose values do not fit each other
        return f"{where}: {reason}" if where else reason
    if first["type"] == "tuple_type":
        reason = "write several values as [1, 2]"
    unknown = first["type"] == "extra_forbidden"
    return f"{where}: {reason}" + ("" if unknown else f", not {first['input']!r}")
