"""Sources whose masks are drawn as shapes by a labelling program."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from u2pl.counting import Counting, silently
from u2pl.data.classes import ClassFile, read_class_file
from u2pl.data.file_source import IdList
from u2pl.data.meta import BACKGROUND, IGNORED, UNLABELLED, read_meta
from u2pl.data.orientation import UPRIGHT, Size
from u2pl.data.own_photos import CLASSES, META, OwnPhotos
from u2pl.data.shapes.drawing import Drawing
from u2pl.data.shapes.meaning import (
    choice,
    classes_of_labels,
    note_on_boxes,
    note_on_empty,
    notes_on_case,
    read_meaning,
)
from u2pl.errors import UserError
from u2pl.files import expanded


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
        self.take_facts(meta)
        outside = choice("outside", outside, (BACKGROUND, IGNORED)) or meta.outside
        own = listed.path.name == CLASSES and listed.path != annotations.where
        written = own or listed.names[0] in annotations.labels
        self.meaning = read_meaning(
            listed, written, annotations.used, annotations.where, meta._replace(outside=outside)
        )
        self.classes, self.palette = self.meaning.classes, self.meaning.palette
        self.empty = (
            choice("empty", empty, (BACKGROUND, UNLABELLED))
            or meta.empty
            or self.meaning.of_empty(annotations.empty_is)
        )
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
        photo = self.files(id)[0]
        drawing = self.annotations.drawings[id]
        return self.meaning.mask(drawing, photo, str(self.images[id]), self.exif)

    def mask_size(self, id: str) -> Size | None:
        try:
            return self.annotations.drawings[id].size if id in self.masks else None
        except UserError:  # whoever needs the mask will say so
            return None

    def label_facts(self) -> tuple[object, ...]:
        facts = (self.annotations.digest, *self.meaning.facts())
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

    def _notes(self, listed: ClassFile) -> list[str]:
        found = self.annotations
        drawn, empty = len(found.files) - len(found.empty), len(found.empty)
        bare = len(found.images) - drawn - empty
        notes = [
            f"{self.name} is read as {found.kind}: {drawn} of {len(found.images)} images have "
            f"shapes{f', {bare} have no annotation' if bare else ''}; where shapes overlap the "
            "later one is on top"
        ]
        if found.boxes:
            notes.append(note_on_boxes(found.boxes))
        if listed.note:
            notes.append(listed.note)
        notes.append(self.meaning.note_on_outside())
        if found.order and listed.path == found.where:
            notes.append(f"the classes are the labels in {found.order}; a {CLASSES} names others")
        if empty:
            notes.append(
                note_on_empty(f"{empty} annotated images", self.empty, "SCHEME:PATH", META)
            )
        notes += notes_on_case(found.used, f"correct the labels, or merge them in {META}")
        if found.left_out:
            kinds = ", ".join(f"{kind} ({count})" for kind, count in found.left_out.items())
            notes.append(f"what has no area is left out: {kinds}")
        return notes


def _classes(root: Path, found: Annotations) -> ClassFile:
    """classes.txt, unless it is the program's, or else the labels behind a background."""
    for name in (CLASSES, *found.class_files):
        if (root / name).is_file() and root / name != found.where:
            return read_class_file(root / name)
    return classes_of_labels(found.where, found.labels)
