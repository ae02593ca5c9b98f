"""Photos of more than 8 bits per channel, scaled to 8."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from u2pl.errors import UserError

#: Bits that cameras and scanners use; files of 16 and 32 bits often hold fewer.
DEPTHS = (8, 10, 12, 14, 16)

# Pillow keeps the high bytes of 16-bit colours; with the other order of bytes, the low ones.
_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def depth_of(largest: int) -> int:
    """The smallest of `DEPTHS` whose values reach `largest`, at most 65535."""
    return next(depth for depth in DEPTHS if largest < 2**depth)


def to_eight_bits(values: np.ndarray, where: str) -> np.ndarray:
    """Whole numbers, scaled such that the full range of their depth is 0 to 255, as uint8.

    The depth is the file's own: `depth_of` its largest value. Raises UserError if a value is
    negative or needs more than 16 bits.
    """
    wide = values.astype(np.int64)
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high >= 2 ** DEPTHS[-1]:
        raise UserError(
            f"{where} holds values from {low} to {high}: save it with 8 or 16 bits per channel, "
            "from 0 up"
        )
    full = 2 ** depth_of(high) - 1
    return ((wide * 255 + full // 2) // full).astype(np.uint8)


def raw_mode(tiles: list[Any]) -> str:
    """How Pillow reads the pixels of an opened image, such as `RGB;16B`; empty if unknown."""
    args = tiles[0][3] if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def swapped(tiles: list[Any], mode: str) -> list[Any]:
    """The same tiles, whose 16-bit numbers are read with the other order of bytes."""
    other = mode[:-1] + _OTHER[mode[-1]]
    return [
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
        for tile in tiles
    ]
