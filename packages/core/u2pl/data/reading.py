"""Image files of any kind as RGB, mask files as class ids, and one clear line when they are neither."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from u2pl.errors import UserError
from u2pl.notation import IGNORE

# Pillow stretches greyscale of 2 and 4 bits to 0..255; in a mask these are ids.
_STRETCHED = {"L;2": 85, "L;4": 17}


def read_rgb(file: Path | bytes, where: str = "") -> Image.Image:
    """Decode an image file (or its bytes, called `where` in errors) to 8-bit RGB.

    16-bit is scaled to 8, transparency dropped. A rotation in the EXIF header is not applied: masks are drawn on the stored pixels.
    Raises UserError when the file is missing, truncated or no image.
    """
    image = _decode(file, where)
    if image.mode == "F":
        raise UserError(
            f"{_name(file, where)} holds floating-point pixels: save it with 8 or 16 bits per channel"
        )
    if image.mode.startswith("I"):
        sixteen = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((sixteen + 128) // 257).astype(np.uint8))
    if (
        image.mode == "P"
    ):  # by way of RGBA, or Pillow warns when the palette has transparent entries
        image = image.convert("RGBA")
    return image.convert("RGB")


def read_ids(file: Path | bytes, where: str = "") -> np.ndarray:
    """Decode a mask file (or its bytes) to ids as stored, uint8 [H, W]; a palette mask gives its indices, not its colours.

    Raises UserError when the file is missing, truncated, has colour channels, or holds values above 255.
    """
    image = _decode(file, where)
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        raise UserError(
            f"{_name(file, where)} is a {image.mode} image: a mask must hold one class id per pixel, as a single-channel or palette PNG; "
            "convert its colours to ids"
        )
    ids = np.asarray(image)
    if not 0 <= int(ids.min()) <= int(ids.max()) <= 255:
        raise UserError(
            f"{_name(file, where)} holds values from {ids.min()} to {ids.max()}: a mask must hold class ids from 0 to 254, or 255 to ignore"
        )
    return ids.astype(np.uint8) // np.uint8(_STRETCHED.get(image.info.get("rawmode", ""), 1))


def read_first_of_16_bits(file: Path) -> np.ndarray:
    """Decode a 16-bit RGB PNG, which Pillow cuts down to 8 bits, and return its first channel: uint16 [H, W].

    Raises UserError when the file is missing, truncated or another kind of PNG, which could hold any sort of ids.
    """
    import torch

    instead = f"write train ids into {file.stem}_labelTrainIds.png"
    try:
        from torchvision.io import decode_png
    except ImportError:  # announced since torchvision 0.29
        raise UserError(
            f"{file} is a 16-bit RGB PNG, which this torchvision does not decode: install 0.29, or {instead}"
        ) from None
    try:
        pixels = decode_png(torch.from_numpy(np.fromfile(file, np.uint8)))
    except FileNotFoundError:
        raise _missing(str(file)) from None
    except (OSError, RuntimeError):  # its own words name a line of torchvision's sources
        raise _broken(str(file), ValueError("truncated, or no PNG")) from None
    if pixels.dtype != torch.uint16 or len(pixels) != 3:
        bits = 8 * pixels.element_size()
        raise UserError(
            f"{file} has {len(pixels)} channels of {bits} bits instead of 3 of 16: use the label as published, or {instead}"
        )
    return pixels[0].numpy()


def check_range(ids: np.ndarray, classes: int, where: str) -> np.ndarray:
    """Return `ids` (uint8 [H, W]) when each is below `classes` or 255, raise UserError with the others."""
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=IGNORE + 1))
    foreign = [int(id) for id in present if classes <= id != IGNORE]
    if foreign:
        listed = ", ".join(map(str, foreign[:5])) + (", …" if len(foreign) > 5 else "")
        raise UserError(
            f"{where} holds ids {listed}, but there are {classes} classes (0 to {classes - 1}; 255 = ignore): "
            "name these classes in classes.txt or change the ids to 255"
        )
    return ids


def read_size(image: Path | bytes, where: str = "") -> tuple[int, int]:
    """Width and height from an image's header alone; UserError when the file is missing or no image."""
    with _header(image, where) as header:
        return header.size


def check_size(ids: np.ndarray, image: Path | bytes, mask_name: str, image_name: str) -> np.ndarray:
    """Return the mask when it is as large as its image; UserError naming both sizes when not. Reads the image's header only."""
    size = read_size(image, image_name)
    mask_size = (ids.shape[1], ids.shape[0])
    if size != mask_size:
        turned = " (turned by its EXIF header? Save it upright)" if size == mask_size[::-1] else ""
        raise UserError(
            f"{mask_name} is {mask_size[0]}x{mask_size[1]}, but its image {image_name} is {size[0]}x{size[1]}{turned}: "
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
