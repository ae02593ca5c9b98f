"""Names and display colours of the classes."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from u2pl.data.ids import read_lines
from u2pl.errors import UserError, one_line
from u2pl.notation import IGNORE

#: Colour of pixels that belong to no class.
IGNORE_COLOUR = (224, 224, 216)
#: Characters of a class's name, which stands in tables, pages and cards.
LONGEST_NAME = 200


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


def with_ignored(palette: np.ndarray) -> np.ndarray:
    """The colours of the classes, uint8 [C, 3], then `IGNORE_COLOUR`: uint8 [256, 3]."""
    full = np.full((IGNORE + 1, 3), IGNORE_COLOUR, dtype=np.uint8)
    full[: len(palette)] = palette
    return full


def palette_image(ids: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Class ids [H, W], 255 = ignore, as an indexed image with the colours of the classes."""
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(with_ignored(palette).tobytes())
    return image


def is_background(id: int, name: str) -> bool:
    """Whether a class is what no other class is, by its id and name."""
    return id == 0 and name.strip("_ ").lower() in ("background", "nothing", "none", "void")


class ClassFile(NamedTuple):
    """The classes that a file names."""

    path: Path
    names: tuple[str, ...]  # by id
    palette: np.ndarray  # display colours, uint8 [C, 3]
    coloured: tuple[bool, ...]  # which of the colours the file gives
    note: str = ""  # what was read otherwise than a person may expect


def read_classes(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and palette, uint8 [C, 3], of a file; as `read_class_file`."""
    found = read_class_file(path)
    return found.names, found.palette


def read_class_file(path: Path) -> ClassFile:
    """Read classes.txt, whose line k is class k, with a colour or without.

    As `name`, `name r g b`, `name,r,g,b` or `name #rrggbb`.
    A first line `__ignore__`, as labelme writes it, is no class. Raises UserError if the file is
    missing, has a blank line, a repeated name, a control character or a colour out of range, or
    does not hold 2 to 255 classes.
    """
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: write it, one class name per line, line 1 = id 0 (optionally "
            "'name r g b')"
        )
    lines = read_lines(path, keep_blank=True)
    skipped = int(bool(lines) and lines[0] == "__ignore__")
    note = (
        f"{path.name} begins with __ignore__, as labelme writes it: line 2 is id 0"
        if skipped
        else ""
    )
    named = []
    for number, line in enumerate(lines[skipped:], 1 + skipped):
        if not line:
            raise UserError(
                f"{path}, line {number} is blank: line k names class k, so no line may be left out"
            )
        named.append(_Line(f"line {number}", *_name_and_colour(line)))
    return _class_file(path, named, note)


def class_lines(names: Sequence[str], palette: np.ndarray) -> str:
    """The content of a classes.txt; without the colour where the name would be read otherwise."""
    lines = []
    for name, colour in zip(names, palette.tolist(), strict=True):
        line = f"{name} {' '.join(map(str, colour))}"
        lines.append(line if _name_and_colour(line) == (name, colour) else name)
    return "".join(f"{line}\n" for line in lines)


def read_labelmap(path: Path) -> ClassFile:
    """Read the labelmap.txt of CVAT, whose lines are `name:r,g,b:parts:actions`, in order of id.

    Blank lines and those that begin with # are skipped. Raises UserError as `read_class_file`, and
    if a line is written in another way.
    """
    named = []
    for number, line in enumerate(read_lines(path, keep_blank=True), 1):
        if not line or line.startswith("#"):
            continue
        name, *rest = line.split(":")
        colour = re.findall(r"\d+", rest[0]) if rest else []
        written = bool(rest) and re.fullmatch(r"(\d+ *, *\d+ *, *\d+)?", rest[0].strip())
        if not name.strip() or not written:
            raise UserError(
                f"{path}, line {number} is {line!r}: write 'name:r,g,b::', as CVAT does, or a "
                "classes.txt instead of this file"
            )
        named.append(_Line(f"line {number}", name.strip(), list(map(int, colour)) or None))
    return _class_file(path, named)


def read_pixel_values(path: Path) -> ClassFile:
    """Read the _classes.csv of Roboflow: a heading, then a pixel value and a class in each line.

    Raises UserError as `read_class_file`, and if the values are not 0, 1, 2 and so on.
    """
    named: list[_Line] = []
    for number, line in enumerate(read_lines(path)[1:]):
        value, _, name = (part.strip() for part in line.partition(","))
        if value != str(number) or not name:
            raise UserError(
                f"{path}: {line!r} is in the place of class {number}: write '{number}, NAME', as "
                "Roboflow does, or a classes.txt instead of this file"
            )
        named.append(_Line(f"class {number}", name, None))
    return _class_file(path, named)


class _Line(NamedTuple):
    place: str  # where its file says it
    name: str
    colour: list[int] | None


def class_list(where: Path, names: Sequence[str]) -> ClassFile:
    """Classes that something else than a list of classes names; UserError as `read_class_file`."""
    return _class_file(
        where, [_Line(f"label {place}", name, None) for place, name in enumerate(names, 1)]
    )


def _class_file(path: Path, named: list[_Line], note: str = "") -> ClassFile:
    if not 2 <= len(named) <= IGNORE:
        raise UserError(
            f"{path} names {len(named)} classes: 2 to {IGNORE} are possible, including background "
            "(the first is id 0)"
        )
    names = tuple(line.name for line in named)
    palette = clear_palette(names)
    for id, line in enumerate(named):
        if line.colour is not None:
            if max(line.colour) > 255:
                raise UserError(
                    f"{path}, {line.place}: colour {line.colour} must be three numbers from "
                    "0 to 255"
                )
            palette[id] = line.colour
        if not line.name:
            raise UserError(f"{path}, {line.place} has a blank name: give every class one")
        if len(line.name) > LONGEST_NAME:
            raise UserError(
                f"{path}, {line.place}: a class's name has at most {LONGEST_NAME} "
                f"characters, not {len(line.name)}"
            )
        if one_line(line.name) != line.name:
            raise UserError(
                f"{path}, {line.place} holds a control character: {line.name!r}: remove it"
            )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            f"{path} names {', '.join(repeated)} more than once: give every class its own name"
        )
    return ClassFile(path, names, palette, tuple(line.colour is not None for line in named), note)


def _name_and_colour(line: str) -> tuple[str, list[int] | None]:
    # with any of blank, tab, comma and semicolon between the name and the numbers
    numbers = re.fullmatch(r"(.*\S)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)", line)
    hexadecimal = re.fullmatch(r"(.*\S)[\s,;]+#([0-9a-fA-F]{6})", line)
    if numbers is not None:
        name, colour = numbers[1], [int(number) for number in numbers.groups()[1:]]
    elif hexadecimal is not None:
        name, colour = hexadecimal[1], list(bytes.fromhex(hexadecimal[2]))
    else:
        return line.replace("\t", " "), None
    return " ".join(name.rstrip(" ,;").split()), colour
