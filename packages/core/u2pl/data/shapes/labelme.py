"""labelme: a JSON file for each image, which names the image relative to itself."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from u2pl.counting import Counting
from u2pl.data.ids import IMAGE_SUFFIXES
from u2pl.data.meta import BACKGROUND
from u2pl.data.orientation import Size
from u2pl.data.shapes.drawing import Drawing, Picture, Polygons, Shape, ellipse, rectangle
from u2pl.data.shapes.fields import entries, fields, points, shown, whole, word
from u2pl.data.shapes.photos import Photos
from u2pl.data.shapes.source import Annotations
from u2pl.data.walking import files_below
from u2pl.errors import UserError
from u2pl.files import expanded, parse_json

#: Shapes that have no area.
LINES = ("line", "linestrip", "point", "points")


class Page(NamedTuple):
    """What a file says."""

    image: str  # path of the image, relative to the file; empty if it says none
    drawing: Drawing
    left_out: tuple[str, ...]  # kinds of its shapes that have no area
    digest: str  # hex digits over what is drawn
    embedded: bool  # whether it holds the image itself


def read_page(file: Path) -> Page | None:
    """Read a file; None if it is JSON of something else.

    Raises:
        UserError: It is no JSON, or a field of labelme's is wrong.
    """
    found = _parsed(file)
    if not isinstance(found, dict) or "shapes" not in found:
        return None
    where, shapes, left_out = str(file), [], []
    for number, entry in enumerate(entries(found["shapes"], f"{where}: shapes")):
        place = f"shapes[{number}]"
        each = fields(entry, f"{where}: {place}")
        kind = each.get("shape_type") or "polygon"
        if kind in LINES:
            left_out.append(kind)
            continue
        label = word(each.get("label"), f"{where}: {place}.label")
        shapes.append(Shape(label, _region(each, kind, f"{where}: {place}"), place))
    image = found.get("imagePath") or ""
    if image:
        image = word(image, f"{where}: imagePath")
    size = _size(found, where)
    said = repr((size, found["shapes"])).encode()
    return Page(
        image,
        Drawing(where, size, tuple(shapes)),
        tuple(left_out),
        hashlib.sha256(said).hexdigest(),
        bool(found.get("imageData")),
    )


def embedded_image(file: Path) -> bytes:
    """The image that a file holds; UserError if it holds none."""
    found = _parsed(file)
    data = found.get("imageData") if isinstance(found, dict) else None
    try:
        return base64.b64decode(data or "")
    except (TypeError, ValueError):
        raise UserError(f"{file}: imageData is no base64 text: put the image beside it") from None


def read_folder(root: Path, images: str | None, counting: Counting) -> Annotations:
    """Read the files below a folder, and find their images.

    Args:
        root: the folder.
        images: another folder that the images are in, if they are not below it.
        counting: told how far it is.

    Raises:
        UserError: A file is broken or its image is not there, or there are no files of labelme's.
    """
    below = files_below(root)
    files = [name for name in below if name.lower().endswith(".json")]
    pages: dict[str, Page] = {}
    broken: list[str] = []
    with counting(f"reading {len(files)} JSON files of {root.name}") as progress:
        for done, name in enumerate(files, 1):
            try:
                page = read_page(root / name)
            except UserError as error:
                broken.append(str(error))
                continue
            if page is not None:
                pages[name] = page
            progress(done, len(files))
    if broken:
        more = f" (and {len(broken) - 1} more of these files are broken)" if broken[1:] else ""
        raise UserError(broken[0] + more)
    if not pages:
        raise UserError(
            f"{root} holds no JSON files of labelme: give the folder in which it saved them"
        )
    photos = _photos(root, below, images)
    found = photos.images | {}
    drawings: dict[str, Drawing] = {}
    said: dict[str, Path] = {}
    for name, page in pages.items():
        id = _image_of(root, name, page, photos, images is not None)
        if id is None:  # the image is in the file
            id = name.removesuffix(PurePosixPath(name).suffix)
            found[id] = root / name
        if id in said:
            raise UserError(
                f"{root / name} and {said[id]} are of the same image {id!r}: keep one of the two"
            )
        drawings[id], said[id] = page.drawing, root / name
    used = Counter(shape.label for page in pages.values() for shape in page.drawing.shapes)
    return Annotations(
        kind="labelme's JSON files",
        root=root,
        where=root,
        labels=tuple(sorted(used)),
        used=used,
        images=dict(sorted(found.items())),
        drawings=drawings,
        files=said,
        empty=frozenset(id for id, drawing in drawings.items() if not drawing.shapes),
        empty_is=BACKGROUND,
        digest=hashlib.sha256(repr([page.digest for page in pages.values()]).encode()).hexdigest(),
        left_out=Counter(kind for page in pages.values() for kind in page.left_out),
        class_files=("labels.txt",),
        order="alphabetical order",
    )


def _parsed(file: Path) -> Any:
    try:
        return parse_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): restore the file") from None
    except ValueError as error:
        raise UserError(
            f"{file} cannot be read as JSON ({error}): save it anew with labelme, as UTF-8"
        ) from None


def _size(found: dict[str, Any], where: str) -> Size | None:
    if found.get("imageWidth") is None and found.get("imageHeight") is None:
        return None
    width, height = (
        whole(found.get(key), f"{where}: {key}", 1) for key in ("imageWidth", "imageHeight")
    )
    return width, height


def _region(shape: dict[str, Any], kind: str, where: str) -> Polygons | Picture:
    ring = points(entries(shape.get("points"), f"{where}.points"), f"{where}.points")
    if kind == "polygon":
        return Polygons((ring,))
    if kind == "rectangle" and len(ring) == 2:
        return Polygons((rectangle((*ring[0], *ring[1])),))
    if kind in ("rectangle", "oriented_rectangle") and len(ring) == 4:
        return Polygons((ring,))
    if kind == "circle" and len(ring) == 2:
        radius = float(np.hypot(*(ring[1] - ring[0])))
        return Polygons((ellipse((ring[0, 0], ring[0, 1]), (radius, radius)),))
    if kind == "mask" and len(ring) == 2:
        left, top = (round(value) for value in ring.min(0).tolist())
        return Picture(left, top, _content(shape.get("mask"), f"{where}.mask"))
    if kind in ("rectangle", "circle", "mask"):
        raise UserError(f"{where}.points has {len(ring)} points, and a {kind} needs 2")
    raise UserError(
        f"{where}.shape_type is {shown(kind)}: it must be polygon, rectangle, circle or mask"
    )


def _content(mask: object, where: str) -> bytes:
    try:
        return base64.b64decode(word(mask, where), validate=True)
    except (binascii.Error, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} is no base64 text: save it anew with labelme") from None


def _photos(root: Path, below: list[str], images: str | None) -> Photos:
    if images is not None:
        return Photos(expanded(images))
    pictures = [name for name in below if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    if pictures and all(name.startswith("images/") for name in pictures):
        return Photos(root / "images")
    return Photos(root, pictures)


def _image_of(root: Path, name: str, page: Page, photos: Photos, elsewhere: bool) -> str | None:
    """The id of the image that a file is of; None if the file itself holds it.

    It is where the file says, or else beside the file, under the name that it says or its own.
    """
    said = page.image.replace("\\", "/")
    here = PurePosixPath(name).parent
    if said and (id := photos.at((root / name).parent / said)) is not None:
        return id
    names = (PurePosixPath(said).name, PurePosixPath(name).stem)
    for place in (str(here / each) for each in names if each):
        id = photos.find(place) if elsewhere else photos.at(root / place)
        if id is not None:
            return id
    if page.embedded:
        return None
    raise UserError(
        f"{page.drawing.where}: imagePath is {page.image!r}, and there is no such image in "
        f"{photos.base}: put it beside the file, or write 'labelme:{root}?images=FOLDER' to say "
        "where the images are"
    )
