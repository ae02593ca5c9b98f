"""Predictions as other programs read labels: each file here is a format.

It defines `files`, what it writes, and `write`, which writes it; and `check`, which is given an
image, if it is not for all of them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np

from u2pl.data.classes import is_background
from u2pl.data.outlines import Outline
from u2pl.errors import UserError, did_you_mean


class Image(NamedTuple):
    """An image whose prediction is written."""

    name: str  # of its prediction, without suffix
    file: Path  # as typed
    width: int  # in pixels
    height: int

    @property
    def relative(self) -> str:
        """Its path below the folder that was given, as labelling programs name it."""
        return Path(self.name).with_name(self.file.name).as_posix()


class Shape(NamedTuple):
    """A connected part of a class."""

    label: str  # name of the class
    number: int  # of the class among those that are written, from 0
    area: int  # pixels
    ring: np.ndarray  # int64 [V, 2], x and y of the corners, holes cut open
    rings: tuple[np.ndarray, ...]  # the same, the outer one and those of holes

    def points(self) -> list[list[int]]:
        """The corners as plain numbers."""
        found: list[list[int]] = self.ring.tolist()
        return found


class Format(Protocol):
    """What the file of a format defines."""

    #: What a person is told to open, below the folder of all predictions.
    PLACE: str

    def files(self, image: Image | None) -> Iterable[str]:
        """Paths below the folder: those of an image, or those that all images share."""

    def write(
        self,
        out: Path,
        classes: Sequence[str],
        images: Sequence[Image],
        shapes: Callable[[Image], list[Shape]],
    ) -> None:
        """Write the files.

        Args:
            out: folder of the predictions.
            classes: names of all classes, see `drawn`.
            images: all of them.
            shapes: finds those of an image; called once for each, in their order.
        """


def format_names() -> list[str]:
    """The formats: the names of the files here."""
    return [found.name for found in pkgutil.iter_modules(__path__)]


def find_format(name: str) -> Format:
    """A format by its name; UserError if there is none."""
    known = format_names()
    if name not in known:
        raise UserError(
            f"--format {name}: there is no such format{did_you_mean(name, known)}; there are "
            f"{', '.join(known)}"
        )
    return cast(Format, import_module(f"{__name__}.{name}"))


def check(formats: Iterable[str], images: Sequence[Image]) -> None:
    """UserError if one of the formats is not for all of these images."""
    for name in formats:
        accepts: Callable[[Image], None] | None = getattr(find_format(name), "check", None)
        if accepts is not None:
            for image in images:
                accepts(image)


def planned(formats: Iterable[str], images: Sequence[Image]) -> Iterator[str]:
    """The files that these formats write."""
    for name in formats:
        found = find_format(name)
        yield from found.files(None)
        for image in images:
            yield from found.files(image)


def drawn(classes: Sequence[str]) -> dict[int, str]:
    """Names of the classes that have polygons, by their ids: all but a background."""
    first = 1 if is_background(0, classes[0]) else 0
    return dict(enumerate(classes[first:], first))


def to_shapes(
    found: Iterable[Outline], classes: Sequence[str], numbers: dict[int, int]
) -> list[Shape]:
    """Parts of a mask as shapes."""
    return [
        Shape(
            classes[each.label],
            numbers[each.label],
            each.area,
            each.single_ring(),
            (each.outer, *each.holes),
        )
        for each in found
    ]
