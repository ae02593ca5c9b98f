"""Signs that masks are not what they seem: white objects that are ignored, ids nobody drew."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from u2pl.data.source import Source
from u2pl.errors import UserError
from u2pl.notation import IGNORE

# An id of which less than this share lies in squares of 3x3 pixels is a thin line; two of them in
# one mask come from blending, as lossy compression and smooth resizing do it. Of the masks of VOC
# and CamVid none has two; after JPEG of any quality more than half have.
_THIN, _MANY = 0.2, 2


def in_squares(values: np.ndarray, side: int) -> np.ndarray:
    """Which pixels [H, W] are in a square of this side that holds one value: bool [H, W]."""
    height, width = values.shape
    inside = np.zeros((height, width), np.bool_)
    rows, columns = height - side + 1, width - side + 1
    if rows < 1 or columns < 1:
        return inside
    across = np.ones((height, columns), np.bool_)
    for x in range(1, side):
        across &= values[:, x : columns + x] == values[:, :columns]
    same = across[:rows].copy()
    for y in range(1, side):
        same &= across[y : rows + y] & (values[y : rows + y, :columns] == values[:rows, :columns])
    for y in range(side):
        for x in range(side):
            inside[y : rows + y, x : columns + x] |= same
    return inside


def thin_ids(ids: np.ndarray) -> frozenset[int]:
    """The ids of a mask, uint8 [H, W], that lie in thin lines alone."""
    total = np.bincount(ids.ravel(), minlength=IGNORE + 1)[:IGNORE]
    solid = np.bincount(ids[in_squares(ids, 3)], minlength=IGNORE + 1)[:IGNORE]
    return frozenset(np.flatnonzero(solid < _THIN * total).tolist())


def is_blended(ids: np.ndarray) -> bool:
    """Whether a mask, uint8 [H, W], holds ids that nobody drew, in thin lines between others."""
    return len(thin_ids(ids)) >= _MANY


def black_and_white(source: Source, ids: Iterable[str]) -> str:
    """What to do about masks that hold nothing but 0 and 255, in one line; empty if others do.

    Stops decoding at the first mask with another id. Broken masks are left to those who need them.
    """
    seen = np.zeros(IGNORE + 1, np.int64)
    for id in ids:
        try:
            seen += np.bincount(source.mask(id).ravel(), minlength=IGNORE + 1)
        except UserError:
            continue
        if seen[1:IGNORE].any():
            return ""
    return only_black_and_white(source) if seen[0] and seen[IGNORE] else ""


def only_black_and_white(source: Source) -> str:
    """The line on masks of 0 and 255 alone."""
    return (
        f"the masks of {source.name} hold only 0 and 255, and 255 means ignore: "
        f"{source.white_advice}"
    )
