"""COCO's instances: one JSON file for many images, each object with polygons or runs of pixels.

COCO's own file of its training images has 450 MB, so a file is taken apart once, and what each
image has is kept in the cache folder (`u2pl.cache`) if the file is large.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from u2pl.counting import Counting, OnProgress, silently
from u2pl.data.orientation import Size
from u2pl.data.shapes.drawing import Drawing, Polygons, Runs, Shape, rectangle
from u2pl.data.shapes.fields import entries, fields, points, shown, whole, word
from u2pl.data.shapes.filling import uncompressed
from u2pl.errors import UserError

#: Bytes of the smallest file of which the parts are kept.
KEPT = 20_000_000
# Increase whenever the same file is taken apart otherwise.
_FORMAT = 2
# Objects between two reports of progress.
_OFTEN = 5000


class Instances(NamedTuple):
    """What a file says.

    Of each image `[size, [[number, category, segmentation], ...]]`, as JSON; these texts lie one
    behind the other, so that processes can share them.
    """

    file: Path
    digest: str  # 24 hex digits over the content
    names: tuple[str, ...]  # of the images' files, as written
    categories: Mapping[int, str]
    parents: frozenset[str]  # names of supercategories
    used: Mapping[int, int]  # category -> objects
    boxes: int  # objects that are nothing but a box
    objects: np.ndarray  # int64, objects of each image
    text: np.ndarray  # uint8, all texts
    ends: np.ndarray  # int64, where each of them ends

    def drawing(self, row: int) -> Drawing:
        """The objects of an image in the order of the file.

        Args:
            row: number of the image in `names`.

        Raises:
            UserError: The segmentation of an object is broken.
        """
        text = self.text[self.ends[row - 1] if row else 0 : self.ends[row]]
        stated, objects = json.loads(text.tobytes())
        where = f"{self.file}: image {self.names[row]}"
        size = None if stated is None else (stated[1], stated[0])
        shapes = []
        for number, category, segmentation in objects:
            place = f"annotation {shown(number)}"
            region = region_of(segmentation, f"{where}: {place}: segmentation")
            shapes.append(Shape(self.categories[category], region, place))
        return drawing_of(where, size, shapes)


def drawing_of(where: str, size: Size | None, shapes: Sequence[Shape]) -> Drawing:
    """The drawing that some objects make, of the size that their runs have if none is stated.

    Raises UserError if runs are of an image of another size.
    """
    for shape in shapes:
        if isinstance(shape.region, Runs):
            width, height = shape.region.box[2:]
            if size not in (None, (width, height)):
                raise UserError(
                    f"{where}: {shape.place} has runs of an image of {width}x{height}, but the "
                    f"image is {size[0]}x{size[1]}: correct its segmentation"
                )
            size = width, height
    return Drawing(where, size, tuple(shapes))


def region_of(segmentation: Any, where: str) -> Polygons | Runs:
    """The region of an object.

    Args:
        segmentation: polygons `[x, y, x, y, ...]` or `[[x, y], [x, y], ...]`, or a single one; or
            `{"size": [H, W], "counts": runs}`, with runs as a list or compressed to a text; or
            `{"bbox": [x, y, w, h]}`.
        where: the object's segmentation, in errors.

    Raises:
        UserError: It is nothing of the kind.
    """
    if isinstance(segmentation, list):
        if _is_ring(segmentation):
            segmentation = [segmentation]  # as some programs write a single polygon
        return Polygons(tuple(points(ring, f"{where}[{i}]") for i, ring in enumerate(segmentation)))
    found = fields(segmentation, where)
    if "bbox" in found:
        return box_of(found["bbox"], f"{where}: bbox")
    size = found.get("size")
    if not isinstance(size, list) or len(size) != 2:
        raise UserError(f"{where}.size is {shown(size)}: it must be height and width")
    height, width = (whole(side, f"{where}.size") for side in size)
    return Runs(_counts(found.get("counts"), f"{where}.counts"), (0, 0, width, height), True)


def box_of(box: object, where: str) -> Polygons:
    """The region of a box `[x, y, w, h]`, called `where` in errors; UserError if it is none."""
    if len(entries(box, where)) != 4:
        raise UserError(f"{where} is {shown(box)}: it must be x, y, width and height")
    (x, y), (width, height) = points(box, where)
    if min(width, height) < 0:
        raise UserError(
            f"{where} has the size {width:g}x{height:g}: it must be x, y, width and height"
        )
    return Polygons((rectangle((x, y, x + width, y + height)),))


def _is_ring(found: list[Any]) -> bool:
    """Whether a list holds the corners of one polygon, in turn or as pairs, and not polygons."""
    pairs = len(found) > 2 and all(
        isinstance(each, list) and len(each) == 2 and not isinstance(each[0], list)
        for each in found
    )
    return pairs or (bool(found) and not isinstance(found[0], list))


def _counts(counts: object, where: str) -> np.ndarray:
    try:
        if isinstance(counts, bytes):  # as COCO's own program makes them
            counts = counts.decode("latin-1")
        lengths = uncompressed(counts) if isinstance(counts, str) else entries(counts, where)
        found = np.asarray(lengths)
        if found.dtype.kind != "i" and len(lengths):
            raise ValueError("they are no whole numbers")
        return found.astype(np.int64)
    except (ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} are no lengths of runs ({error}): correct them") from None


_recent: dict[tuple[Path, int, int], Instances] = {}


def instances(file: Path, counting: Counting = silently) -> Instances:
    """Take a file apart, or find what was kept of it.

    Args:
        file: such as instances_train2017.json.
        counting: told how far it is.

    Raises:
        UserError: It is missing or broken.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): restore the file") from None
    version = (file, stat.st_size, stat.st_mtime_ns)
    if version not in _recent:
        found = _instances(file, (stat.st_size, stat.st_mtime_ns), counting)
        while len(_recent) > 3:
            del _recent[next(iter(_recent))]
        _recent[version] = found
    return _recent[version]


