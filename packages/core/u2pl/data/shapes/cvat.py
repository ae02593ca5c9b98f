"""CVAT for images 1.1: one XML file for all images, each shape an element.

Read element by element, so that a large file takes no more memory than its shapes. It may declare
no document type, since only there can it define entities, whose expansion is unbounded.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

import numpy as np

from u2pl.counting import Counting
from u2pl.data.orientation import Size
from u2pl.data.shapes.drawing import Drawing, Polygons, Runs, Shape, ellipse, rectangle
from u2pl.data.shapes.fields import number, points, whole, word
from u2pl.errors import UserError

#: Elements in elements that are possible: CVAT's own need six.
DEPTH = 32
#: Shapes that have no area, and what is none.
LINES = ("polyline", "points", "cuboid", "skeleton", "tag")
# Types of labels whose shapes have no area.
_NO_AREA = frozenset(LINES)
_BLOCK = 2**20


class Photo(NamedTuple):
    """An image of the file."""

    name: str  # as written
    subset: str  # of a project; empty if there is none
    drawing: Drawing


class Task(NamedTuple):
    """What a file says."""

    labels: tuple[str, ...]
    photos: tuple[Photo, ...]
    left_out: Counter[str]  # kinds of shapes that have no area
    boxes: int
    digest: str


def read_task(file: Path, counting: Counting) -> Task:
    """Read a file.

    Args:
        file: annotations.xml.
        counting: told how far it is, in megabytes.

    Raises:
        UserError: It is no such file, or a field is wrong.
    """
    reader = _Reader(file)
    digest = hashlib.sha256()
    try:
        total = file.stat().st_size
        with file.open("rb") as opened, counting(f"reading {file.name}, in MB") as progress:
            while block := opened.read(_BLOCK):
                digest.update(block)
                reader.parser.Parse(block, False)
                progress(opened.tell() / 1e6, -(-total // 1_000_000))
            reader.parser.Parse(b"", True)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): restore the file") from None
    except (expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} cannot be read as XML ({error}): export it anew") from None
    if not reader.photos:
        raise UserError(
            f"{file} names no image: export the task from CVAT as 'CVAT for images 1.1'"
        )
    return Task(
        reader.labels(),
        tuple(reader.photos),
        reader.left_out,
        reader.boxes,
        digest.hexdigest(),
    )


class _Label(NamedTuple):
    name: str
    kind: str
    within: bool  # part of a skeleton


class _Reader:
    """Follows the elements of a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.photos: list[Photo] = []
        self.left_out: Counter[str] = Counter()
        self.boxes = 0
        self._place: list[str] = []
        self._text = ""
        self._listed: list[_Label] = []
        self._label: dict[str, str] = {}
        self._image: tuple[str, str, Size | None, str] | None = None
        self._shapes: list[tuple[int, Shape]] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._refuse

    def labels(self) -> tuple[str, ...]:
        """The labels whose shapes have an area, in the file's order; those of shapes if none."""
        known = {each.name for each in self._listed}
        used = dict.fromkeys(shape.label for photo in self.photos for shape in photo.drawing.shapes)
        lacking = next((label for label in used if known and label not in known), None)
        if lacking is not None:
            raise UserError(
                f"{self.file} has shapes of {lacking!r}, which is none of its labels: correct the "
                "label, or add it to those in meta"
            )
        plain = (each.name for each in self._listed if not each.within)
        areas = {each.name for each in self._listed if each.kind not in _NO_AREA} | set(used)
        return tuple(dict.fromkeys(name for name in (*plain, *used) if name in areas or not known))

    def _refuse(self, *_: object) -> None:
        raise UserError(
            f"{self.file} declares a document type, which CVAT does not: remove the line <!DOCTYPE "
            "...>"
        )

    def _start(self, tag: str, given: dict[str, str]) -> None:
        self._place.append(tag)
        place = self._place
        if len(place) > DEPTH:
            raise UserError(f"{self.file} is nested too deep: export it anew")
        if len(place) == 1 and tag != "annotations":
            raise UserError(
                f"{self.file} begins with <{tag}>, and CVAT's files with <annotations>: export the "
                "task from CVAT as 'CVAT for images 1.1'"
            )
        if len(place) == 2 and tag == "track":
            raise UserError(
                f"{self.file} holds tracks of a video: export the task as 'CVAT for images 1.1'"
            )
        self._text = ""
        if place[1:] == ["image"]:
            self._begin_image(given)
        elif place[1:2] == ["image"] and len(place) == 3:
            self._add_shape(tag, given)
        elif tag == "label" and place[1] == "meta":
            self._label = {}

    def _end(self, tag: str) -> None:
        place = self._place
        if place[1:2] == ["meta"] and place[-2] == "label":
            self._label[tag] = self._text.strip()
        elif tag == "label" and place[1:2] == ["meta"]:
            name = word(self._label.get("name"), f"{self._here()}: the name of a label")
            kind, within = self._label.get("type", ""), bool(self._label.get("parent"))
            self._listed.append(_Label(name, kind, within))
        elif place[1:] == ["image"] and self._image is not None:
            name, subset, size, where = self._image
            # equal heights keep their order
            shapes = [shape for _, shape in sorted(self._shapes, key=lambda each: each[0])]
            self.photos.append(Photo(name, subset, Drawing(where, size, tuple(shapes))))
        place.pop()

    def _characters(self, text: str) -> None:
        if len(self._text) < 10_000:  # no name is longer
            self._text += text

    def _here(self) -> str:
        return f"{self.file}, line {self.parser.CurrentLineNumber}"

    def _begin_image(self, given: Mapping[str, str]) -> None:
        where = self._here()
        name = word(given.get("name"), f"{where}: the name of an image")
        size = None
        if "width" in given or "height" in given:
            size = (_whole(given, "width", where, 1), _whole(given, "height", where, 1))
        self._shapes = []
        self._image = name, given.get("subset", ""), size, f"{self.file}: image {name}"

    def _add_shape(self, tag: str, given: Mapping[str, str]) -> None:
        if tag in LINES:
            self.left_out[tag] += 1
            return
        line = f"line {self.parser.CurrentLineNumber}"
        where = f"{self.file}, {line}: {tag}"
        if tag not in _REGIONS:
            raise UserError(f"{where} is no shape of CVAT's: export the task anew")
        label = word(given.get("label"), f"{where}.label")
        region = _REGIONS[tag](given, where)
        self.boxes += tag == "box"
        height = _whole({"z_order": "0", **given}, "z_order", where, None)
        self._shapes.append((height, Shape(label, region, f"{tag} in {line}")))


