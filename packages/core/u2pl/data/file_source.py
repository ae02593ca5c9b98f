"""Sources whose images and masks are files on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from u2pl.data.ids import check_ids, composed
from u2pl.data.large_photos import Cuttable, is_large, kept, large_photo
from u2pl.data.orientation import Size
from u2pl.data.reading import check_range, check_size, read_facing, read_ids, read_rgb, size_of_mask
from u2pl.data.source import Source
from u2pl.data.walking import files_below
from u2pl.errors import UserError


class IdList(NamedTuple):
    """A split as written."""

    where: str  # the file or folder it comes from, for errors
    lines: list[str]


class FileSource(Source):
    """Image and mask files by id, and splits whose ids are checked when they are used.

    A subclass's constructor sets `images`, `masks` and `lists` (and name, classes, palette).
    """

    images: dict[str, Path]
    masks: dict[str, Path]
    lists: dict[str, IdList]

    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(self.lists))

    def split(self, name: str) -> list[str]:
        """The ids in the order written; UserError if the split is unknown, empty or invalid."""
        if name not in self.lists:
            raise self.unknown_split(name)
        where, lines = self.lists[name]
        return check_ids(lines, self.images, where, self.id_ending)

    def ids(self) -> Collection[str]:
        return self.images.keys()

    def image(self, id: str) -> Image.Image:
        """Decode an image to RGB, the way up that its mask was drawn (see `mask_size`).

        Raises UserError if it is missing or broken.
        """
        return read_rgb(
            self.files(id)[0],
            str(self._image_file(id)),
            upright=lambda facing: facing.drawn_upright(self.mask_size(id), self.exif),
        )

    def image_to_cut(self, id: str) -> Cuttable:
        file = self.files(id)[0]
        own = type(self).image is not FileSource.image  # what it reads is not known here
        if isinstance(file, Path) and not own and is_large(file):
            facts = ("image", self.exif, self.mask_size(id))
            size = self._size_read(id, file)
            return large_photo(file, facts, size, lambda: np.asarray(self.image(id)))
        return self.image(id)

    def mask_to_cut(self, id: str) -> np.ndarray:
        image, mask = self.files(id)
        if isinstance(image, Path) and isinstance(mask, Path) and is_large(image):
            facts = ("mask", type(self).__qualname__, id, self.classes, self.label_facts())
            shape = self._size_read(id, image)[::-1]
            return kept([image, mask], facts, shape, lambda: self.mask(id))
        return self.mask(id)

    def mask_size(self, id: str) -> Size | None:
        return size_of_mask(self.masks.get(id))

    def files(self, id: str) -> tuple[Path | bytes, Path | bytes | None]:
        return self._image_file(id), self.masks.get(id)

    def has_mask(self, id: str) -> bool:
        return id in self.masks

    def mask(self, id: str) -> np.ndarray:
        """Class ids, uint8 [H, W], 255 = ignore.

        Raises UserError if the mask is missing or broken, differs in size from its image, or holds
        ids that are no classes.
        """
        if id not in self.masks:
            advice = self.where_masks_lack("add one, or use the image without label")
            raise UserError(f"{self.name}: image {id!r} has no mask: {advice}")
        file, image = self.masks[id], self._image_file(id)
        return self.match_size(self.decode_mask(file), file, image)

    def decode_mask(self, file: Path) -> np.ndarray:
        """Class ids, uint8 [H, W], of a mask file; sources with another encoding override this."""
        return check_range(read_ids(file), len(self.classes), str(file))

    def match_size(self, ids: np.ndarray, file: Path, image: Path) -> np.ndarray:
        """The mask; UserError if its size differs from its image's; sources may override this."""
        return check_size(ids, image, str(file), str(image))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.classes).encode())
        for files in (self.images, self.masks):
            for id in sorted(files):
                digest.update(f"{id} {_bytes(files[id])}\n".encode())
        for name in sorted(self.lists):
            digest.update(repr((name, self.lists[name].lines)).encode())
        if facts := self.label_facts():
            digest.update(repr(facts).encode())
        return digest.hexdigest()[:12]

    def label_facts(self) -> tuple[object, ...]:
        """What images and labels follow from beyond files, classes and lists; mostly nothing."""
        return ()

    def _size_read(self, id: str, file: Path) -> Size:
        """Width and height of an image, and its mask, as they are read."""
        facing = read_facing(file)
        upright = facing.drawn_upright(self.mask_size(id), self.exif)
        return facing.upright if upright else facing.size

    def _image_file(self, id: str) -> Path:
        if id not in self.images:
            raise UserError(f"{self.name} has no image {id!r}")
        return self.images[id]


def files_by_id(folder: Path, suffixes: tuple[str, ...], ending: str = "") -> dict[str, Path]:
    """Index the files below `folder` by id, sorted; an id is the path without suffix and `ending`.

    Skips other suffixes and endings, and what `files_below` skips. Raises UserError if an id occurs
    twice.
    """
    return index_files(folder, files_below(folder), suffixes, ending)


def index_files(
    folder: Path, files: Iterable[str], suffixes: tuple[str, ...], ending: str = ""
) -> dict[str, Path]:
    """As `files_by_id`, of files that are listed already, relative to the folder."""
    found: dict[str, str] = {}
    for file in files:
        stem, suffix = os.path.splitext(file)
        if suffix.lower() not in suffixes or not stem.endswith(ending):
            continue
        id = composed(stem.removesuffix(ending))
        if id in found:
            raise UserError(
                f"{folder / found[id]} and {folder / file} have the same id {id!r}: rename one of "
                "them"
            )
        found[id] = file
    return {id: folder / file for id, file in sorted(found.items())}


def _bytes(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1
