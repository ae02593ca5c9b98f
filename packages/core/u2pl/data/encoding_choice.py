"""Which encoding the masks of a folder have: what meta.toml says, or what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from u2pl.data.classes import ClassFile, bit_palette
from u2pl.data.ids import few
from u2pl.data.mask_encoding import Colours, Encoding
from u2pl.data.meta import BINARY, COLOURS, IDS, Meta
from u2pl.data.reading import MaskHeader, read_mask_header
from u2pl.errors import UserError
from u2pl.notation import IGNORE

#: Masks of a folder whose headers are looked at, evenly spread.
PEEKED = 8


class Choice(NamedTuple):
    """An encoding, and what a person should know about it."""

    encoding: Encoding
    note: str = ""


def choose_encoding(
    meta: Meta, listed: ClassFile, moved: tuple[int, ...], masks: Sequence[Path | bytes]
) -> Choice:
    """What `meta` says; else colours, if masks and all classes have some.

    Looks at the headers of a few masks, and only if classes.txt gives colours.

    Args:
        meta: of the folder.
        listed: the classes as the masks know them.
        moved: as in `Encoding`.
        masks: all masks of the folder.

    Raises UserError if meta.toml says what cannot be with these classes, or two classes have the
    same colour and masks are painted.
    """
    colours = _colours(listed) if all(listed.coloured) else ()
    count, file = len(listed.names), listed.path.name
    if meta.masks == COLOURS and not colours:
        bare = [n for n, own in zip(listed.names, listed.coloured, strict=True) if not own]
        raise UserError(
            f'{listed.path} gives no colour of {bare[0]}, but meta.toml says masks = "colours": '
            "write each class as 'name r g b'"
        )
    if meta.masks == BINARY and count != 2:
        raise UserError(
            f'{listed.path} names {count} classes, but meta.toml says masks = "binary": name two, '
            "that of 0 first"
        )
    if colours and len(set(colours)) < count and meta.masks != IDS:
        same = next(i for i, own in enumerate(colours) if own in colours[:i])
        other = listed.names[colours.index(colours[same])]
        if meta.masks == COLOURS:
            raise UserError(
                f"{listed.path} gives {listed.names[same]} and {other} the same colour, but "
                'meta.toml says masks = "colours": give each class its own'
            )
        colours = ()
        if not meta.masks and any(header.painted for header in _headers(masks)):
            raise UserError(
                f"{listed.path} gives {listed.names[same]} and {other} the same colour, and the "
                "masks are painted in colours: give each class its own"
            )
    kind, note = meta.masks or IDS, ""
    if not meta.masks and colours and not meta.reduce_zero_label:
        kind, note = _look(colours, file, masks)
    return Choice(Encoding(count, kind, colours, meta.reduce_zero_label, moved), note)


def _look(colours: Colours, file: str, masks: Sequence[Path | bytes]) -> tuple[str, str]:
    """The kind that the headers of some masks speak of, and a note."""
    headers = _headers(masks)
    if any(header.painted for header in headers):
        return COLOURS, (
            f"the masks are painted in colours: each pixel is of the class whose colour in {file} "
            "is nearest"
        )
    palettes = [header.palette for header in headers if header.palette is not None]
    if any(_reordered(palette, colours) for palette in palettes):
        return COLOURS, (
            f"the palette of the masks has the colours of {file} in another order: their colours "
            'are read, not their indices; masks = "ids" in meta.toml reads the indices'
        )
    if any(_foreign(palette, colours) for palette in palettes):
        return IDS, (
            f"the palette of the masks has other colours than {file}: their indices are read as "
            'class ids; masks = "colours" in meta.toml reads the colours'
        )
    return IDS, ""


def _headers(masks: Sequence[Path | bytes]) -> list[MaskHeader]:
    headers: list[MaskHeader] = []
    for mask in few(masks, PEEKED):
        try:
            headers.append(read_mask_header(mask))
        except UserError:  # a broken mask is reported when it is needed
            continue
    return headers


def _reordered(palette: np.ndarray, colours: Colours) -> bool:
    """Whether a palette holds colours of the classes alone, at least one at another's index."""
    shown = [tuple(colour) for colour in palette.tolist()]
    while len(shown) > 1 and shown[-1] == (0, 0, 0) and shown[-1] in shown[:-1]:
        shown.pop()  # padding
    known = set(colours)
    moved = any(a != b for a, b in zip(shown, colours, strict=False))
    return moved and (set(shown) <= known or set(shown[: len(colours)]) == known)


def _foreign(palette: np.ndarray, colours: Colours) -> bool:
    """Whether a palette says otherwise than classes.txt, and is none that programs write always."""
    usual = (bit_palette(IGNORE + 1), np.repeat(np.arange(256)[:, None], 3, axis=1))
    if any((palette == known[: len(palette)]).all() for known in usual):
        return False
    shown = [tuple(colour) for colour in palette.tolist()]
    return any(a != b for a, b in zip(shown, colours, strict=False))


def _colours(listed: ClassFile) -> Colours:
    return tuple((int(r), int(g), int(b)) for r, g, b in listed.palette)
