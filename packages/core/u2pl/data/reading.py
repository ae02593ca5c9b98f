"""Decoding image files to RGB and mask files to class ids, with errors of one line."""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from u2pl.data.bit_depth import raw_mode, swapped, to_eight_bits
from u2pl.data.orientation import Facing, Size, facing, turned
from u2pl.errors import UserError
from u2pl.notation import IGNORE

#: Megapixels of the largest image that is decoded, and the environment variable that changes it.
MEGAPIXELS, LIMIT = 500, "U2PL_MEGAPIXELS"

#: Pillow's names of the documented formats.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF", "GIF", "JPEG2000", "AVIF", "PPM")

# Pillow scales greyscale of 2 and 4 bits to 0..255; a mask's ids are scaled back.
_STRETCHED = {"L;2": 85, "L;4": 17}
# Formats that do not keep every pixel as it was; the last three do so at some settings alone.
_LOSSY = ("JPEG", "MPO", "AVIF", "WEBP", "JPEG2000")
# Below this high byte, a 16-bit colour needs fewer than 14 bits.
_FEW_BITS = 64
# Endings that maps have, too.
_MAPS = (".tif", ".tiff")

# Pillow warns of damaged headers, without naming the file. They are common, and nothing that a
# person could mend: what counts are the pixels, and those that cannot be decoded are an error.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Held while Pillow's own limit is off; replaced in child processes, which may be forked meanwhile.
_opening = threading.Lock()


class DrawnMask(NamedTuple):
    """A mask as it is stored."""

    pixels: np.ndarray  # whole numbers [H, W], or colours, uint8 [H, W, 3]
    palette: np.ndarray | None  # uint8 [N, 3], colours of the numbers of an indexed image
    kind: str  # Pillow's name of the mode
    lossy: str  # the format, if it may have changed pixels; else empty


def read_rgb(
    file: Path | bytes, where: str = "", upright: bool | Callable[[Facing], bool] = True
) -> Image.Image:
    """Decode an image file (or its bytes, called `where` in errors) to 8-bit RGB.

    More bits are scaled to 8 (`to_eight_bits`), transparency is dropped.

    Args:
        file: a path, or the file's content.
        where: the name in errors; the path if left out.
        upright: whether an EXIF orientation is followed, as viewers do, or what decides it for each
            photo that has one; otherwise the pixels stay as they are stored.

    Raises UserError if the file is missing, truncated, not an image, too large, or holds
    floating-point pixels.
    """
    name = _name(file, where)
    image, raw, faced = _decode(file, name)
    if raw[-4:-1] == ";16" and image.mode in ("RGB", "RGBA", "RGBX"):
        image = _of_16_bits(image, file, name)
    image = to_rgb(image, name)
    if faced.tag == 1:
        return image
    return turned(image, faced, upright(faced) if callable(upright) else upright)


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """8-bit RGB of an opened image, called `where` in errors; as `read_rgb`, as it is stored."""
    with _pillow(where):
        image.load()
    if image.mode == "F":
        raise UserError(
            f"{where} holds floating-point pixels: save it with 8 or 16 bits per channel"
        )
    if image.mode.startswith("I"):
        image = Image.fromarray(to_eight_bits(np.asarray(image), where))
    with _pillow(where):  # via RGBA: Pillow warns of transparent palette entries otherwise
        return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def read_ids(file: Path | bytes, where: str = "") -> np.ndarray:
    """Decode a mask file (or its bytes) to ids as stored, uint8 [H, W].

    A palette mask yields its indices, not its colours. Raises UserError if the file is missing or
    truncated, has colour channels, went through lossy compression, or holds values above 255.
    """
    return ids_of(read_mask(file, where), _name(file, where))


def ids_of(mask: DrawnMask, name: str, advice: str = "convert its colours to ids") -> np.ndarray:
    """The ids of a mask that is read already, called `name` in errors; as `read_ids`.

    Args:
        mask: as it is stored.
        name: the name in errors.
        advice: what to do about a mask with colour channels.
    """
    if mask.lossy:
        raise UserError(
            f"{name} is a {mask.lossy} image, whose compression changes class ids: make a PNG from "
            "the original mask, not from this file"
        )
    ids = mask.pixels
    if ids.ndim == 3:
        raise UserError(
            f"{name} is a {mask.kind} image: a mask must hold one class id per pixel, as a "
            f"single-channel or palette PNG; {advice}"
        )
    if not 0 <= int(ids.min()) <= int(ids.max()) <= 255:
        raise UserError(
            f"{name} holds values from {ids.min()} to {ids.max()}: a mask must hold class ids from "
            "0 to 254, or 255 to ignore"
        )
    return ids.astype(np.uint8)