def _instances(file: Path, version: tuple[int, int], counting: Counting) -> Instances:
    if version[0] < KEPT:
        facts, text, ends = _taken_apart(file, counting)
        return _of_facts(file, facts, text, ends)
    import torch

    from u2pl.cache import load_cached, store_cached

    key = hashlib.sha256(repr((_FORMAT, file.name, version)).encode()).hexdigest()[:24]
    kept = load_cached("coco-instances", key)
    if kept is None or kept.keys() != {"facts", "text", "ends"}:
        facts, text, ends = _taken_apart(file, counting)
        kept = {
            "facts": torch.from_numpy(_bytes(json.dumps(facts).encode())),
            "text": torch.from_numpy(text),
            "ends": torch.from_numpy(ends),
        }
        store_cached("coco-instances", key, kept)
    facts = json.loads(kept["facts"].numpy().tobytes())
    return _of_facts(file, facts, kept["text"].numpy(), kept["ends"].numpy())


def _of_facts(file: Path, facts: dict[str, Any], text: np.ndarray, ends: np.ndarray) -> Instances:
    categories, used = (
        {int(key): value for key, value in facts[name].items()} for name in ("categories", "used")
    )
    return Instances(
        file,
        facts["digest"],
        tuple(facts["names"]),
        categories,
        frozenset(facts["parents"]),
        used,
        facts["boxes"],
        np.array(facts["objects"], np.int64),
        text,
        ends,
    )


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(content), np.uint8)


class _Image(NamedTuple):
    id: int
    name: str
    size: str  # "[height,width]" or "null"


class _Object(NamedTuple):
    image: int
    category: int
    boxed: bool  # nothing but a box
    text: bytes  # JSON of [number, category, segmentation]


class _Broken(NamedTuple):
    reason: str  # begins with the name of the field


def _compact(found: dict[str, Any]) -> Any:
    """An image or an object in short: as dicts of lists, all of them take several GB."""
    try:
        if {"image_id", "category_id"} <= found.keys():
            image, category = (whole(found[key], key) for key in ("image_id", "category_id"))
            if not found.keys() & {"segmentation", "bbox"}:
                return _Broken("segmentation is missing, and so is bbox: export COCO's instances")
            segmentation = found.get("segmentation", [])
            boxed = segmentation in ([], None) and bool(found.get("bbox"))
            content = [
                found.get("id"),
                category,
                {"bbox": found["bbox"]} if boxed else segmentation,
            ]
            text = json.dumps(content, separators=(",", ":")).encode()
            return _Object(image, category, boxed, text)
        if {"id", "file_name"} <= found.keys():
            size = "null"
            if found.get("height") is not None or found.get("width") is not None:
                sides = [whole(found.get(key), key, 1) for key in ("height", "width")]
                size = f"[{sides[0]},{sides[1]}]"
            return _Image(whole(found["id"], "id"), word(found["file_name"], "file_name"), size)
    except UserError as error:
        return _Broken(str(error))
    return found


