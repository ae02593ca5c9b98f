"""Sources whose masks are drawn as shapes by a labelling program."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from u2pl.counting import Counting, silently
from u2pl.data.classes import (
    ClassFile,
    class_list,
    is_background,
    read_class_file,
)
from u2pl.data.file_source import IdList
from u2pl.data.meta import BACKGROUND, IGNORED, UNLABELLED, Meta, read_meta
from u2pl.data.orientation import UPRIGHT, Size
from u2pl.data.own_photos import CLASSES, META, OwnPhotos
from u2pl.data.reading import read_facing
from u2pl.data.shapes.drawing import Drawing, paint
from u2pl.errors import UserError, did_you_mean
from u2pl.files import expanded
from u2pl.notation import IGNORE


@dataclass(frozen=True)
class Annotations:
    """What a labelling program wrote of a set of images.

    Args:
        kind: whose files these are, in words.
        root: folder of classes.txt, meta.toml, splits/ and tags.
        where: the file or folder, for errors.
        labels: names of the classes in the program's order.
        used: how many shapes have each label.
        images: files of all images by id, with and without shapes.
        drawings: what is said of each annotated image, by id.
        files: the file that says it, by id.
        empty: the annotated images in which nothing is drawn.
        empty_is: what these are, BACKGROUND or UNLABELLED, unless a person says otherwise.
        digest: of the content that the drawings follow from.
        lists: splits that the program knows.
        boxes: shapes that are boxes where the program could say more.
        left_out: kinds of shapes that have no area, and how many there are.
        class_files: what the program calls its list of classes, beside classes.txt.
        order: in which the labels are, in words, if the program has none.
    """

    kind: str
    root: Path
    where: Path
    labels: tuple[str, ...]
    used: Mapping[str, int]
    images: dict[str, Path]
    drawings: Mapping[str, Drawing]
    files: dict[str, Path]
    empty: frozenset[str]
    empty_is: str
    digest: str
    lists: dict[str, IdList] = field(default_factory=dict)
    boxes: int = 0
    left_out: Mapping[str, int] = field(default_factory=Counter)
    class_files: tuple[str, ...] = ()
    order: str = ""


class Drawn(OwnPhotos):
    """Photos on which shapes are drawn; a mask is painted when it is read.

    The classes are those of classes.txt if there is one, else `background` and the labels in the
    program's order. Pixels in no shape are of the background, if the classes have one.

    Args:
        path: of what the program wrote.
        images: folder of the images, if they are elsewhere.
        outside: as in meta.toml, which it replaces.
        empty: as in meta.toml, which it replaces.
        counting: told how far reading is.

    Raises UserError if shapes have unknown labels, or one of these files is invalid.
    """

    from_shapes = True

    def __init__(
        self,
        path: str | Path,
        images: str | None = None,
        outside: str | None = None,
        empty: str | None = None,
        counting: Counting = silently,
    ) -> None:
        annotations = self.read(expanded(path), images, counting)
        self.annotations, self.root = annotations, annotations.root
        root = annotations.root
        self.name = root.resolve().name
        listed = _classes(root, annotations)
        meta = read_meta(root / META, listed.names, listed.path.name, drawn=True)
        self.outside = _choice("outside", outside, (BACKGROUND, IGNORED)) or meta.outside
        meta = self._without_background(meta, listed)
        self.classes, moved = meta.remaining(listed.names)
        self.palette = listed.palette[[moved.index(id) for id in range(len(self.classes))]]
        self.take_facts(meta)
        ids = [IGNORE if id < 0 else id for id in moved]
        self.ids_of = _ids_of_labels(listed, ids, annotations)
        # ids[0] is that of the background, if there is one
        has = is_background(0, listed.names[0]) and self.outside != IGNORED
        self.background = ids[0] if has else IGNORE
        default = UNLABELLED if self.background == IGNORE else annotations.empty_is
        self.empty = _choice("empty", empty, (BACKGROUND, UNLABELLED)) or meta.empty or default
        self.images = annotations.images
        self.masks = {
            id: file
            for id, file in annotations.files.items()
            if self.empty == BACKGROUND or id not in annotations.empty
        }
        self.take_lists(str(annotations.where), annotations.lists)
        self.notes = tuple(self._notes(listed))

    @staticmethod
    @abstractmethod
    def read(place: Path, /, images: str | None, counting: Counting) -> Annotations:
        """Read what the program wrote, and find its images; arguments as of the class.

        Raises UserError if a file is broken, or images are not there.
        """

    def mask(self, id: str) -> np.ndarray:
        """Class ids, uint8 [H, W], 255 = ignore; a later shape lies on top of an earlier one.

        Raises UserError if there is no annotation, its image has another size than it says, or a
        shape is broken or outside of the image.
        """
        if id not in self.masks:
            super().mask(id)  # raises
        drawing, stored = self.annotations.drawings[id], self.files(id)[0]
        faced = read_facing(stored, str(self.images[id]))
        size = drawing.size or (faced.upright if self.exif == UPRIGHT else faced.size)
        if size not in (faced.size, faced.upright):
            raise UserError(
                f"{drawing.where} is of an image of {size[0]}x{size[1]}, but {self.images[id]} is "
                f"{faced.size[0]}x{faced.size[1]}: restore the image on which the shapes were drawn"
            )
        return paint(drawing, size[::-1], self.ids_of, self.background)

    def mask_size(self, id: str) -> Size | None:
        return self.annotations.drawings[id].size if id in self.masks else None

    def label_facts(self) -> tuple[object, ...]:
        facts = (self.annotations.digest, self.background, tuple(sorted(self.ids_of.items())))
        return (*(() if self.exif == UPRIGHT else (self.exif,)), *facts)

    def where_masks_lack(self, advice: str) -> str:
        empty = self.annotations.empty
        if empty and self.empty == UNLABELLED and not self.masks:
            return (
                f"{self.annotations.kind} list {len(empty)} images without shapes, which count as "
                f'unlabelled; if they show background alone write empty = "{BACKGROUND}" into '
                f"{self.root / META}, or ?empty={BACKGROUND} behind SCHEME:PATH"
            )
        return advice

    def _without_background(self, meta: Meta, listed: ClassFile) -> Meta:
        """Without the background that nobody drew or named, if pixels in no shape are ignored."""
        own = listed.path.name == CLASSES and listed.path != self.annotations.where
        written = own or listed.names[0] in self.annotations.labels
        if written or self.outside != IGNORED:
            return meta
        if len(listed.names) < 3:
            raise UserError(
                f"{listed.path} has shapes of {listed.names[1]} alone, and outside is {IGNORED}: "
                "at least 2 classes are needed"
            )
        return meta._replace(ignore=(*meta.ignore, listed.names[0]))

    def _notes(self, listed: ClassFile) -> list[str]:
        found = self.annotations
        drawn, empty = len(found.files) - len(found.empty), len(found.empty)
        bare = len(found.images) - drawn - empty
        notes = [
            f"{self.name} is read as {found.kind}: {drawn} of {len(found.images)} images have "
            f"shapes{f', {bare} have no annotation' if bare else ''}; where shapes overlap the "
            "later one is on top"
        ]
        if listed.note:
            notes.append(listed.note)
        if self.background == IGNORE:
            why = "" if self.outside else ", since no class is called background"
            notes.append(f"pixels in no shape are ignored{why}")
        else:
            notes.append(
                f"pixels in no shape are {self.classes[self.background]}, class {self.background}"
            )
        if found.order and listed.path == found.where:
            notes.append(f"the classes are the labels in {found.order}; a {CLASSES} names others")
        if empty:
            other = UNLABELLED if self.empty == BACKGROUND else BACKGROUND
            taken = "background alone" if self.empty == BACKGROUND else "unlabelled"
            notes.append(
                f"{empty} annotated images have no shapes: they are read as {taken}; "
                f'empty = "{other}" in {META}, or ?empty={other} behind SCHEME:PATH, reads them as '
                f"{other}"
            )
        alike = Counter(label.casefold() for label in found.used)
        if twins := [label for label in sorted(found.used) if alike[label.casefold()] > 1]:
            notes.append(
                f"{', '.join(twins)} differ in upper and lower case alone, and each is a class: "
                f"correct the labels, or merge them in {META}"
            )
        if found.boxes:
            notes.append(f"{found.boxes} shapes are boxes: they are filled as rectangles")
        if found.left_out:
            kinds = ", ".join(f"{kind} ({count})" for kind, count in found.left_out.items())
            notes.append(f"what has no area is left out: {kinds}")
        return notes


def _choice(name: str, value: str | None, known: tuple[str, str]) -> str:
    if value is not None and value not in known:
        choices = " or ".join(f"?{name}={each}" for each in known)
        raise UserError(f"{name}={value} is unknown: write {choices}")
    return value or ""


def _means_ignore(label: str) -> bool:
    """Whether shapes of a label are ignored, as labelme calls it; unless a class is called so."""
    return label.strip("_ ").lower() == "ignore"


def _classes(root: Path, found: Annotations) -> ClassFile:
    """classes.txt, unless it is the program's, or else the labels behind a background."""
    for name in (CLASSES, *found.class_files):
        if (root / name).is_file() and root / name != found.where:
            return read_class_file(root / name)
    labels = [label for label in found.labels if not _means_ignore(label)]
    first = next((label for label in labels if is_background(0, label)), BACKGROUND)
    return class_list(found.where, (first, *(label for label in labels if label != first)))


def _ids_of_labels(listed: ClassFile, ids: list[int], found: Annotations) -> dict[str, int]:
    """The class of each label that shapes have; UserError if there is none of its name."""
    known = dict(zip(listed.names, ids, strict=True))
    for label in found.used:
        if label in known:
            continue
        if not _means_ignore(label):
            raise UserError(
                f"{found.where} has shapes of {label!r}, which {listed.path} does not have"
                f"{did_you_mean(label, known)}: name the class there, or correct the label"
            )
        known[label] = IGNORE
    return known