def read_mask(file: Path | bytes, where: str = "") -> DrawnMask:
    """Decode a mask file (or its bytes) as it is; transparency is dropped.

    Raises UserError if the file is missing or truncated, or holds floating-point pixels or colours
    of 16 bits.
    """
    name = _name(file, where)
    image, raw, _ = _decode(file, name)
    if image.mode == "F" or (";16" in raw and not image.mode.startswith("I")):
        what = "floating-point pixels" if image.mode == "F" else "16 bits in each channel"
        raise UserError(f"{name} holds {what}: save the mask as a PNG of 8 bits")
    lossy = _lossy(image)
    if image.mode in ("P", "L", "1") or image.mode.startswith("I"):
        values = np.asarray(image)
        if raw in _STRETCHED:
            values = values // np.uint8(_STRETCHED[raw])
        with _pillow(name):
            palette = colours_of(image) if image.mode == "P" else None
        return DrawnMask(values, palette, image.mode, lossy)
    flat = image.convert("L" if image.mode in ("LA", "La") else "RGB")
    return DrawnMask(np.asarray(flat), None, image.mode, lossy)


class MaskHeader(NamedTuple):
    """What a mask's header tells."""

    painted: bool  # in colours, which are not those of a palette
    palette: np.ndarray | None  # as in `DrawnMask`
    lossy: str


def read_mask_header(file: Path | bytes, where: str = "") -> MaskHeader:
    """Look at a mask without decoding it (a palette outside PNG files is decoded).

    Raises UserError if the file is missing or not an image.
    """
    name = _name(file, where)
    with _header(file, name) as header:
        with _pillow(name):
            palette = colours_of(header) if header.mode == "P" else None
        painted = header.mode not in ("P", "L", "LA", "La", "1", "F", "I")
        return MaskHeader(painted and header.mode[0] != "I", palette, _lossy(header))


def _lossy(image: Image.Image) -> str:
    """The format, if it may have changed pixels; else empty."""
    tiff = str(image.info.get("compression", "")) in ("jpeg", "webp")
    return str(image.format) if image.format in _LOSSY or tiff else ""


def colours_of(image: Image.Image) -> np.ndarray:
    """The palette of an indexed image, uint8 [N, 3]."""
    stored = image.palette
    if stored is not None and stored.mode == "RGB" and stored.rawmode in (None, "RGB"):
        # known before the image is decoded, as in PNG files
        return np.frombuffer(bytes(stored.palette), np.uint8).reshape(-1, 3)
    return np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)


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


def check_range(
    ids: np.ndarray,
    classes: int,
    where: str,
    advice: str = "name these classes in classes.txt or change the ids to 255",
) -> np.ndarray:
    """`ids`, uint8 [H, W]; UserError naming those that are neither below `classes` nor 255."""
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=IGNORE + 1))
    foreign = [int(id) for id in present if classes <= id != IGNORE]
    if foreign:
        listed = ", ".join(map(str, foreign[:5])) + (", …" if len(foreign) > 5 else "")
        raise UserError(
            f"{where} holds ids {listed}, but there are {classes} classes (0 to {classes - 1}; 255 "
            f"= ignore): {advice}"
        )
    return ids


def read_size(image: Path | bytes, where: str = "") -> Size:
    """Width and height from an image's header; UserError if the file is missing or not an image."""
    with _header(image, _name(image, where)) as header:
        return header.size


def read_format(image: Path | bytes, where: str = "") -> str:
    """Pillow's name of an image's format, from its header; UserError as `read_size`."""
    with _header(image, _name(image, where)) as header:
        return header.format or ""


def read_facing(image: Path | bytes, where: str = "") -> Facing:
    """How a photo lies in its file, from its header; UserError as `read_size`."""
    with _header(image, _name(image, where)) as header:
        return facing(header)


class PhotoHeader(NamedTuple):
    """What a photo's header tells."""

    facing: Facing
    deep: bool  # more than 8 bits per channel


def read_photo_header(image: Path | bytes, where: str = "") -> PhotoHeader:
    """Look at a photo without decoding it; UserError as `read_size`."""
    with _header(image, _name(image, where)) as header:
        deep = header.mode.startswith("I") or ";16" in raw_mode(getattr(header, "tile", []))
        return PhotoHeader(facing(header), deep)


def size_of_mask(mask: Path | bytes | None) -> Size | None:
    """Width and height of a mask file (or its bytes); None if there is none, or it is broken."""
    try:
        return None if mask is None else read_size(mask)
    except UserError:  # whoever needs the mask will say so
        return None


