"""Writing files so that a kill or a full disk leaves either the old one or the new one whole."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from u2pl.errors import UserError


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place.

    Raises UserError if the disk is full or the folder cannot be written; what was there before is
    untouched.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        if path.parent.is_dir():
            beside.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder and those around it; UserError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot make the folder {folder}: {reason}; choose another one") from error


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all."""
    text = json.dumps(plain(value), indent=2) + "\n"
    replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def plain(value: Any) -> Any:
    """The value with tuples as lists, and None for numbers that JSON cannot hold (NaN, infinity)."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of these files, or replace it as a whole.

    At every moment a whole folder can be read at what `whole_folder` returns, the old one or the
    new one. Raises UserError if the disk is full or refuses; the folder is as it was.
    """
    new, old = _beside(folder, "new"), _beside(folder, "old")
    try:
        _settle(folder)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name, content in files.items():
            (new / name).write_bytes(content)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        _settle(folder)
        raise UserError(
            f"cannot write the model to {folder}: {error.strerror}; what was there is unchanged"
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def whole_folder(folder: Path) -> Path:
    """`folder`, or what it was before a replacement that was cut short."""
    return folder if folder.exists() else _beside(folder, "old")


def _beside(folder: Path, role: str) -> Path:
    return folder.absolute().with_name(f".{folder.absolute().name}.{role}")


def _settle(folder: Path) -> None:
    """Undo or finish a replacement that was cut short."""
    old = _beside(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
