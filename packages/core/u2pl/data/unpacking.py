"""Archives of labelling programs, unpacked once into the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
import zlib
from pathlib import Path

from u2pl.counting import Counting, OnProgress
from u2pl.data.walking import is_clutter
from u2pl.errors import DiskError, UserError, call
from u2pl.files import cache_folder, make_folder, new_folder

# The bit of a member's flags that says that it takes a password.
_LOCKED = 1
# What zipfile raises for archives that are damaged, or packed in a way it does not know.
_BROKEN = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, ValueError)


def unpacked(path: Path, counting: Counting) -> Path:
    """The folder of what a .zip file holds; any other path as it is.

    An archive with one folder at its top is that folder. Errors about it name the archive and its
    member. Raises UserError if it is damaged, or a
    name in it leads out of it, and DiskError if there is no room for it.
    """
    if path.suffix.lower() != ".zip" or not path.is_file():
        return path
    cache = cache_folder()
    if cache is None:
        raise UserError(f"{path} cannot be unpacked: set U2PL_CACHE to a folder, or unpack it")
    stat = path.stat()
    facts = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    folder = cache / f"unpacked-{key}" / path.stem
    if not folder.is_dir():
        try:
            make_folder(cache)
            with new_folder(folder.parent) as part, counting(f"unpacking {path.name}") as progress:
                _unpack(path, part / path.stem, progress)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster
                raise DiskError(
                    f"{path} cannot be unpacked into {cache} ({error.strerror or error}): free "
                    "some space, set U2PL_CACHE to another folder, or unpack it yourself"
                ) from error
    call(str(folder), str(path))
    held = [name for name in os.listdir(folder) if not is_clutter(name)]
    only = folder / held[0] if len(held) == 1 else folder
    return only if only.is_dir() else folder


def _unpack(path: Path, folder: Path, progress: OnProgress) -> None:
    folder.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            members = [each for each in archive.infolist() if not each.is_dir()]
            _check(members, path, folder)
            for done, member in enumerate(members, 1):
                target = folder.joinpath(*_parts(member.filename))
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file, 2**20)
                progress(done, len(members))
    except _BROKEN as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be unpacked ({error}): download it again") from None


def _check(members: list[zipfile.ZipInfo], path: Path, folder: Path) -> None:
    for member in members:
        parts = _parts(member.filename)
        outside = re.match(r"[/\\]|[A-Za-z]:", member.filename) or ".." in parts
        if outside or not parts:
            raise UserError(
                f"{path} holds {member.filename!r}, which leads out of the archive: make it anew"
            )
        if member.flag_bits & _LOCKED:
            raise UserError(
                f"{path} is locked with a password: unpack it yourself, and give the folder"
            )
    size, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
    if size > free:
        raise DiskError(
            f"{path} holds {size / 1e9:.1f} GB, and there are {free / 1e9:.1f} GB free for it: "
            "free some space, or set U2PL_CACHE to another folder"
        )


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