def check_size(ids: np.ndarray, image: Path | bytes, mask_name: str, image_name: str) -> np.ndarray:
    """The mask; UserError if its size is not its image's, as stored or as its EXIF header turns it.

    Reads only the image's header.
    """
    found = read_facing(image, image_name)
    mask_size, size = (ids.shape[1], ids.shape[0]), found.size
    if mask_size not in (size, found.upright):
        swapped = " (one of the two lies on its side)" if mask_size == size[::-1] else ""
        raise UserError(
            f"{mask_name} is {mask_size[0]}x{mask_size[1]}, but its image {image_name} is "
            f"{size[0]}x{size[1]}{swapped}: "
            "make both the same size"
        )
    return ids


class _Decoded(NamedTuple):
    """An image with its pixels, and what its header said before they were loaded."""

    image: Image.Image
    raw: str  # `raw_mode`
    facing: Facing


def _name(file: Path | bytes, where: str) -> str:
    return where or (str(file) if isinstance(file, Path) else "image")


def _header(file: Path | bytes, name: str) -> Image.Image:
    with _pillow(name):
        image = open_image(file)
    width, height = image.size
    most = _limit()
    if width * height > most * 1_000_000:
        image.close()
        raise UserError(
            f"{name} has {width}x{height} pixels, more than the {most:g} megapixels that are "
            f"decoded: if that is right, set the environment variable {LIMIT} to "
            f"{-(-width * height // 1_000_000)} or more"
        )
    return image


def open_image(file: Path | bytes) -> Image.Image:
    """An image of any size whose header is read, not its pixels; of the documented formats alone.

    Pillow knows more of them, some of which (EPS) run other programs.

    Raises what Pillow raises, and UserError for what is no file, such as a pipe.
    """
    if isinstance(file, Path):
        if file.is_symlink() and not file.exists():
            raise UserError(f"{file} is a link that leads nowhere: mend it, or leave it out")
        if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for ever
            raise UserError(f"{file} is no file: replace it by an image, or leave it out")
    with any_size():
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, as far as it was built with them."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def any_size() -> Iterator[None]:
    """Let Pillow open large images, which it takes for an attack from 179 megapixels on.

    Its limit is one for the whole process, so threads take turns.
    """
    with _opening:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _unlock() -> None:
    global _opening
    _opening = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_unlock)


def _limit() -> float:
    text = os.environ.get(LIMIT, "") or str(MEGAPIXELS)
    try:
        most = float(text)
    except ValueError:
        most = 0.0
    if not most > 0:
        raise UserError(f"{LIMIT} is {text!r}: set it to a number of megapixels, such as 1000")
    return most


def _decode(file: Path | bytes, name: str) -> _Decoded:
    with _header(file, name) as image:
        raw, faced = raw_mode(getattr(image, "tile", [])), facing(image)
        with _pillow(name):
            image.load()
        return _Decoded(image, raw, faced)


def _of_16_bits(image: Image.Image, file: Path | bytes, name: str) -> Image.Image:
    """Colours of 16 bits, of which Pillow kept the high byte, scaled by the bits that they use."""
    high = np.asarray(image.convert("RGB"))
    if high.max() >= _FEW_BITS:
        return image  # the high bytes are the 8-bit image
    with _header(file, name) as again:
        try:
            with _pillow(name):
                tiles = getattr(again, "tile", [])
                again.tile = swapped(tiles, raw_mode(tiles))  # type: ignore[attr-defined]
                again.load()
        except UserError:  # Pillow cannot read this kind the other way round
            return image
        low = np.asarray(again.convert("RGB"))
    return Image.fromarray(to_eight_bits(high.astype(np.uint16) * 256 + low, name))


@contextmanager
def _pillow(name: str) -> Iterator[None]:
    """UserError for whatever Pillow raises inside: each of its decoders has errors of its own.

    Nothing else belongs there, for our own mistakes would be taken for damaged files.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError:
        raise _missing(name) from None
    except Exception as error:
        raise _broken(name, error) from None


def _missing(where: str) -> UserError:
    return UserError(f"{where} does not exist: restore the file, or leave it out")


def _broken(where: str, error: Exception) -> UserError:
    reason = (
        "no known image format"
        if "cannot identify" in str(error)
        else (str(error).splitlines() or ["unreadable"])[0]
    )
    advice = "replace it by a JPEG or PNG, or leave it out"
    if where.lower().endswith(_MAPS):
        advice += "; GeoTIFFs are read by geotiff:PATH"
    return UserError(f"{where} cannot be decoded ({reason}): {advice}")
