"""How a mask file stands for classes: by ids, by colours, or as 0 and anything else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from u2pl.data.mask_checks import in_squares, is_blended, thin_ids
from u2pl.data.meta import BINARY, COLOURS, IDS
from u2pl.data.reading import DrawnMask, check_range, ids_of, read_mask
from u2pl.errors import UserError
from u2pl.notation import IGNORE

#: How far, in RGB, a pixel may be from the colour of its class.
DISTANCE = 24
#: Share of a mask's pixels that may have no class's colour; these are ignored.
UNKNOWN = 0.2
#: Side of a square of one unknown colour: blends at borders form none, objects do.
SOLID = 4
#: Side of the squares that a class fills in a mask whose colours are blended; what is thinner is
#: ignored there, for it may be a border.
THICK = 3
#: From where on a lossy mask of 0 and 255 shows class 1.
HALF = 128

Colours = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Encoding:
    """What turns a mask file into class ids.

    Args:
        classes: how many the masks tell apart.
        kind: IDS, COLOURS or BINARY.
        colours: of the classes, or empty.
        from_one: 0 is ignored, and 1 is the first class.
        moved: for each class in the masks its id after merging and ignoring, -1 = ignored; empty if
            nothing moves.
    """

    classes: int
    kind: str = IDS
    colours: Colours = ()
    from_one: bool = False
    moved: tuple[int, ...] = ()

    def decode(self, file: Path | bytes, where: str = "") -> np.ndarray:
        """Class ids, uint8 [H, W], 255 = ignore, of a mask file (or its bytes).

        Raises UserError if it cannot be read, or holds what stands for no class.
        """
        name = where or str(file)
        mask = read_mask(file, where)
        if self.kind == COLOURS:
            ids = self._by_colour(mask, name)
        elif self.kind == BINARY:
            ids = _binary(mask)
        else:
            ids = self._as_stored(mask, name)
        if not self.moved:
            return ids
        table = np.full(IGNORE + 1, IGNORE, np.uint8)
        table[: len(self.moved)] = [IGNORE if id < 0 else id for id in self.moved]
        return table[ids]

    def facts(self) -> tuple[object, ...]:
        """What the labels follow from beyond the files; empty if ids are read as stored."""
        found: list[object] = [] if self.kind == IDS else [self.kind]
        if self.kind == COLOURS:
            found.append(self.colours)
        if self.from_one:
            found.append("reduce_zero_label")
        if self.moved:
            found.append(self.moved)
        return tuple(found)

    def _as_stored(self, mask: DrawnMask, name: str) -> np.ndarray:
        if mask.pixels.ndim == 3 and is_grey(mask.pixels):
            mask = mask._replace(pixels=mask.pixels[..., 0])
        ids = ids_of(mask, name, _paint_advice(self.colours))
        if self.from_one:
            return self._check_shifted(np.where(ids == IGNORE, ids, ids - np.uint8(1)), name)
        largest = int(np.where(ids == IGNORE, 0, ids).max())
        if largest < self.classes:
            return ids
        advice = "name these classes in classes.txt or change the ids to 255"
        if is_blended(ids) or largest in thin_ids(ids):
            advice = (
                "some lie in thin lines alone, as after lossy compression or smooth resizing, "
                "which make ids that nobody drew; go back to the original mask"
            )
        elif largest == self.classes:
            advice += (
                "; if 1 is the first class and 0 is ignored, write reduce_zero_label = true into "
                "meta.toml"
            )
        return check_range(ids, self.classes, name, advice)

    def _check_shifted(self, ids: np.ndarray, name: str) -> np.ndarray:
        """Ids that were one more in the mask, of which 0 has wrapped around to 255."""
        above = ids[(ids >= self.classes) & (ids != IGNORE)]
        if above.size:
            raise UserError(
                f"{name} holds ids up to {int(above.max()) + 1}, but there are {self.classes} "
                f"classes (1 to {self.classes}, for meta.toml says reduce_zero_label): name these "
                "classes in classes.txt or change the ids to 255"
            )
        return ids

    def _by_colour(self, mask: DrawnMask, name: str) -> np.ndarray:
        rgb = as_colours(mask)
        codes = codes_of(rgb)
        ids = _table(self.colours)[codes]
        if not (ids == IGNORE).any():
            return ids
        if not mask.lossy and is_grey(rgb) and rgb.max() < self.classes:
            raise UserError(
                f"{name} holds numbers below {self.classes}, as if they were class ids, but the "
                'colours of masks are read: if they are ids write masks = "ids" into meta.toml'
            )
        ids = _nearest(codes, self.colours)[codes]
        self._check_known(ids == IGNORE, codes, name)
        # A blend of two colours can be that of a third class.
        ids[~in_squares(ids, THICK)] = IGNORE
        return ids

    def _check_known(self, foreign: np.ndarray, codes: np.ndarray, name: str) -> None:
        """UserError if pixels of no class's colour are more than blended borders."""
        if not foreign.any():
            return
        solid = foreign & in_squares(codes, SOLID)
        share = float(foreign.mean())
        if not solid.any() and share <= UNKNOWN:
            return
        colours, counts = np.unique(codes[solid if solid.any() else foreign], return_counts=True)
        common = int(colours[counts.argmax()])
        r, g, b = common >> 16, common >> 8 & 255, common & 255
        raise UserError(
            f"{name}: {100 * share:.1f} % of the pixels have the colour of no class, most of them "
            f"{r} {g} {b}: name it in classes.txt as 'NAME {r} {g} {b}', and if it is no class add "
            'ignore = ["NAME"] to meta.toml'
        )


