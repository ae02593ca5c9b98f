"""Files: written atomically, so that after a kill the old or the new version is there; parsed.

What is not complete yet is called `.NAME.<random>.part`. It is created anew, with the rights that
the umask leaves, so that nothing is written through a link that somebody has put there. It is
locked while it is written; one that is not was left by a kill, and the next process that writes
into the folder removes it.
"""

from __future__ import annotations

import errno
import glob
import io
import json
import math
import os
import re
import secrets
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from u2pl.errors import DiskError, UserError
from u2pl.locking import is_at, lock

#: Bytes, or what writes them.
Content = bytes | Callable[[BinaryIO], object]
#: How the names of unfinished files end.
PART = ".part"
_PART = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(PART)}")
#: What the name of an unfinished folder has behind that of the locked file beside it.
_FOLDER = ".d"
#: New, for this process alone, and never through a link.
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


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


def cache_folder() -> Path | None:
    """Where results are kept that can be had again; None if the user has no home folder.

    $U2PL_CACHE, else $XDG_CACHE_HOME/u2pl, else ~/.cache/u2pl.
    """
    try:
        if os.environ.get("U2PL_CACHE"):
            return expanded(os.environ["U2PL_CACHE"])
        return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "u2pl"
    except UserError:
        return None


def replace_file(path: Path, content: Content) -> None:
    """Write a file beside `path`, then rename it to `path`.

    Raises DiskError if the disk is full or the folder not writable; the old file is untouched then.
    """
    try:
        _tidy(path.parent.absolute())
        with _beside(path) as (beside, file):
            _fill(file, content)
            if sys.platform == "win32":  # where an open file keeps its name
                file.close()
            os.replace(beside, path)
    except OSError as error:
        raise DiskError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another "
            "folder"
        ) from error


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file that is locked, and gone afterwards unless it was renamed."""
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
        opened = os.open(beside, _NEW, 0o666)
        try:
            with open(opened, "w+b") as file:
                lock(opened)
                if is_at(beside, opened):
                    yield beside, file
                    return
                # somebody has removed it: before it was locked it looked abandoned
        finally:
            beside.unlink(missing_ok=True)


def _fill(file: BinaryIO, content: Content) -> None:
    """Write it down to the disk: a rename may get there before what was only handed over."""
    if callable(content):
        content(file)
    else:
        file.write(content)
    file.flush()
    os.fsync(file.fileno())


@cache
def _tidy(folder: Path) -> None:
    """Remove what kills have left in a folder; once, which keeps many files from being many looks.

    What cannot be told from a file that is being written is left.
    """
    with suppress(OSError):
        for entry in os.scandir(folder):
            if _PART.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                # it was renamed in the meantime, or is somebody else's
                with suppress(OSError), open(entry.path, "r+b") as file:
                    if lock(file.fileno()):
                        os.unlink(entry.path)


def in_memory(content: Content) -> bytes:
    """What would be written."""
    if not callable(content):
        return content
    file = io.BytesIO()
    content(file)
    return file.getvalue()


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


def write_text(path: Path, text: str | Callable[[TextIO], object]) -> None:
    """Write a text, or what something writes, as UTF-8, atomically."""
    replace_file(path, partial(_stream, text) if callable(text) else text.encode())


def _stream(write: Callable[[TextIO], object], file: BinaryIO) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
    try:
        write(text)
    finally:
        text.detach()  # else the file would be closed with it


def parse_json(text: str | bytes) -> Any:
    """What JSON says; ValueError for what is none, is nested too deep, or has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values of a key one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"it has the key {twice[:50]!r} twice")
    return found


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


def replace_folder(folder: Path, files: Mapping[str, Content]) -> None:
    """Write a folder with these files, replacing an existing one as a whole.

    At any moment `whole_folder` finds a complete folder, the old one or the new one. Raises
    DiskError if the disk is full or the folder not writable; the old folder is untouched then.
    """
    new, old = _aside(folder, "new"), _aside(folder, "old")
    try:
        _settle(folder)
        _remove(new)
        new.mkdir(parents=True)
        for name, content in files.items():
            with open(os.open(new / name, _NEW, 0o666), "w+b") as file:
                _fill(file, content)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        _remove(new)
        _settle(folder)
        raise DiskError(
            f"cannot write the model to {folder}: {error.strerror or error}; what was there is "
            "unchanged"
        ) from error
    _remove(old)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, beside `folder`, which gets that name at the end.

    If filling it fails, nothing is left of it; what a kill has left of it goes the next time. A
    locked file beside it tells that somebody is filling it.

    Raises OSError if the folder above is not writable, or `folder` is there by then.
    """
    with _beside(folder) as (mark, _):
        part = mark.with_name(mark.name + _FOLDER)
        try:
            _tidy_folders(folder)
            part.mkdir()
            yield part
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _tidy_folders(folder: Path) -> None:
    """Remove what kills have left of a folder that was being filled."""
    for part in folder.parent.glob(f".{glob.escape(folder.name)}.*{PART}{_FOLDER}"):
        mark = part.with_name(part.name.removesuffix(_FOLDER))
        if not _PART.fullmatch(mark.name) or part.is_symlink():
            continue
        with suppress(OSError):
            if not mark.exists():
                shutil.rmtree(part, ignore_errors=True)
                continue
            with mark.open("r+b") as file:
                if lock(file.fileno()):
                    shutil.rmtree(part, ignore_errors=True)
                    mark.unlink()


def whole_folder(folder: Path) -> Path:
    """`folder`, or its previous version if a replacement was interrupted."""
    return folder if folder.exists() else _aside(folder, "old")


def _aside(folder: Path, role: str) -> Path:
    return folder.absolute().with_name(f".{folder.absolute().name}.{role}")


def _settle(folder: Path) -> None:
    """Undo or finish a replacement that was interrupted."""
    old = _aside(folder, "old")
    if old.is_dir() and not old.is_symlink() and not folder.exists():
        old.rename(folder)
    _remove(old)


def _remove(path: Path) -> None:
    """Remove a folder as far as it can be; of a link only the link."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