def _taken_apart(file: Path, counting: Counting) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The facts of a file, the texts of its images, and where each of them ends."""
    with counting(f"reading {file.name}") as progress:
        content, digest = _parsed(file, progress)
    images: list[_Image] = _all_of(_Image, "images", content, file)
    objects: list[_Object] = _all_of(_Object, "annotations", content, file)
    categories, parents = _categories(content, file)
    rows: dict[int, int] = {}
    for row, image in enumerate(images):
        if image.id in rows:
            raise UserError(
                f"{file}: images[{row}].id is {image.id}, which images[{rows[image.id]}] has too: "
                "give each image its own"
            )
        rows[image.id] = row
    of_image: dict[int, list[bytes]] = defaultdict(list)
    for number, each in enumerate(objects):
        for key, value, known in (
            ("image_id", each.image, rows),
            ("category_id", each.category, categories),
        ):
            if value not in known:
                raise UserError(
                    f"{file}: annotations[{number}].{key} is {value}, and there is no such "
                    f"{key.removesuffix('_id')}"
                )
        of_image[each.image].append(each.text)
    texts = [b"[%s,[%s]]" % (each.size.encode(), b",".join(of_image[each.id])) for each in images]
    facts = {
        "digest": digest,
        "names": [image.name for image in images],
        "categories": categories,
        "parents": sorted(parents),
        "used": Counter(each.category for each in objects),
        "boxes": sum(each.boxed for each in objects),
        "objects": [len(of_image[image.id]) for image in images],
    }
    ends = np.array([len(text) for text in texts], np.int64).cumsum()
    return facts, _bytes(b"".join(texts)), ends


def _parsed(file: Path, progress: OnProgress) -> tuple[dict[str, Any], str]:
    """What the file says, with images and objects in short, and a digest of its content."""
    try:
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:24]
        text = content.decode(json.detect_encoding(content))
        del content
        found = json.loads(text, object_hook=_Counted(progress, text.count('"image_id"')))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): restore the file") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{file} cannot be read as JSON ({reason}): write it anew") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(found, dict) or not all(isinstance(found.get(key), list) for key in lists):
        raise UserError(
            f"{file} does not hold COCO's instances, which are the lists images, annotations and "
            "categories: export it as COCO instances"
        )
    if not found["images"]:
        raise UserError(f"{file}: images is empty: export it with at least one image")
    return found, digest


class _Counted:
    """`_compact`, which counts objects for somebody who waits."""

    def __init__(self, progress: OnProgress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, found: dict[str, Any]) -> Any:
        if "image_id" in found:
            self.done += 1
            if self.done % _OFTEN == 0:
                self.progress(self.done, self.total)
        return _compact(found)


def _all_of(kind: Callable[..., Any], key: str, content: dict[str, Any], file: Path) -> list[Any]:
    for number, each in enumerate(content[key]):
        if type(each) is kind:
            continue
        if isinstance(each, _Broken):
            raise UserError(f"{file}: {key}[{number}].{each.reason}")
        wanted = ("id", "file_name") if kind is _Image else ("image_id", "category_id")
        lacking = [name for name in wanted if not isinstance(each, dict) or name not in each]
        raise UserError(
            f"{file}: {key}[{number}] has no {' and no '.join(lacking or wanted)}: export it as "
            "COCO instances"
        )
    found: list[Any] = content[key]
    return found


def _categories(content: dict[str, Any], file: Path) -> tuple[dict[int, str], set[str]]:
    categories: dict[int, str] = {}
    parents = set()
    for place, each in enumerate(content["categories"]):
        where = f"{file}: categories[{place}]"
        found = fields(each, where)
        number = whole(found.get("id"), f"{where}.id")
        if number in categories:
            raise UserError(f"{where}.id is {number}, which another category has: number it anew")
        categories[number] = word(found.get("name"), f"{where}.name")
        parent = found.get("supercategory")
        parents |= {parent} if isinstance(parent, str) else set()
    return categories, parents


def class_names(found: Sequence[Instances]) -> tuple[str, ...]:
    """The classes of some files, in the order of the categories' numbers.

    A category that no object has and that others are grouped under, as Roboflow writes it, is none.
    """
    names: dict[str, None] = {}
    for file in found:
        for number in sorted(file.categories):
            name = file.categories[number]
            if file.used.get(number) or name not in file.parents:
                names.setdefault(name)
    return tuple(names)
