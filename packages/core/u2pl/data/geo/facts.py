"""What a folder of rasters says about itself in meta.toml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from u2pl.data.classes import ClassFile, is_background
from u2pl.data.meta import Meta, read_meta
from u2pl.errors import UserError, did_you_mean
from u2pl.files import parse_toml

#: What pixels in no polygon are.
BACKGROUND, IGNORED = "background", "ignored"
#: Side of a tile in pixels.
TILE, SMALLEST = 512, 16
#: Bands that a network takes in: more than any satellite has but those of hyperspectral cameras.
MOST_BANDS = 64

#: Keys that folders of photos do not have, and those that both have.
OWN = ("tile", "bands", "nodata", "class_field", "outside")
_SHARED = ("things", "merge", "ignore", "reduce_zero_label")


class GeoFacts(NamedTuple):
    """What is known about rasters and their labels."""

    meta: Meta
    tile: int = TILE
    bands: tuple[int, ...] | None = None  # from 1, a channel each; None: as photos
    nodata: float | None = None  # None: as the files say
    class_field: str = "class"
    outside: str = BACKGROUND


def read_facts(
    path: Path, listed: ClassFile, tile: str | None = None, bands: str | None = None
) -> GeoFacts:
    """Read meta.toml, whose every line is optional.

    Args:
        path: of the file.
        listed: the classes.
        tile: side of a tile, instead of what the file says.
        bands: such as `4,3,2`, instead of what the file says.

    Raises UserError if the file is not valid TOML, or a value makes no sense.
    """
    meta = read_meta(path, listed.names, listed.path.name, others=OWN)
    found = _own(path)
    default = BACKGROUND if is_background(0, listed.names[0]) else IGNORED
    outside = found.get("outside", default)
    if outside not in (BACKGROUND, IGNORED):
        raise UserError(
            f'{path}: outside is {outside!r}: write outside = "{BACKGROUND}" or outside = '
            f'"{IGNORED}"'
        )
    field = found.get("class_field", "class")
    if not isinstance(field, str) or not field:
        raise UserError(f"{path}: class_field is {field!r}: write the name of an attribute")
    nodata = found.get("nodata")
    if nodata is not None and (isinstance(nodata, bool) or not isinstance(nodata, (int, float))):
        raise UserError(f"{path}: nodata is {nodata!r}: write a number")
    return GeoFacts(
        meta,
        _tile(found.get("tile", TILE), f"{path}: tile") if tile is None else _typed_tile(tile),
        _bands(found.get("bands"), f"{path}: bands") if bands is None else _typed_bands(bands),
        float(nodata) if nodata is not None and math.isfinite(nodata) else None,  # nan is always
        field,
        outside,
    )


def _own(path: Path) -> Mapping[str, object]:
    """The content, of which `read_meta` has read what folders of photos have too."""
    if not path.exists():
        return {}
    found = parse_toml(path.read_text(encoding="utf-8-sig"))
    known = (*OWN, *_SHARED)
    for key in sorted(found.keys() - set(known)):
        raise UserError(
            f"{path}: {key} is not for rasters{did_you_mean(key, known)}: it may hold "
            f"{', '.join(known[:-1])} and {known[-1]}"
        )
    return found


def _typed_tile(text: str) -> int:
    return _tile(_whole(text), "tile")


def _typed_bands(text: str) -> tuple[int, ...]:
    found = _bands([_whole(part.strip()) for part in text.split(",")], "bands")
    assert found is not None
    return found


def _whole(text: str) -> int | str:
    """A whole number, or the text; Python refuses numbers of thousands of digits."""
    return int(text) if text.isdecimal() and len(text) < 9 else text


def _tile(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not SMALLEST <= value <= 2**14:
        raise UserError(
            f"{what} is {value!r}: write the side of a tile in pixels, from {SMALLEST} to {2**14}"
        )
    return value


def _bands(value: object, what: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    whole = [each for each in numbers if isinstance(each, int) and not isinstance(each, bool)]
    if len(whole) != len(numbers) or not 1 <= len(whole) <= MOST_BANDS or min(whole) < 1:
        raise UserError(
            f"{what} is {value!r}: write the numbers of at most {MOST_BANDS} bands, from 1, such "
            "as 4,3,2: each becomes a channel of the network's input"
        )
    return tuple(whole)
