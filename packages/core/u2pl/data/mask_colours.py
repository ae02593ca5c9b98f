"""The colours of painted masks, and the classes.txt that would name them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from u2pl.data.classes import bit_palette
from u2pl.data.ids import few
from u2pl.data.mask_checks import in_squares
from u2pl.data.mask_encoding import DISTANCE, SOLID, as_colours, codes_of, is_grey
from u2pl.data.reading import read_mask, read_mask_header
from u2pl.errors import UserError
from u2pl.notation import IGNORE

#: Masks that are looked at, evenly spread.
LOOKED_AT = 40

Colour = tuple[int, int, int]


class Found(NamedTuple):
    """A colour that fills squares of some pixels, so that it is no blend of two others."""

    colour: Colour
    share: float  # of the pixels
    masks: int
    most: str  # name of the mask that holds most of it; empty if masks are no files


def colours_in(files: Sequence[Path | bytes]) -> list[Found]:
    """The colours of painted masks, the most usual ones first; of a JPEG file only distinct ones.

    Broken masks are left out.
    """
    pixels: Counter[int] = Counter()
    masks: Counter[int] = Counter()
    most: dict[int, tuple[int, str]] = {}
    total = 0
    for file in few(files, LOOKED_AT):
        try:
            codes = codes_of(as_colours(read_mask(file)))
        except UserError:
            continue
        total += codes.size
        solid, counts = np.unique(codes[in_squares(codes, SOLID)], return_counts=True)
        pixels.update(dict(zip(solid.tolist(), counts.tolist(), strict=True)))
        masks.update(solid.tolist())
        name = file.name if isinstance(file, Path) else ""
        for code, count in zip(solid.tolist(), counts.tolist(), strict=True):
            if count > most.get(code, (0, ""))[0]:
                most[code] = count, name
    found: list[Found] = []
    for code, count in pixels.most_common():
        colour = (code >> 16, code >> 8 & 255, code & 255)
        if all(_distance(colour, other.colour) > DISTANCE for other in found):
            found.append(Found(colour, count / total, masks[code], most[code][1]))
    return found


def propose_classes(files: Sequence[Path | bytes], path: Path, names: Sequence[str] = ()) -> str:
    """A classes.txt for masks painted in colours, as a command to paste; empty if they are not.

    Without names, of masks that hold ids: which these are.

    Args:
        files: the masks.
        path: of classes.txt.
        names: of the classes, if they are known; they are matched with VOC's colours if the masks
            have no others, for no other colours are known to mean anything.
    """
    if not _painted(files):
        return "" if names else _ids_in(files, path)
    found = colours_in(files)
    colours = [each.colour for each in found]
    usual = [(int(r), int(g), int(b)) for r, g, b in bit_palette(len(names))]
    if names and set(colours) <= set(usual):
        lines = [f"{name} {r} {g} {b}" for name, (r, g, b) in zip(names, usual, strict=True)]
        how = "the masks have PASCAL VOC's colours, which go by id"
    else:
        lines = [f"class-{id} {r} {g} {b}" for id, (r, g, b) in enumerate(colours)][:IGNORE]
        how = "put the names of the classes for class-0 and so on"
    table = "\n".join(map(_in_words, found))
    said = f"the masks are painted in {len(found)} colours:\n{table}\n"
    if names and not set(colours) <= set(usual):  # which is whose, a person has to say
        first = " ".join(map(str, colours[0])) if colours else "0 0 0"
        return (
            f"{said}to have them read, write behind each name in {path} its colour, such as "
            f"`{names[0]} {first}`, and a line for each colour without a name"
        )
    content = "\n".join(lines)
    white = (
        "\nif 255 255 255 means nothing, name its class `ignored` and write "
        'ignore = ["ignored"] into meta.toml'
    )
    return (
        f"{said}"
        f"to have them read, write them into {path.name} ({how}):\n"
        f"cat > {shlex.quote(str(path))} <<'END'\n{content}\nEND"
        f"{white if (255, 255, 255) in colours and not names else ''}"
    )


def _ids_in(files: Sequence[Path | bytes], path: Path) -> str:
    """The ids that masks hold, and how many lines of classes.txt name them; empty if unclear."""
    found: set[int] = set()
    for file in few(files, LOOKED_AT):
        try:
            found.update(np.unique(read_mask(file).pixels).tolist())
        except UserError:
            continue
    ids = sorted(found - {IGNORE})
    if not ids or not 0 < ids[-1] < IGNORE:
        return ""
    listed = ", ".join(map(str, ids[:20])) + (", …" if len(ids) > 20 else "")
    ignored = f", and {IGNORE}, which is ignored" if IGNORE in found else ""
    return (
        f"the masks hold the ids {listed}{ignored}: {path.name} needs {ids[-1] + 1} lines, "
        f"line 1 for id 0 and line {ids[-1] + 1} for id {ids[-1]}"
    )


def _in_words(found: Found) -> str:
    r, g, b = found.colour
    most = f", most of it in {found.most}" if found.most else ""
    return (
        f"  {r} {g} {b}: {100 * found.share:.1f} % of the pixels, in {found.masks} of the masks "
        f"looked at{most}"
    )


def _painted(files: Sequence[Path | bytes]) -> bool:
    for file in few(files, LOOKED_AT):
        try:
            if read_mask_header(file).painted and not is_grey(as_colours(read_mask(file))):
                return True
        except UserError:
            continue
    return False


def _distance(one: Colour, other: Colour) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
