"""What a labelling program says of an image: shapes that have classes, one on top of the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from u2pl.data.orientation import Size
from u2pl.data.reading import read_mask
from u2pl.data.shapes.filling import Patch, polygon_patch, runs_in_order
from u2pl.errors import UserError

#: Corners of what stands for a circle: less than 1 pixel in 5000 of it differs.
ROUND = 360


class Polygons(NamedTuple):
    """The union of some polygons."""

    rings: tuple[np.ndarray, ...]  # float64 [N, 2], x and y of corners

    def patches(self, size: tuple[int, int]) -> Iterator[Patch]:
        """The pixels of each polygon; ValueError if it is none, or is beside the image."""
        for ring in self.rings:
            if len(ring) < 3:
                raise ValueError(f"a polygon needs 3 corners, not {len(ring)}")
            patch = polygon_patch(ring, size)
            low, high = ring.min(0), ring.max(0)
            if (high < 0).any() or (low > size[::-1]).any():
                raise ValueError(
                    f"it lies outside of the image of {size[1]}x{size[0]}, from x={low[0]:g}, "
                    f"y={low[1]:g} to x={high[0]:g}, y={high[1]:g}"
                )
            yield patch


class Shares(NamedTuple):
    """As `Polygons`, with corners in shares of the image's width and height."""

    rings: tuple[np.ndarray, ...]

    def patches(self, size: tuple[int, int]) -> Iterator[Patch]:
        """As those of `Polygons`."""
        return Polygons(tuple(ring * size[::-1] for ring in self.rings)).patches(size)


class Runs(NamedTuple):
    """Runs of pixels, in turn outside and inside of the shape, in a rectangle of the image."""

    counts: np.ndarray  # int64
    box: tuple[int, int, int, int]  # left, top, width, height
    down: bool  # along the columns, else along the rows

    def patches(self, size: tuple[int, int]) -> Iterator[Patch]:
        """The pixels; ValueError if the runs do not fill the rectangle, or leave the image."""
        left, top, width, height = self.box
        _check_within(left, top, width, height, size)
        flat = runs_in_order(self.counts, width * height)
        inside = flat.reshape(width, height).T if self.down else flat.reshape(height, width)
        yield Patch(top, left, inside)


class Picture(NamedTuple):
    """A picture of the shape, not 0 where it is, at a place of the image."""

    left: int
    top: int
    content: bytes  # of an image file

    def patches(self, size: tuple[int, int]) -> Iterator[Patch]:
        """The pixels; ValueError if the picture cannot be read, or leaves the image."""
        try:
            pixels = read_mask(self.content, "its mask").pixels
        except UserError as error:
            raise ValueError(str(error)) from None
        height, width = pixels.shape[:2]
        _check_within(self.left, self.top, width, height, size)
        inside = (pixels if pixels.ndim == 2 else pixels.max(-1)) > 0
        yield Patch(self.top, self.left, inside)


class Shape(NamedTuple):
    """An object, or a part of one."""

    label: str
    region: Polygons | Shares | Runs | Picture
    place: str  # where its file says it, such as "shapes[3]"


class Drawing(NamedTuple):
    """All shapes of an image, in the order in which they are painted."""

    where: str  # the file, and the image if the file has several
    size: Size | None  # width and height of the image as the program says it
    shapes: tuple[Shape, ...]


def rectangle(corners: tuple[float, float, float, float], degrees: float = 0) -> np.ndarray:
    """The ring of a rectangle from x0, y0 to x1, y1, turned around its middle: float64 [4, 2]."""
    x0, y0, x1, y1 = corners
    return _turned(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64), degrees)


def ellipse(
    middle: tuple[float, float], radii: tuple[float, float], degrees: float = 0
) -> np.ndarray:
    """The ring of an ellipse, turned around its middle: float64 [ROUND, 2]."""
    angle = np.arange(ROUND) * (2 * np.pi / ROUND)
    return _turned(np.stack([np.cos(angle), np.sin(angle)], 1) * radii + middle, degrees)


def _turned(ring: np.ndarray, degrees: float) -> np.ndarray:
    if not degrees:
        return ring
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    middle = (ring.min(0) + ring.max(0)) / 2
    return (ring - middle) @ np.array([(cosine, sine), (-sine, cosine)]) + middle


def paint(
    drawing: Drawing,
    size: tuple[int, int],
    ids: Mapping[str, int],
    outside: int,
    largest_first: bool = False,
) -> np.ndarray:
    """Classes of an image's pixels, uint8 [H, W]; a later shape lies on top of an earlier one.

    Args:
        drawing: of the image.
        size: (H, W) of the image.
        ids: class of each label.
        outside: class where no shape is.
        largest_first: paint in the order of the shapes' pixels instead, so that small ones stay
            visible on what they lie on.

    Raises:
        UserError: A shape is broken, or outside of the image.
    """
    mask = np.full(size, outside, np.uint8)
    shapes = drawing.shapes
    if largest_first:
        pixels = [_pixels(_patches(shape, drawing, size), size) for shape in shapes]
        shapes = tuple(shapes[i] for i in np.argsort([-each for each in pixels], kind="stable"))
    for shape in shapes:
        for patch in _patches(shape, drawing, size):
            patch.paint(mask, ids[shape.label])
    return mask


def _patches(shape: Shape, drawing: Drawing, size: tuple[int, int]) -> Iterator[Patch]:
    try:
        yield from shape.region.patches(size)
    except ValueError as error:
        raise UserError(
            f"{drawing.where}: {shape.place} ({shape.label}): {error}: correct it, or take it out"
        ) from None


def _pixels(patches: Iterator[Patch], size: tuple[int, int]) -> int:
    inside = np.zeros(size, bool)  # the parts of an object may overlap
    for patch in patches:
        patch.paint(inside, True)
    return int(inside.sum())


def _check_within(left: int, top: int, width: int, height: int, size: tuple[int, int]) -> None:
    right, bottom = left + width, top + height
    if min(left, top) < 0 or min(width, height) < 1 or right > size[1] or bottom > size[0]:
        raise ValueError(
            f"its mask of {width}x{height} pixels at x={left:g}, y={top:g} leaves the image of "
            f"{size[1]}x{size[0]}"
        )
