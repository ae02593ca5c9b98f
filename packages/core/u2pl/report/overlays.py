"""Pictures of masks, and writing them atomically."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from u2pl.data.channels import as_photo
from u2pl.data.classes import palette_image, with_ignored
from u2pl.files import make_folder, replace_file
from u2pl.report.lettering import spelt


def colour_mask(ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class ids [H, W] in the colours of `palette` [C, 3], 255 in grey: uint8 [H, W, 3]."""
    return with_ignored(palette)[ids]


def overlay(
    image: np.ndarray,
    ids: np.ndarray,
    palette: np.ndarray,
    alpha: float = 0.5,
    background: bool = False,
) -> np.ndarray:
    """The image blended with its classes' colours, each region outlined in the full colour.

    A background is left as it is, with a white line where it meets the others, so that lines are
    seen on dark and on light photos.

    Args:
        image: uint8 [H, W, 3], or of other numbers of channels.
        ids: class ids [H, W], 255 = ignore.
        palette: uint8 [C, 3].
        alpha: weight of the colours.
        background: whether class 0 is one.

    Returns: uint8 [H, W, 3].
    """
    image, colours = as_photo(image), colour_mask(ids, palette)
    mixed = (image * np.float32(1 - alpha) + colours * np.float32(alpha) + np.float32(0.5)).astype(
        np.uint8
    )
    border = _borders(ids)[..., None]
    drawn = np.where(border, colours, mixed)
    if not background:
        return drawn
    line = np.where(border, np.uint8(255), image)
    return np.where((ids == 0)[..., None], line, drawn)


def colour_key(classes: Sequence[str], palette: np.ndarray) -> np.ndarray:
    """A sheet with the colour and the name of each class, uint8 [H, W, 3].

    Args:
        classes: names by id.
        palette: uint8 [C, 3].
    """
    font, row, edge, rows = ImageFont.load_default(15), 26, 12, 40
    columns = -(-len(classes) // rows)
    labels = [f"{id}  {spelt(name)}" for id, name in enumerate(classes)]
    widest = round(max(map(font.getlength, labels))) + 44
    height = min(rows, len(classes)) * row
    sheet = Image.new("RGB", (columns * widest + 2 * edge, height + 2 * edge), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for id, label in enumerate(labels):
        left, top = edge + id // rows * widest, edge + id % rows * row
        colour = tuple(palette[id].tolist())
        draw.rectangle((left, top + 3, left + 26, top + 21), colour, outline=(128, 132, 138))
        draw.text((left + 36, top + 3), label, (32, 33, 36), font)
    return np.asarray(sheet)


def write_ids(ids: np.ndarray, palette: np.ndarray, path: Path) -> None:
    """Write class ids [H, W] as a palette PNG of these ids; UserError if that fails."""
    _write(palette_image(ids, palette), path)


def write_shown_ids(ids: np.ndarray, palette: np.ndarray, background: bool, path: Path) -> None:
    """Write class ids [H, W] as a palette PNG to be laid over the image; UserError if that fails.

    Args:
        ids: class ids [H, W], 255 = ignore.
        palette: uint8 [C, 3].
        background: whether class 0 is one, which is transparent.
        path: of the file.
    """
    image = palette_image(ids, palette)
    if background:
        image.info["transparency"] = 0
    _write(image, path)


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write uint8 [H, W, 3] in the format of `path`'s suffix, atomically; UserError on failure."""
    _write(Image.fromarray(picture), path)


def write_grey(values: np.ndarray, path: Path) -> None:
    """Write uint8 [H, W] as a grey PNG, atomically; UserError if that fails."""
    _write(Image.fromarray(values), path)


def _write(image: Image.Image, path: Path) -> None:
    encoded = BytesIO()
    image.save(encoded, Image.registered_extensions()[path.suffix], quality=92)
    make_folder(path.parent)
    replace_file(path, encoded.getvalue())


def _borders(ids: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels with a horizontal or vertical neighbour of another class."""
    border = np.zeros(ids.shape, dtype=bool)
    right, lower = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    border[:, 1:] |= right
    border[:, :-1] |= right
    border[1:] |= lower
    border[:-1] |= lower
    return border
