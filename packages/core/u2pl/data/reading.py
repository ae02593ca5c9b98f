"""Decoding image files to RGB and mask files to class ids, with errors of one line."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from u2pl.errors import UserError
from u2pl.notation import IGNORE

# Pillow scales greyscale of 2 and 4 bits to 0..255; a mask's ids are scaled back.
_STRETCHED = {"L;2": 85, "L;4": 17}


def read_rgb(file: Path | bytes, where: str = "") -> Image.Image:
    """Decode an image file (or its bytes, called `where` in errors) to 8-bit RGB.

    16 bits are scaled to 8, transparency is dropped. A rotation in the EXIF header is not applied:
    masks are drawn on the stored pixels. Raises UserError if the file is missing, truncated, not an
    image, or holds floating-point pixels.
    """
    return to_rgb(_decode(file, where), _name(file, where))


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """8-bit RGB of an opened image, called `where` in errors; as `read_rgb`."""
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise _broken(where, error) from None
    if image.mode == "F":
        raise UserError(
            f"{where} holds floating-point pixels: save it with 8 or 16 bits per channel"
        )
    if image.mode.startswith("I"):
        sixteen = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((sixteen + 128) // 257).astype(np.uint8))
    if image.mode == "P":  # via RGBA: Pillow warns of transparent palette entries otherwise
        image = image.convert("RGBA")
    return image.convert("RGB")


def read_ids(file: Path | bytes, where: str = "") -> np.ndarray:
    """Decode a mask file (or its bytes) to ids as stored, uint8 [H, W].

    A palette mask yields its indices, not its colours. Raises UserError if the file is missing or
    truncated, has colour channels, or holds values above 255.
    """
    image = _decode(file, where)
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        raise UserError(
            f"{_name(file, where)} is a {image.mode} image: a mask must hold one class id per "
            "pixel, as a single-channel or palette PNG; "
            "convert its colours to ids"
        )
    ids = np.asarray(image)
    if not 0 <= int(ids.min()) <= int(ids.max()) <= 255:
        raise UserError(
            f"{_name(file, where)} holds values from {ids.min()} to {ids.max()}: a mask must hold "
            "class ids from 0 to 254, or 255 to ignore"
        )
    return ids.astype(np.uint8) // np.uint8(_STRETCHED.get(image.info.get("rawmode", ""), 1))


def read_first_of_16_bits(file: Path) -> np.ndarray:
    """First channel of a 16-bit RGB PNG, which Pillow would reduce to 8 bits: uint16 [H, W].

    Raises UserError if the file is missing, truncated or another kind of PNG, whose ids could mean
    anything.
    """
    import torch

    instead = f"write train ids into {file.stem}_labelTrainIds.png"
    try:
        from torchvision.io import decode_png
    except ImportError:  # deprecated since torchvision 0.29
        raise UserError(
            f"{file} is a 16-bit RGB PNG, which this torchvision does not decode: install 0.29, or "
            f"{instead}"
        ) from None
    try:
        pixels = decode_png(torch.from_numpy(np.fromfile(file, np.uint8)))
    except FileNotFoundError:
        raise _missing(str(file)) from None
    except (OSError, RuntimeError):  # its own message points into torchvision's sources
        raise _broken(str(file), ValueError("truncated, or no PNG")) from None
    if pixels.dtype != torch.uint16 or len(pixels) != 3:
        bits = 8 * pixels.element_size()
        raise UserError(
            f"{file} has {len(pixels)} channels of {bits} bits instead of 3 of 16: use the label "
            f"as published, or {instead}"
        )
    return pixels[0].numpy()


def check_range(ids: np.ndarray, classes: int, where: str) -> np.ndarray:
    """`ids`, uint8 [H, W]; UserError naming those that are neither below `classes` nor 255."""
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=IGNORE + 1))
    foreign = [int(id) for id in present if classes <= id != IGNORE]
    if foreign:
        listed = ", ".join(map(str, foreign[:5])) + (", …" if len(foreign) > 5 else "")
        raise UserError(
            f"{where} holds ids {listed}, but there are {classes} classes (0 to {classes - 1}; 255 "
            "= ignore): "
            "name these classes in classes.txt or change the ids to 255"
        )
    return ids


def read_size(image: Path | bytes, where: str = "") -> tuple[int, int]:
    """Width and height from an image's header; UserError if the file is missing or not an image."""
    with _header(image, where) as header:
        return header.size


def check_size(ids: np.ndarray, image: Path | bytes, mask_name: str, image_name: str) -> np.ndarray:
    """The mask; UserError if its size differs from its image's. Reads only the image's header."""
    size = read_size(image, image_name)
    mask_size = (ids.shape[1], ids.shape[0])
    if size != mask_size:
        turned = " (turned by its EXIF header? Save it upright)" if size == mask_size[::-1] else ""
        raise UserError(
            f"{mask_name} is {mask_size[0]}x{mask_size[1]}, but its image {image_name} is "
            f"{size[0]}x{size[1]}{turned}: "
            "make both the same size"
        )
    return ids


def _name(file: Path | bytes, where: str) -> str:
    return where or (str(file) if isinstance(file, Path) else "image")


def _header(file: Path | bytes, where: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    except FileNotFoundError:
        raise _missing(_name(file, where)) from None
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise _broken(_name(file, where), error) from None


def _decode(file: Path | bytes, where: str) -> Image.Image:
    with _header(file, where) as image:
        tiles = getattr(image, "tile", [])
        rawmode = tiles[0][3] if tiles else ""
        try:
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise _broken(_name(file, where), error) from None
        image.info["rawmode"] = rawmode if isinstance(rawmode, str) else ""
        return image


def _missing(where: str) -> UserError:
    return UserError(f"{where} does not exist: restore the file, or take its id out of the split")


def _broken(where: str, error: Exception) -> UserError:
    reason = (
        "no known image format"
        if "cannot identify" in str(error)
        else (str(error).splitlines() or ["unreadable"])[0]
    )
    return UserError(
        f"{where} cannot be decoded ({reason}): replace the file, or take its id out of the split"
    )
