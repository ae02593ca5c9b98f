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

#: Folders of annotations that lie beside the images' folder.
ASIDE = ("annotations", "labels")

# Names of images that are tried, to find out which folder they are in.
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

    def find(self, name: str) -> str | None:
        """The id of the image that a path means, of which a beginning may belong to elsewhere.

        Args:
            name: a path, as it was written on any machine.

        Returns: None if there is no such image, or several in different folders.
        """
        parts = _without_suffix(inside(name)).split("/")
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
        found = [self.find(name) for name in names]
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


def root_of(file: Path) -> Path:
    """The folder that a file of annotations belongs to."""
    return file.parent.parent if file.parent.name.lower() in ASIDE else file.parent


def inside(name: str) -> str:
    """A path with `/` that leads out of no folder: without `..` and the beginning of absolute ones.

    Both say where the folder was on the machine on which the path was written. So does what Label
    Studio writes in front of files that it did not copy: `/data/local-files/?d=`.
    """
    path = composed(name).replace("\\", "/").rpartition("?d=")[2]
    path = posixpath.normpath(re.sub(r"^([A-Za-z]:)?/+", "", path))
    return re.sub(r"^(\.\./|\.\.$)+", "", path)


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
    return any(tail and os.path.isfile(folder / tail) for tail in tails)


def _without_suffix(path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else path
