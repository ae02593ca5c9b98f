"""What drawn shapes mean: the class of each label, and of the pixels in no shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from u2pl.data.classes import ClassFile, class_list, clear_palette, is_background
from u2pl.data.meta import BACKGROUND, IGNORED, UNLABELLED, Meta
from u2pl.data.orientation import UPRIGHT
from u2pl.data.reading import read_facing
from u2pl.data.shapes.drawing import Drawing, paint
from u2pl.errors import UserError, did_you_mean
from u2pl.notation import IGNORE


class Meaning(NamedTuple):
    """Classes, and what becomes one of them."""

    classes: tuple[str, ...]
    palette: np.ndarray  # uint8 [C, 3]
    ids_of: Mapping[str, int]  # the class of each label; 255 = ignored
    background: int  # the class of pixels in no shape; 255 = ignored
    outside: str  # what somebody said about these; else empty

    def mask(self, drawing: Drawing, photo: Path | bytes, where: str, exif: str) -> np.ndarray:
        """Class ids, uint8 [H, W], 255 = ignore; a later shape lies on top of an earlier one.

        Args:
            drawing: of the photo.
            photo: a file, or its content.
            where: the photo in errors.
            exif: how the photo lies if the drawing does not tell, `UPRIGHT` or `STORED`.

        Raises UserError if the photo cannot be read or has another size than the drawing says, or
        a shape is broken or outside of it.
        """
        faced = read_facing(photo, where)
        size = drawing.size or (faced.upright if exif == UPRIGHT else faced.size)
        if size not in (faced.size, faced.upright):
            raise UserError(
                f"{drawing.where} is of an image of {size[0]}x{size[1]}, but {where} is "
                f"{faced.size[0]}x{faced.size[1]}: restore the image on which the shapes were drawn"
            )
        return paint(drawing, size[::-1], self.ids_of, self.background)

    def of_empty(self, usual: str) -> str:
        """What images without shapes are if nobody says it: BACKGROUND or UNLABELLED.

        Args:
            usual: what they are, if there is a background.
        """
        return UNLABELLED if self.background == IGNORE else usual

    def facts(self) -> tuple[object, ...]:
        """What masks follow from besides the shapes, for fingerprints."""
        return self.background, tuple(sorted(self.ids_of.items()))

    def note_on_outside(self) -> str:
        """What pixels in no shape are."""
        if self.background == IGNORE:
            why = "" if self.outside else ", since the first class is no background"
            return f"pixels in no shape are ignored{why}"
        return f"pixels in no shape are {self.classes[self.background]}, class {self.background}"


def read_meaning(
    listed: ClassFile, written: bool, used: Collection[str], where: Path | str, meta: Meta
) -> Meaning:
    """What shapes mean by a list of classes, of which `meta` may merge and ignore some.

    A list without a background gets one as its first class if pixels in no shape are to be that.

    Args:
        listed: the classes.
        written: whether a person wrote down the first of them; else it is a background that nobody
            named, and is no class if pixels in no shape are ignored.
        used: the labels of all shapes.
        where: what has the shapes, in errors.
        meta: what is said about classes and pixels in no shape.

    Raises UserError if shapes have unknown labels, or less than 2 classes remain.
    """
    if meta.outside == IGNORED and not written:
        if len(listed.names) < 3:
            raise UserError(
                f"{listed.path} has shapes of {listed.names[1]} alone, and outside is {IGNORED}: "
                "at least 2 classes are needed"
            )
        meta = meta._replace(ignore=(*meta.ignore, listed.names[0]))
    if meta.outside == BACKGROUND and not is_background(0, listed.names[0]):
        listed = _behind_background(listed)
    classes, moved = meta.remaining(listed.names)
    ids = [IGNORE if id < 0 else id for id in moved]
    has_background = is_background(0, listed.names[0]) and meta.outside != IGNORED
    return Meaning(
        classes,
        listed.palette[[moved.index(id) for id in range(len(classes))]],
        _ids_of_labels(listed, ids, used, where),
        ids[0] if has_background else IGNORE,
        meta.outside,
    )


def classes_of_labels(where: Path, labels: Sequence[str]) -> ClassFile:
    """The labels as classes behind a background, which may be one of them.

    Args:
        where: what has the labels, in errors.
        labels: in their order; those that mean ignored pixels are no classes.

    Raises UserError as `class_list`.
    """
    labels = [label for label in labels if not _means_ignore(label)]
    first = next((label for label in labels if is_background(0, label)), BACKGROUND)
    return class_list(where, (first, *(label for label in labels if label != first)))


def _behind_background(listed: ClassFile) -> ClassFile:
    if any(is_background(0, name) for name in listed.names):
        raise UserError(
            f"outside is {BACKGROUND}, but {listed.path} begins with {listed.names[0]}: put "
            f"{BACKGROUND} first, or leave outside out"
        )
    first = clear_palette([BACKGROUND])
    return listed._replace(
        names=(BACKGROUND, *listed.names),
        palette=np.concatenate([first, listed.palette]),
        coloured=(False, *listed.coloured),
    )


def choice(name: str, value: str | None, known: tuple[str, str]) -> str:
    """The value of an option behind a path, empty if left out; UserError if it is none of two."""
    if value is not None and value not in known:
        choices = " or ".join(f"?{name}={each}" for each in known)
        raise UserError(f"{name}={value} is unknown: write {choices}")
    return value or ""


def note_on_empty(what: str, taken: str, behind: str, file: str = "") -> str:
    """What images without shapes are read as, and how to read them otherwise.

    Args:
        what: how many there are, in words.
        taken: what they are read as, BACKGROUND or UNLABELLED.
        behind: what an option stands behind.
        file: in which that can be said too, if there is one.
    """
    other = UNLABELLED if taken == BACKGROUND else BACKGROUND
    read = "background alone" if taken == BACKGROUND else "unlabelled"
    option = f"?empty={other} behind {behind}"
    ways = f'empty = "{other}" in {file}, or {option},' if file else option
    return f"{what} have no shapes: they are read as {read}; {ways} reads them as {other}"


def notes_on_case(used: Collection[str], advice: str) -> list[str]:
    """A note on labels that differ in upper and lower case alone, if there are any."""
    alike = Counter(label.casefold() for label in used)
    twins = [label for label in sorted(used) if alike[label.casefold()] > 1]
    if not twins:
        return []
    return [
        f"{', '.join(twins)} differ in upper and lower case alone, and each is a class: {advice}"
    ]


def note_on_boxes(boxes: int) -> str:
    """That some shapes could say more."""
    return f"{boxes} shapes are boxes, filled as rectangles: outlines would say more"


def _means_ignore(label: str) -> bool:
    """Whether shapes of a label are ignored, as labelme calls it; unless a class is called so."""
    return label.strip("_ ").lower() == "ignore"


def _ids_of_labels(
    listed: ClassFile, ids: list[int], used: Collection[str], where: Path | str
) -> dict[str, int]:
    """The class of each label that shapes have; UserError if there is none of its name."""
    known = dict(zip(listed.names, ids, strict=True))
    for label in used:
        if label in known:
            continue
        if not _means_ignore(label):
            raise UserError(
                f"{where} has shapes of {label!r}, which {listed.path} does not have"
                f"{did_you_mean(label, known)}: name the class there, or correct the label"
            )
        known[label] = IGNORE
    return known
