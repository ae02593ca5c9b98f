"""COCO 2017, 80 things with or without the 91 kinds of stuff; and own files in COCO's format."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np

from u2pl.counting import Counting, silently
from u2pl.data.classes import clear_palette
from u2pl.data.file_source import FileSource, IdList, files_by_id
from u2pl.data.reading import read_ids, read_size
from u2pl.data.recognition import coco_files
from u2pl.data.shapes.coco import Instances, instances
from u2pl.data.shapes.coco_files import read_files
from u2pl.data.shapes.drawing import Drawing, paint
from u2pl.data.shapes.photos import root_of
from u2pl.data.shapes.source import Annotations, Drawn
from u2pl.data.source import Source
from u2pl.errors import UserError
from u2pl.files import expanded
from u2pl.notation import IGNORE

# Numbers of categories go from 1 to 182, things first; these were never annotated.
_LEFT_OUT = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
THINGS = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog"),
    *("horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella"),
    *("handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite"),
    *("baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle"),
    *("wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich"),
    *("orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote"),
    *("keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book"),
    *("clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
STUFF = (
    *("banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage"),
    *("cardboard", "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds"),
    *("counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence"),
    *("floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog"),
    *("food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house"),
    *("leaves", "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin"),
    *("net", "paper", "pavement", "pillow", "plant-other", "plastic", "platform", "playingfield"),
    *("railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea"),
    *("shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw"),
    *("structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable"),
    *("wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile"),
    *("wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood"),
)
_CATEGORIES = [number for number in range(1, 183) if number not in _LEFT_OUT]
# category -> name, and the class of each thing behind the background
_NAMES = dict(zip(_CATEGORIES, THINGS, strict=False))
_CLASS = {name: number for number, name in enumerate(THINGS, 1)}
# a pixel of stuffthingmaps, which is its category less one -> class
_STUFF_CLASS = np.full(IGNORE + 1, IGNORE, np.uint8)
_STUFF_CLASS[np.array(_CATEGORIES) - 1] = np.arange(len(_CATEGORIES))

#: Where labels are taken from, and where they lie.
_PLACES = {"instances": "annotations", "masks": "masks", "stuff": "stuffthingmaps"}


class Coco(FileSource):
    """{train,val}2017/*.jpg, or below images/; with labels of one of three kinds:

    - `instances`: annotations/instances_{train,val}2017.json, 80 things and the background;
    - `masks`: the same classes as PNGs of class ids, masks/ID.png or in sub-folders;
    - `stuff`: COCO-Stuff's stuffthingmaps/{train,val}2017/ID.png, 171 classes without a background.

    Labels may be missing; only scoring and labelled images need them. An id is the image's number
    of twelve digits. Raises UserError if there are no images or no such labels.
    """

    def __init__(
        self, path: str | Path, labels: str = "instances", counting: Counting = silently
    ) -> None:
        self.counting = counting
        if labels not in _PLACES:
            known = " or ".join(f"?labels={name}" for name in _PLACES)
            raise UserError(f"coco labels={labels!r} are unknown: write {known}")
        root = expanded(path)
        self.classes = (*THINGS, *STUFF) if labels == "stuff" else ("background", *THINGS)
        self.name, self.protocol = "coco", f"{len(self.classes)} classes"
        self.things, self.palette = THINGS, clear_palette(self.classes)
        self.labels, self.place = labels, root / _PLACES[labels]
        self.images, self.lists = {}, {}
        self.annotations: list[Path] = []
        self._rows: dict[Path, tuple[Instances, dict[str, int]]] = {}
        for split in ("train", "val"):
            folder = _images(root, f"{split}2017")
            images = files_by_id(folder, (".jpg", ".jpeg"))
            if not images:
                raise UserError(
                    f"{folder} holds no *.jpg: unpack COCO's {split}2017.zip into {root}"
                )
            self.images |= images
            self.lists[split] = IdList(str(folder), list(images))
            file = self.place / f"instances_{split}2017.json"
            self.annotations += [file] if labels == "instances" and file.exists() else []
        files = {} if labels == "instances" else files_by_id(self.place, (".png",))
        masks = {file.stem: file for file in files.values()}
        self.masks = {id: file for id, file in masks.items() if id in self.images}

    def has_mask(self, id: str) -> bool:
        return super().has_mask(id) or self._row(id) is not None

    def mask(self, id: str) -> np.ndarray:
        """Class ids, uint8 [H, W], 255 = ignore.

        Of overlapping instances the smaller one is seen; a crowd is of the class of its members.
        Raises UserError if there is no mask or it is broken.
        """
        drawing = self._drawing(id)
        if drawing is None:
            return super().mask(id)
        size, stated = read_size(self._image_file(id)), drawing.size
        if stated not in (None, size):
            raise UserError(
                f"{drawing.where} is said to be {stated[0]}x{stated[1]}, but it is "
                f"{size[0]}x{size[1]}: restore the image as published"
            )
        return paint(drawing, size[::-1], _CLASS, 0, largest_first=True)

    def decode_mask(self, file: Path) -> np.ndarray:
        if self.labels == "masks":
            return super().decode_mask(file)
        ids = read_ids(file)
        foreign = np.unique(ids[(_STUFF_CLASS[ids] == IGNORE) & (ids != IGNORE)])
        if foreign.size:
            raise UserError(
                f"{file} holds the id {foreign[0]}, which is none of COCO-Stuff's 171 (0 to 181 "
                "with gaps; 255 = not labelled): use the maps as published"
            )
        return _STUFF_CLASS[ids]

    def fingerprint(self) -> str:
        sizes = [file.stat().st_size for file in self.annotations]
        return hashlib.sha256(repr((super().fingerprint(), sizes)).encode()).hexdigest()[:12]

    def where_masks_lack(self, advice: str) -> str:
        if self.annotations or self.masks:
            return advice
        kinds = " or ".join(f"?labels={name}" for name in _PLACES if name != self.labels)
        return f"{self.place} holds no labels of COCO; unpack them there, or write {kinds}"

    def __getstate__(self) -> dict[str, object]:
        # other processes read the annotations from where they are kept, and report nothing
        return {**self.__dict__, "counting": silently, "_rows": {}}

    def _row(self, id: str) -> tuple[Instances, int] | None:
        """The annotations that list an image, and its number in them."""
        for file in self.annotations:
            if file not in self._rows:
                found = instances(file, self.counting)
                _check_categories(found)
                rows = {PurePosixPath(name).stem: row for row, name in enumerate(found.names)}
                self._rows[file] = found, rows
            found, rows = self._rows[file]
            if id in rows:
                return found, rows[id]
        return None

    def _drawing(self, id: str) -> Drawing | None:
        listed = self._row(id)
        return None if listed is None else listed[0].drawing(listed[1])


class CocoFiles(Drawn):
    """Own annotations in COCO's format; later objects lie on top of earlier ones.

    Polygons and runs, and boxes of objects that have neither. The classes are the categories in the
    order of their numbers, behind a background; val and test are files or folders of these names.
    """

    @staticmethod
    def read(place: Path, images: str | None, counting: Counting) -> Annotations:
        """Read a file, or all of a folder."""
        if place.is_file():
            return read_files(root_of(place), [place], images, counting)
        files = coco_files(place)
        if not files:
            raise UserError(f"{place} holds no annotations in COCO's format: write coco:FILE")
        return read_files(place, files, images, counting)


def open_scheme(
    path: str | Path,
    labels: str | None = None,
    images: str | None = None,
    outside: str | None = None,
    empty: str | None = None,
    counting: Counting = silently,
) -> Source:
    """COCO 2017 if a folder is laid out so, else the files of annotations that a path names.

    Raises UserError if there is neither.
    """
    place = expanded(path)
    if not place.is_file() and not (images or outside or empty):
        own = not labels and coco_files(place)
        if not own or _images(place, "train2017").is_dir():
            return Coco(place, labels or "instances", counting)
    if labels:
        raise UserError(f"{place}: labels={labels} is about COCO 2017: leave it out")
    return CocoFiles(place, images, outside, empty, counting)


def _check_categories(found: Instances) -> None:
    """UserError if a file calls its categories otherwise than COCO does."""
    other = next((c for c, name in found.categories.items() if _NAMES.get(c) != name), None)
    if other is not None:
        raise UserError(
            f"{found.file} calls category {other} {found.categories[other]!r}, which COCO calls "
            f"{_NAMES.get(other)!r}: write coco:{found.file} to read annotations of your own"
        )


def _images(root: Path, name: str) -> Path:
    below = root / "images" / name
    return below if below.is_dir() else root / name
