"""Pixels of polygons and runs: a pixel is in a polygon if its centre is.

Pixel (i, j) covers x from j to j + 1 and y from i to i + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

#: Crossings of edges and rows that a polygon may have: far more than anybody draws.
MOST = 50_000_000
#: Crossings that are looked at together.
_AT_ONCE = 2_000_000
#: Corners beyond this are no pixels of any image; below it, differences are exact enough.
_FARTHEST = 1e9


class Patch(NamedTuple):
    """Pixels in a rectangle of an image."""

    top: int
    left: int
    inside: np.ndarray  # bool [h, w]

    def paint(self, ids_HW: np.ndarray, label: int) -> None:
        """Give the pixels inside a class."""
        height, width = self.inside.shape
        rows, columns = slice(self.top, self.top + height), slice(self.left, self.left + width)
        ids_HW[rows, columns][self.inside] = label


def polygon_patch(points_N2: np.ndarray, size: tuple[int, int]) -> Patch:
    """Pixels whose centre lies in a polygon, by the even-odd rule.

        crossings = [x where an edge crosses the line y = i + 0.5]
        inside[i, j] = sum(x <= j + 0.5 for x in crossings) % 2 == 1

    COCO's own reader does so too, after rounding the corners to a fifth of a pixel.

    Args:
        points_N2: float x and y of the corners.
        size: (H, W); what lies outside is cut off.

    Raises:
        ValueError: A number is not finite or far from any image, or the edges cross rows more often
            than `MOST`.
    """
    if not np.isfinite(points_N2).all():
        raise ValueError("a corner is not finite")
    if not len(points_N2):
        return Patch(0, 0, np.zeros((0, 0), bool))
    if np.abs(points_N2).max() > _FARTHEST:
        raise ValueError("a corner is far from any image")
    (x, y), (next_x, next_y) = points_N2.T, np.roll(points_N2, -1, axis=0).T
    # the rows whose centre an edge crosses: one end of it is part of it, the other is not
    first, last = (
        np.ceil(end(y, next_y) - 0.5).clip(0, size[0]).astype(np.int64)
        for end in (np.minimum, np.maximum)
    )
    rows = last - first
    crossed = np.flatnonzero(rows)
    if not len(crossed):
        return Patch(0, 0, np.zeros((0, 0), bool))
    if rows.sum() > MOST:
        raise ValueError(f"its {len(x)} corners cross the rows more than {MOST} times")
    top, bottom = int(first[crossed].min()), int(last[crossed].max())
    left, right = (int(np.ceil(end - 0.5).clip(0, size[1])) for end in (x.min(), x.max()))
    turns = np.zeros((bottom - top, right - left + 1), np.uint8)  # modulo 256, which keeps parity
    for some in _shares(crossed, rows):
        edge = np.repeat(some, rows[some])
        row = np.arange(len(edge)) + (first[some] - np.cumsum(rows[some]) + rows[some]).repeat(
            rows[some]
        )
        crossing = x[edge] + (row + 0.5 - y[edge]) * ((next_x - x)[edge] / (next_y - y)[edge])
        column = np.ceil(crossing - 0.5).clip(left, right).astype(np.int64)
        np.add.at(turns, (row - top, column - left), 1)
    # in the last column no crossing is open any more
    return Patch(top, left, np.bitwise_xor.accumulate(turns & 1, axis=1)[:, :-1].astype(bool))


def _shares(edges: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The edges in shares of about `_AT_ONCE` crossings; an edge crosses each row once."""
    before = np.cumsum(rows[edges]) // _AT_ONCE
    yield from np.split(edges, np.flatnonzero(np.diff(before)) + 1)


def fill_polygon(points_N2: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As `polygon_patch`, of the whole image: bool [H, W]."""
    inside = np.zeros(size, bool)
    polygon_patch(points_N2, size).paint(inside, True)
    return inside


def fill_runs(counts: Sequence[int] | np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels in every second run, bool [H, W]; runs go down the columns, the first is outside.

    Raises ValueError if they are not of the image's number of pixels.
    """
    return runs_in_order(counts, size[0] * size[1]).reshape(size[1], size[0]).T


def runs_in_order(counts: Sequence[int] | np.ndarray, pixels: int) -> np.ndarray:
    """Whether each of so many pixels is in a run, bool [pixels]; the first run is outside.

    Raises ValueError if the runs are of another number of pixels.
    """
    lengths = np.asarray(counts)
    wrong = lengths.dtype.kind != "i" or lengths.ndim != 1 or (lengths < 0).any()
    # not the sum of all first, which may overflow
    if wrong or (lengths > pixels).any() or lengths.sum() != pixels:
        raise ValueError("runs of another number of pixels")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def uncompressed(text: str) -> list[int]:
    """Lengths of runs from COCO's compressed form.

    Each number takes some characters of five bits, the low ones first, a sixth bit says that more
    follow, and the last of its bits is the sign. From the fourth number on, it is the difference to
    the one before the previous. Raises ValueError if the text ends within a number.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("runs that end too early")
    return counts
