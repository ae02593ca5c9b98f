"""The photos that annotations speak of: they name files, as these lay on some machine."""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from u2pl.data.file_source import index_files
from u2pl.data.ids import IMAGE_SUFFIXES, composed, few, first_three
from u2pl.data.walking import files_below
from u2pl.errors import UserError

#: Names of images that are tried, to find out which folder they are in.
_TRIED = 8


class Photos:
    """The images below a folder, and which of them a name means.

    Args:
        base: the folder; an id is the path of an image below it, without suffix.
        images: those of the images that count; all, if left out.
    """

    def __init__(self, base: Path, images: Iterable[str] | None = None) -> None:
        self.base = base
        self.images = index_files(
            base, files_below(base) if images is None else images, IMAGE_SUFFIXES
        )
        self.called: dict[str, list[str]] = defaultdict(list)
        for id in self.images:
            self.called[PurePosixPath(id).name].append(id)

    def find(self, name: str, where: str) -> str | None:
        """The id of the image that a path means, of which a beginning may belong to elsewhere.

        Args:
            name: a path, as it was written on any machine.
            where: what names it, in errors.

        Returns: None if there is no such image, or several in different folders.

        Raises:
            UserError: The path leads out of the folder by its `..`.
        """
        parts = _without_suffix(inside(name, where)).split("/")
        for start in range(len(parts)):
            if (id := "/".join(parts[start:])) in self.images:
                return id
        same = self.called.get(parts[-1], [])
        return same[0] if len(same) == 1 else None

    def at(self, path: Path) -> str | None:
        """The id of the image at a path; None if there is none, or it is not below the folder."""
        below = os.path.relpath(os.path.abspath(path), os.path.abspath(self.base))
        id = _without_suffix(composed(below).replace(os.sep, "/"))
        return id if id in self.images else None

    def all_of(self, names: Sequence[str], where: str, advice: str) -> list[str]:
        """The id that each name means.

        Args:
            names: as in `find`.
            where: what names them, in errors.
            advice: what to do about images that are not there.

        Raises:
            UserError: Some are not there, or two names mean the same image.
        """
        found = [self.find(name, where) for name in names]
        missing = [name for name, id in zip(names, found, strict=True) if id is None]
        if missing:
            raise UserError(
                f"{where} names images that are not in {self.base}: {first_three(missing)} of "
                f"{len(names)}: {advice}"
            )
        first: dict[str, str] = {}
        ids = [id for id in found if id is not None]
        for name, id in zip(names, ids, strict=True):
            if id in first:
                also = "twice" if first[id] == name else f"and {first[id]!r}, which is the same"
                raise UserError(f"{where} names the image {name!r} {also}: keep one of the two")
            first[id] = name
        return ids


def inside(name: str, where: str) -> str:
    """A path with `/`, without `..` and whatever an absolute one begins with.

    Raises UserError if it leads out of its folder.
    """
    path = composed(name).replace("\\", "/")
    path = re.sub(r"^([A-Za-z]:)?/+", "", path)
    path = posixpath.normpath(path)
    if path.split("/")[0] == "..":
        raise UserError(
            f"{where} names the image {name!r}, which leads out of the data folder: name the "
            "folder of the images with ?images=FOLDER, or correct the name"
        )
    return path


def base_of(names: Sequence[str], folders: Sequence[Path]) -> Path:
    """The folder in which most of some names are found; the last one if none is in any.

    Looks for a few of the names and opens no folder, so that a large one costs nothing.
    """
    tried = few(names, _TRIED)
    hits = [sum(_is_below(folder, name) for name in tried) for folder in folders]
    return folders[hits.index(max(hits))] if any(hits) else folders[-1]


def _is_below(folder: Path, name: str) -> bool:
    parts = composed(name).replace("\\", "/").split("/")
    if ".." in parts:
        return False
    tails = ("/".join(parts[start:]).lstrip("/") for start in range(len(parts)))
    return any(tail and (folder / tail).is_file() for tail in tails)


def _without_suffix(path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else path