def _polygon(given: Mapping[str, str], where: str) -> Polygons:
    corners = word(given.get("points"), f"{where}.points").replace(";", ",").split(",")
    return Polygons((points(corners, f"{where}.points"),))


def _box(given: Mapping[str, str], where: str) -> Polygons:
    x0, y0, x1, y1, turn = _numbers(given, ("xtl", "ytl", "xbr", "ybr"), where)
    return Polygons((rectangle((x0, y0, x1, y1), turn),))


def _ellipse(given: Mapping[str, str], where: str) -> Polygons:
    x, y, across, along, turn = _numbers(given, ("cx", "cy", "rx", "ry"), where)
    return Polygons((ellipse((x, y), (across, along), turn),))


def _mask(given: Mapping[str, str], where: str) -> Runs:
    left, top, width, height = (
        _whole(given, key, where, 0) for key in ("left", "top", "width", "height")
    )
    text = word(given.get("rle"), f"{where}.rle")
    try:
        counts = np.array(text.split(","), np.int64)
    except (ValueError, OverflowError):
        raise UserError(f"{where}.rle must be lengths of runs, such as 3, 4, 5") from None
    return Runs(counts, (left, top, width, height), False)


_REGIONS: dict[str, Callable[[Mapping[str, str], str], Polygons | Runs]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}


def _numbers(given: Mapping[str, str], keys: tuple[str, ...], where: str) -> list[float]:
    """Some attributes, and the angle."""
    given = {"rotation": "0", **given}
    return [number(given.get(key), f"{where}.{key}") for key in (*keys, "rotation")]


def _whole(given: Mapping[str, str], key: str, where: str, least: int | None) -> int:
    value = number(given.get(key), f"{where}: {key}")
    floor = -(2**31) if least is None else least
    return whole(value if abs(value) < 2**53 else given[key], f"{where}: {key}", floor)
