"""Sources whose images and masks are files on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from u2pl.data.ids import check_ids
from u2pl.data.reading import check_range, check_size, read_ids, read_rgb
from u2pl.data.source import Source
from u2pl.errors import UserError


class IdList(NamedTuple):
    """The lines of a split as written, and where."""

    where: str
    lines: list[str]


class FileSource(Source):
    """Image and mask files by id, and lists that are checked when they are first asked for.

    A subclass fills `images`, `masks` and `lists` (and name, classes, palette) when it is made.
    """

    images: dict[str, Path]
    masks: dict[str, Path]
    lists: dict[str, IdList]

    def splits(self) -> tuple[str, ...]:
        """Name the lists of ids there are."""
        return tuple(sorted(self.lists))

    def split(self, name: str) -> list[str]:
        """Give a list's ids in the order written; UserError when it is unknown, empty, or names what is not there."""
        if name not in self.lists:
            raise self.unknown_split(name)
        where, lines = self.lists[name]
        return check_ids(lines, self.images, where, self.id_ending)

    def ids(self) -> Collection[str]:
        """Every image's id."""
        return self.images.keys()

    def image(self, id: str) -> Image.Image:
        """Decode an image to RGB; UserError when it is missing or broken."""
        return read_rgb(self._image_file(id))

    def has_mask(self, id: str) -> bool:
        """Whether there is a mask file."""
        return id in self.masks

    def mask(self, id: str) -> np.ndarray:
        """Decode a mask: uint8 [H, W], class ids or 255; UserError when missing, broken, of another size, or with foreign ids."""
        if id not in self.masks:
            raise UserError(
                f"{self.name}: image {id!r} has no mask: add one, or use the image without label"
            )
        file, image = self.masks[id], self._image_file(id)
        return self.match_size(self.decode_mask(file), file, image)

    def decode_mask(self, file: Path) -> np.ndarray:
        """Class ids, uint8 [H, W], of one mask file; sources with another encoding override this."""
        return check_range(read_ids(file), len(self.classes), str(file))

    def match_size(self, ids: np.ndarray, file: Path, image: Path) -> np.ndarray:
        """Return the mask when it is as large as its image, UserError when not; a source of known faults overrides this."""
        return check_size(ids, image, str(file), str(image))

    def fingerprint(self) -> str:
        """12 hex digits over classes, ids, lists and file sizes."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for files in (self.images, self.masks):
            for id in sorted(files):
                digest.update(f"{id} {_bytes(files[id])}\n".encode())
        for name in sorted(self.lists):
            digest.update(repr((name, self.lists[name].lines)).encode())
        return digest.hexdigest()[:12]

    def _image_file(self, id: str) -> Path:
        if id not in self.images:
            raise UserError(f"{self.name} has no image {id!r}")
        return self.images[id]


def files_by_id(folder: Path, suffixes: tuple[str, ...], ending: str = "") -> dict[str, Path]:
    """Index the files below `folder` by path without suffix and `ending`, sorted; hidden files and other endings are left out.

    Raises UserError when two files have the same id.
    """
    found: dict[str, Path] = {}
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if name.startswith(".") or suffix.lower() not in suffixes or not stem.endswith(ending):
                continue
            path = Path(where, name)
            id = (path.parent / stem.removesuffix(ending)).relative_to(folder).as_posix()
            if id in found:
                raise UserError(
                    f"{found[id]} and {path} have the same id {id!r}: rename one of them"
                )
            found[id] = path
    return dict(sorted(found.items()))


def _bytes(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1
