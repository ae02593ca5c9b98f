"""Writing files so that a kill or a full disk leaves either the old one or the new one, never half of one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from u2pl.errors import UserError


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place.

    Raises UserError when the disk is full or the folder cannot be written; what was there before is untouched.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}; free some space or choose another --out") from error


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all."""
    replace_file(path, lambda beside: beside.write_text(json.dumps(plain(value), indent=2) + "\n"))


def plain(value: Any) -> Any:
    """The value with tuples as lists and numbers that are not finite as None, which JSON has no word for."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
