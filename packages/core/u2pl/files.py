"""Files: written atomically, so that after a kill the old or the new version is there; parsed."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from u2pl.errors import DiskError, UserError


def expanded(path: str | Path) -> Path:
    """A path that a person has typed, with `~` and `~user` written out.

    Raises UserError for what no file system takes, though whatever is at it may be missing.
    """
    text = str(path)
    try:
        text.encode()
        found = Path(text).expanduser()
        found.stat()
    except (UnicodeEncodeError, ValueError) as error:
        raise UserError(
            f"{text!r} cannot be the name of a file ({error}): rename it, or set PYTHONUTF8=1"
        ) from None
    except RuntimeError:
        raise UserError(f"{text}: there is no such user on this machine") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise UserError(f"{text}: {error.strerror}") from None
    return found


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    Raises DiskError if the disk is full or the folder not writable; the old file is untouched then.
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
        raise DiskError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another "
            "folder"
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot make the folder {folder}: {reason}; choose another one") from error


def write_json(path: Path, value: object) -> None:
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(plain(value), indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def parse_json(text: str | bytes) -> Any:
    """What JSON says; ValueError for what is none, or is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parse_toml(text: str) -> dict[str, Any]:
    """What TOML says; ValueError for what is none, or is nested too deep to be read."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def plain(value: object) -> object:
    """The value as JSON can hold it: tuples become lists, NaN and infinity None."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder with these files, replacing an existing one as a whole.

    At any moment `whole_folder` finds a complete folder, the old one or the new one. Raises
    DiskError if the disk is full or the folder not writable; the old folder is untouched then.
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
        raise DiskError(
            f"cannot write the model to {folder}: {error.strerror}; what was there is unchanged"
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def whole_folder(folder: Path) -> Path:
    """`folder`, or its previous version if a replacement was interrupted."""
    return folder if folder.exists() else _beside(folder, "old")


def _beside(folder: Path, role: str) -> Path:
    return folder.absolute().with_name(f".{folder.absolute().name}.{role}")


def _settle(folder: Path) -> None:
    """Undo or finish a replacement that was interrupted."""
    old = _beside(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