def as_colours(mask: DrawnMask) -> np.ndarray:
    """What a mask shows, uint8 [H, W, 3]: its palette's colours, or greys."""
    if mask.pixels.ndim == 3:
        return mask.pixels
    if mask.palette is not None:
        table = np.zeros((256, 3), np.uint8)
        table[: len(mask.palette)] = mask.palette
        return table[mask.pixels]
    grey = np.clip(mask.pixels, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None] * np.uint8(255 if mask.kind == "1" else 1), 3, axis=2)


def is_grey(rgb: np.ndarray) -> bool:
    """Whether the three channels of colours [..., 3] are equal everywhere."""
    return bool((rgb == rgb[..., :1]).all())


def _paint_advice(colours: Colours) -> str:
    if colours:
        return 'if its colours mean the classes write masks = "colours" into meta.toml'
    return (
        "to read its colours, add those of the classes to classes.txt as 'name r g b', for which "
        "doctor proposes lines"
    )


def _binary(mask: DrawnMask) -> np.ndarray:
    shown = as_colours(mask).max(axis=2)
    return (shown >= (HALF if mask.lossy else 1)).astype(np.uint8)


def codes_of(rgb: np.ndarray) -> np.ndarray:
    """A number for each colour: int32 [H, W]."""
    wide = rgb.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


@lru_cache(maxsize=4)
def _table(colours: Colours) -> np.ndarray:
    """Code of a colour -> class of exactly this colour, uint8 [2**24]; 255 = none."""
    table = np.full(1 << 24, IGNORE, np.uint8)
    for id, (r, g, b) in reversed(list(enumerate(colours))):
        table[r << 16 | g << 8 | b] = id
    table.setflags(write=False)
    return table


def _nearest(codes: np.ndarray, colours: Colours) -> np.ndarray:
    """As `_table`, with the class of the nearest colour within `DISTANCE` for all of `codes`."""
    table = _table(colours).copy()
    present = np.zeros(len(table), np.bool_)
    present[codes] = True
    code = np.flatnonzero(present & (table == IGNORE))
    colour = np.stack([code >> 16, code >> 8 & 255, code & 255], axis=1)
    best = np.full(len(code), DISTANCE**2 + 1)
    for id, own in enumerate(colours):
        far = ((colour - np.array(own)) ** 2).sum(axis=1)
        closer = far < best
        best[closer], table[code[closer]] = far[closer], id
    return table
