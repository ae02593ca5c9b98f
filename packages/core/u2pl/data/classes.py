"""Names and display colours of the classes."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from u2pl.data.ids import read_lines
from u2pl.errors import UserError, one_line
from u2pl.notation import IGNORE


def listed(names: Sequence[str]) -> str:
    """Names of classes in words: all of them, or of more than twelve the first ten."""
    few = names if len(names) <= 12 else names[:10]
    return ", ".join(few) + (f" and {len(names) - 10} more" if few is not names else "")


def bit_palette(count: int) -> np.ndarray:
    """PASCAL VOC's colour map of ids 0 to count - 1, uint8 [count, 3].

    Bits 0, 1, 2 of the id are the highest bits of r, g, b; bits 3, 4, 5 the next ones, and so on.
    """
    ids = np.arange(count)
    palette = np.zeros((count, 3), np.uint8)
    for triple in range(8):
        for channel in range(3):
            palette[:, channel] |= ((ids >> (3 * triple + channel) & 1) << (7 - triple)).astype(
                np.uint8
            )
    return palette


def clear_palette(names: Sequence[str]) -> np.ndarray:
    """Colours that differ from each other and are seen on any photo, uint8 [C, 3].

    Saturated hues a golden angle apart, light and dark in turn; a background is nearly black.

    Args:
        names: of the classes.
    """
    palette = np.zeros((len(names), 3), np.uint8)
    for id, name in enumerate(names):
        hue, value = (0.02 + 0.618034 * id) % 1, (1.0, 0.78, 0.9)[id % 3]
        colour = colorsys.hsv_to_rgb(hue, (0.85, 1.0, 0.65)[id % 3], value)
        palette[id] = (32, 34, 40) if is_background(id, name) else [round(255 * v) for v in colour]
    return palette


def is_background(id: int, name: str) -> bool:
    """Whether a class is what no other class is, by its id and name."""
    return id == 0 and name.strip("_ ").lower() in ("background", "nothing", "none", "void")


def read_classes(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Read classes.txt, whose line k is class k, as `name` or `name r g b`.

    Returns the names and the palette, uint8 [C, 3]. Raises UserError if the file is missing, has a
    blank line, a repeated name, a control character or a colour out of range, or does not hold 2 to
    255 classes.
    """
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: write it, one class name per line, line 1 = id 0 (optionally "
            "'name r g b')"
        )
    lines = read_lines(path, keep_blank=True)
    if not 2 <= len(lines) <= IGNORE:
        raise UserError(
            f"{path} names {len(lines)} classes: 2 to {IGNORE} are possible, including background "
            "(line 1 = id 0)"
        )
    named = [_name_and_colour(line) for line in lines]
    palette = clear_palette([name for name, _ in named])
    names = []
    for number, (name, colour) in enumerate(named):
        if not name:
            raise UserError(
                f"{path}, line {number + 1} is blank: line k names class k, so no line may be left "
                "out"
            )
        if colour is not None:
            if max(colour) > 255:
                raise UserError(
                    f"{path}, line {number + 1}: colour {colour} must be three numbers from 0 to "
                    "255"
                )
            palette[number] = colour
        names.append(name)
        if one_line(name) != name:
            raise UserError(
                f"{path}, line {number + 1} holds a control character: {name!r}: remove it"
            )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            f"{path} names {', '.join(repeated)} more than once: give every class its own name"
        )
    return tuple(names), palette


def _name_and_colour(line: str) -> tuple[str, list[int] | None]:
    words = line.split()
    if len(words) >= 4 and all(word.isdecimal() for word in words[-3:]):
        return " ".join(words[:-3]), [int(word) for word in words[-3:]]
    return line.replace("\t", " "), None
