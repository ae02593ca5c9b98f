"""Any source, written as a folder of photos and masks that is read again as it was understood."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from u2pl.counting import Counting
from u2pl.data.channels import as_photo
from u2pl.data.classes import class_lines, palette_image
from u2pl.data.file_source import FileSource
from u2pl.data.orientation import STORED
from u2pl.data.own_photos import CLASSES, META
from u2pl.data.reading import read_format
from u2pl.data.source import Source
from u2pl.data.sources.folder import Folder
from u2pl.data.tags.tags import read_tags, write_tags
from u2pl.errors import DiskError, UserError
from u2pl.files import cache_folder, make_folder, new_folder

# Pillow's name of a format -> how its files are called; what is not here is called .png.
_SUFFIXES = {
    **{"JPEG": ".jpg", "MPO": ".jpg", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif"},
    **{"GIF": ".gif", "JPEG2000": ".jp2", "AVIF": ".avif", "PPM": ".ppm"},
}


class Converted(NamedTuple):
    """What was written."""

    images: int
    links: int  # images of them that are links
    masks: int
    notes: tuple[str, ...]  # what the folder cannot say as the source does


def convert(source: Source, folder: Path, copy: bool, counting: Counting) -> Converted:
    """Write a source as images/, masks/ of class ids, classes.txt, splits/ and what else it has.

    It is written beside and gets its name at the end, so nothing half-written is ever there.

    Args:
        source: to be written.
        folder: that is made.
        copy: whether images are copied, instead of linked to. What lies in the cache folder, or in
            no file, is always copied.
        counting: told how far it is.

    Raises:
        UserError: The folder is there, or an image, a mask or a list of the source is broken.
        DiskError: It cannot be written.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists: choose another folder, or move it away")
    lists, notes = _lists(source)
    ids = sorted(source.ids())
    make_folder(folder.absolute().parent)
    try:
        with new_folder(folder.absolute()) as part:
            _write_facts(source, lists, part)
            with counting(f"writing {folder.name}") as progress:
                links = masks = 0
                for done, id in enumerate(ids, 1):
                    links += _write_image(source, id, part / "images", copy)
                    masks += _write_mask(source, id, part / "masks")
                    progress(done, len(ids))
            _check(source, lists, part, folder)
    except OSError as error:
        raise DiskError(
            f"cannot write {folder}: {error.strerror or error}; free some space or choose another "
            "folder"
        ) from error
    return Converted(len(ids), links, masks, notes)


def _lists(source: Source) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """The ids of each split by its name in the folder, and what is called otherwise there."""
    bare = [
        name
        for name in source.splits()
        if isinstance(source, FileSource) and not source.lists[name].lines
    ]
    lists = {name: source.split(name) for name in source.splits() if name not in bare}
    if source.train_split == "train":
        return lists, ()
    # a folder trains on `train`, and draws labelled images from what is masked there
    drawn = [id for id in source.split(source.label_pool) if source.has_mask(id)]
    notes = (
        f"train is the list {source.train_split} of {source.name}, what training may see; "
        f"labeled is {source.label_pool}, from which it draws labelled images",
    )
    return {**lists, "train": source.split(source.train_split), "labeled": drawn}, notes


def _write_facts(source: Source, lists: Mapping[str, Sequence[str]], folder: Path) -> None:
    (folder / "splits").mkdir()
    (folder / CLASSES).write_text(class_lines(source.classes, source.palette), encoding="utf-8")
    for name, ids in lists.items():
        text = "".join(f"{id}\n" for id in ids)
        (folder / "splits" / f"{name}.txt").write_text(text, encoding="utf-8")
    if facts := _meta(source):
        (folder / META).write_text(facts, encoding="utf-8")
    if source.tags is not None:
        write_tags(folder / "tags.csv", read_tags(source.tags, source), source.classes)


def _meta(source: Source) -> str:
    """The content of meta.toml; empty if its defaults hold."""
    facts = {
        "things": list(source.things) or None,
        "void_top": source.void_rows[0] or None,
        "void_bottom": source.void_rows[1] or None,
        "exif": source.exif if source.exif == STORED else None,
    }
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
        for key, value in facts.items()
        if value is not None
    )


def _write_image(source: Source, id: str, folder: Path, copy: bool) -> bool:
    """Whether it is a link."""
    files = source.files(id)
    image = None if files is None else files[0]
    if isinstance(image, Path):
        suffix = image.suffix
    else:
        suffix = ".png" if image is None else _SUFFIXES.get(read_format(image, id), ".png")
    target = folder / f"{id}{suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if image is None:
        Image.fromarray(as_photo(np.asarray(source.image(id)))).save(target)
    elif isinstance(image, bytes):
        target.write_bytes(image)
    elif copy or _is_temporary(image) or not _linked(target, image):
        shutil.copyfile(image, target)
    return target.is_symlink()


def _write_mask(source: Source, id: str, folder: Path) -> bool:
    """Whether there is one."""
    if not source.has_mask(id):
        return False
    target = folder / f"{id}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    palette_image(source.mask(id), source.palette).save(target)
    return True


def _is_temporary(image: Path) -> bool:
    """Whether an image was unpacked into the cache folder, which a person may empty."""
    cache = cache_folder()
    return cache is not None and image.absolute().is_relative_to(cache.absolute())


def _linked(target: Path, image: Path) -> bool:
    try:
        target.symlink_to(image.resolve())
    except OSError:  # no links here
        return False
    return True


def _check(source: Source, lists: Mapping[str, Sequence[str]], part: Path, folder: Path) -> None:
    """UserError if the folder is not read as the source, whose names may be none in files."""
    try:
        found = Folder(part)
        same = {
            "classes": found.classes == tuple(source.classes),
            "images": set(found.ids()) == set(source.ids()),
            "masks": set(found.masks) == {id for id in source.ids() if source.has_mask(id)},
            "lists": {name: found.split(name) for name in lists} == lists,
        }
    except UserError as error:
        reason = str(error).replace(str(part), str(folder))
        raise UserError(f"{source.name} cannot be written as a folder: {reason}") from None
    wrong = [name for name, equal in same.items() if not equal]
    if wrong:
        raise UserError(
            f"{source.name} cannot be written as a folder, where its {' and '.join(wrong)} would "
            "be read otherwise: rename what has blanks at its ends or is called as masks are"
        )
