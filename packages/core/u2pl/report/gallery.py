"""Sheets of images: with ground truth and prediction beside them, or under their masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from u2pl.data.channels import as_photo
from u2pl.data.classes import IGNORE_COLOUR, with_ignored
from u2pl.notation import IGNORE
from u2pl.report.lettering import spelt
from u2pl.report.overlays import colour_mask, overlay, write_picture

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 33, 36), (128, 132, 138)
_CELL, _TALLEST = 288, 384  # pixels: maximum width and height of a picture
_GAP, _EDGE = 12, 28  # pixels: between pictures, around the sheet
_SWATCH = 15  # pixels
_ACROSS = 4  # images of a sheet side by side

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Row(NamedTuple):
    """One image of a gallery; sizes may differ between rows."""

    title: str
    image: np.ndarray  # uint8 [H, W, 3], or of other numbers of channels
    truth: np.ndarray | None  # [H, W] class ids, 255 = ignore; None if unknown
    prediction: np.ndarray  # [H, W] class ids


class Tile(NamedTuple):
    """One image of a sheet."""

    title: str
    image: np.ndarray  # uint8 [H, W, 3], or of other numbers of channels
    mask: np.ndarray  # [H, W] class ids, 255 = ignore


def gallery(rows: Sequence[Row], classes: Sequence[str], palette: np.ndarray, path: Path) -> None:
    """Write a sheet of image | truth | prediction, with a legend of the classes that occur.

    Args:
        rows: images, from top to bottom.
        classes: names by id.
        palette: uint8 [C, 3].
        path: written atomically, in the format of its suffix.

    Raises UserError if `path` cannot be written.
    """
    heading, small = ImageFont.load_default(17), ImageFont.load_default(13)
    width = 2 * _EDGE + 3 * _CELL + 2 * _GAP
    masks = [mask for row in rows for mask in (row.truth, row.prediction) if mask is not None]
    entries = _legend(masks, classes, palette)
    places, legend_height = _flow([small.getlength(name) for name, _ in entries], width - 2 * _EDGE)
    sizes = [_fitted(row.image.shape[1], row.image.shape[0]) for row in rows]
    sheet = Image.new(
        "RGB",
        (width, 2 * _EDGE + legend_height + 44 + sum(height + 34 for _, height in sizes) - 10),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    _draw_legend(draw, entries, places, small)
    lefts = [_EDGE + column * (_CELL + _GAP) for column in range(3)]
    for left, text in zip(lefts, ("image", "truth", "prediction"), strict=True):
        draw.text((left, _EDGE + legend_height + 10), text, _INK, heading)
    top = _EDGE + legend_height + 44
    for row, size in zip(rows, sizes, strict=True):
        for left, picture in zip(lefts, (row.image, row.truth, row.prediction), strict=True):
            sheet.paste(
                _no_mask(size, small) if picture is None else _thumbnail(picture, size, palette),
                (left, top),
            )
        draw.text(
            (_EDGE, top + size[1] + 5),
            _shortened(spelt(row.title), 3 * _CELL, small),
            _FAINT,
            small,
        )
        top += size[1] + 34
    write_picture(np.asarray(sheet), path)


def mask_sheet(
    tiles: Sequence[Tile],
    classes: Sequence[str],
    palette: np.ndarray,
    background: bool,
    path: Path,
) -> None:
    """Write a sheet of images under their masks, with a legend of the classes that occur.

    Args:
        tiles: at least one, from left to right and from top to bottom.
        classes: names by id.
        palette: uint8 [C, 3].
        background: whether class 0 is one, which does not cover the image.
        path: written atomically, in the format of its suffix.

    Raises UserError if `path` cannot be written.
    """
    small = ImageFont.load_default(13)
    across = min(_ACROSS, len(tiles))
    width = 2 * _EDGE + across * (_CELL + _GAP) - _GAP
    entries = _legend([tile.mask for tile in tiles], classes, palette)
    places, legend_height = _flow([small.getlength(name) for name, _ in entries], width - 2 * _EDGE)
    sizes = [_fitted(tile.image.shape[1], tile.image.shape[0]) for tile in tiles]
    lines = [range(first, len(tiles))[:across] for first in range(0, len(tiles), across)]
    heights = [max(sizes[number][1] for number in line) + 34 for line in lines]
    sheet = Image.new("RGB", (width, 2 * _EDGE + legend_height + 10 + sum(heights) - 10), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_legend(draw, entries, places, small)
    top = _EDGE + legend_height + 10
    for line, height in zip(lines, heights, strict=True):
        for column, number in enumerate(line):
            left, tile, size = _EDGE + column * (_CELL + _GAP), tiles[number], sizes[number]
            image = np.asarray(_thumbnail(tile.image, size, palette))
            ids = Image.fromarray(tile.mask).resize(size, Image.Resampling.NEAREST)
            drawn = overlay(image, np.asarray(ids), palette, background=background)
            sheet.paste(Image.fromarray(drawn), (left, top))
            draw.text(
                (left, top + size[1] + 5),
                _shortened(spelt(tile.title), _CELL, small),
                _FAINT,
                small,
            )
        top += height
    write_picture(np.asarray(sheet), path)


def _fitted(width: int, height: int) -> tuple[int, int]:
    scale = min(_CELL / width, _TALLEST / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _thumbnail(picture: np.ndarray, size: tuple[int, int], palette: np.ndarray) -> Image.Image:
    if picture.ndim == 3:
        return Image.fromarray(as_photo(picture)).resize(size, Image.Resampling.LANCZOS)
    return Image.fromarray(colour_mask(picture, palette)).resize(size, Image.Resampling.NEAREST)


def _no_mask(size: tuple[int, int], font: _Font) -> Image.Image:
    place = Image.new("RGB", size, IGNORE_COLOUR)
    ImageDraw.Draw(place).text((size[0] / 2, size[1] / 2), "no mask", _FAINT, font, anchor="mm")
    return place


def _legend(
    masks: Sequence[np.ndarray], classes: Sequence[str], palette: np.ndarray
) -> list[tuple[str, tuple[int, ...]]]:
    present = sorted({int(id) for mask in masks for id in np.unique(mask)})
    colours = with_ignored(palette).tolist()
    return [
        ("ignored" if id == IGNORE else spelt(classes[id]), tuple(colours[id])) for id in present
    ]


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    entries: Sequence[tuple[str, tuple[int, ...]]],
    places: Sequence[tuple[int, int]],
    font: _Font,
) -> None:
    for (name, colour), (x, y) in zip(entries, places, strict=True):
        left, top = _EDGE + x, _EDGE + y
        draw.rounded_rectangle(
            (left, top, left + _SWATCH, top + _SWATCH), 3, colour, outline=_FAINT
        )
        draw.text((left + _SWATCH + 7, top), name, _INK, font)


def _flow(lengths: Sequence[float], width: float) -> tuple[list[tuple[int, int]], int]:
    """Places (x, y) of legend entries, broken into lines, and the height of all lines."""
    places, x, y = [], 0, 0
    for length in lengths:
        if x > 0 and x + _SWATCH + 7 + length > width:
            x, y = 0, y + 26
        places.append((x, y))
        x += round(_SWATCH + 7 + length + 24)
    return places, y + 26


def _shortened(text: str, width: float, font: _Font) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"
