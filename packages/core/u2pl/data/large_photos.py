"""Crops of large photos without decoding the rest for each of them.

A TIFF in tiles is read where the crop lies (`u2pl.data.regions`). Other files are decoded once, and
a copy of their pixels is kept in the user's cache folder, of which a crop reads its part. Either
way a crop has the pixels that it would have if the whole image were decoded for it, up to the
rounding of PIL, which scales rows or columns first as suits the image that it is given.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from u2pl.data.channels import Stack, as_image
from u2pl.data.orientation import Size
from u2pl.data.reading import read_photo_header
from u2pl.data.regions import Blocks, Decoded, Regions, blocks_of
from u2pl.errors import UserError
from u2pl.files import cache_folder, replace_file
from u2pl.notation import COLOURS

#: Pixels of the smallest photo that counts as large: decoding it takes a fifth of a second.
LARGE = 20_000_000
#: Gigabytes that all copies may take, and the environment variable that changes it.
GIGABYTES, LIMIT = 50, "U2PL_DECODED_GB"
#: Copies that nobody has used for so many seconds make room for others.
UNUSED = 24 * 3600
#: Share of the disk that copies leave free.
SPARED = 0.1
# Increase whenever the same files are decoded to something else.
_FORMAT = 2


class LargePhoto:
    """An image of which parts are read, with those methods of a PIL image that crops use.

    Args:
        regions: of the image.
    """

    def __init__(self, regions: Regions) -> None:
        self.regions = regions

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.regions.width, self.regions.height

    def resize(
        self,
        size: tuple[int, int],
        resample: Image.Resampling,
        box: tuple[float, float, float, float],
    ) -> Image.Image | Stack:
        """The part in a box, resized as PIL would resize it from the whole image.

        Args:
            size: width and height of the result.
            resample: bilinear; other filters would need wider margins.
            box: left, top, right and bottom of the part in pixels, inside of the image.
        """
        assert resample == Image.Resampling.BILINEAR
        # PIL keeps corners in 32 bits, so they are rounded before they are moved, which is exact.
        left, top, right, bottom = (float(np.float32(edge)) for edge in box)
        x0, x1 = _with_margin(left, right, size[0], self.regions.width)
        y0, y1 = _with_margin(top, bottom, size[1], self.regions.height)
        part = as_image(np.ascontiguousarray(self.regions.read(x0, y0, x1, y1)))
        return part.resize(size, resample, box=(left - x0, top - y0, right - x0, bottom - y0))


def _with_margin(low: float, high: float, pixels: int, length: int) -> tuple[int, int]:
    """The stored pixels that a filter over one pixel of the result looks at, and one more."""
    support = max(1.0, (high - low) / pixels) + 1
    return max(0, math.floor(low - support)), min(length, math.ceil(high + support))


#: What crops are cut from.
Cuttable = Image.Image | Stack | LargePhoto


def is_large(file: Path) -> bool:
    """Whether a photo is read in parts; UserError if the file is missing or no image."""
    width, height = read_photo_header(file).facing.size
    return width * height >= LARGE


def copy_size(file: Path, masked: bool) -> int:
    """Bytes that the copies of a photo and its mask take, if it has one; 0 if none are made."""
    if not is_large(file):
        return 0
    width, height = read_photo_header(file).facing.size
    return ((0 if _parts(file) else COLOURS) + masked) * width * height


def large_photo(
    file: Path, facts: object, size: Size, decode: Callable[[], np.ndarray]
) -> LargePhoto:
    """A photo whose parts are read.

    Args:
        file: of the photo.
        facts: what the pixels follow from besides the file.
        size: width and height.
        decode: gives them, uint8 [H, W, 3]; not called if the file or a copy gives its parts.

    Raises UserError if the file is missing or broken.
    """
    shape = (*size[::-1], COLOURS)
    return LargePhoto(_parts(file) or Decoded(kept([file], facts, shape, decode)))


def _parts(file: Path) -> Blocks | None:
    """The parts of a file that can be read by themselves."""
    blocks = blocks_of(file)
    return blocks if blocks is not None and blocks.reads_little else None


def kept(
    files: Sequence[Path],
    facts: object,
    shape: tuple[int, ...],
    decode: Callable[[], np.ndarray],
) -> np.ndarray:
    """Pixels from the copy that was kept of them, or else decoded, and kept if there is room.

    Args:
        files: that the pixels follow from, by their places, sizes and times of change.
        facts: that they follow from too, of plain values.
        shape: of the pixels; those of another one are not kept.
        decode: gives the pixels, of uint8.

    Returns: an array of the same values, which may be mapped from the copy and is not written to.
    """
    folder = cache_folder()
    if folder is None or not limit():
        return decode()
    try:
        versions = [(str(file.resolve()), *_version(file)) for file in files]
    except OSError:  # decoding says what is wrong
        return decode()
    key = hashlib.sha256(repr((_FORMAT, versions, facts)).encode()).hexdigest()[:24]
    copy = folder / f"decoded-{key}.raw"
    if (pixels := _mapped(copy, shape)) is not None:
        return pixels
    pixels = decode()
    if pixels.shape == shape and _has_room(folder, pixels.nbytes):
        with suppress(OSError, UserError):  # it is decoded again then
            replace_file(copy, lambda file: file.write(np.ascontiguousarray(pixels).data))
    return pixels


def limit() -> float:
    """Bytes that all copies may take; UserError if the environment variable is no number."""
    text = os.environ.get(LIMIT, "") or str(GIGABYTES)
    try:
        most = float(text)
    except ValueError:
        most = -1.0
    if not 0 <= most < math.inf:
        raise UserError(f"{LIMIT} is {text!r}: set it to a number of gigabytes, 0 for no copies")
    return most * 1e9


def _version(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _mapped(copy: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The pixels in a copy; None if there is none, or it has another number of them."""
    try:
        if copy.stat().st_size != math.prod(shape):
            return None
        pixels = np.memmap(copy, np.uint8, "r", shape=shape)
    except (OSError, ValueError):
        return None
    with suppress(OSError):  # it may be somebody else's
        os.utime(copy)  # it is in use
    return pixels


def _has_room(folder: Path, needed: int) -> bool:
    """Whether a copy of so many bytes may be added, after removing others that nobody uses."""
    copies = []
    for copy in folder.glob("decoded-*.raw"):
        with suppress(OSError):  # another process may have removed it
            found = copy.stat()
            copies.append((found.st_mtime, found.st_size, copy))
    taken = sum(size for _, size, _ in copies) + needed
    for used, size, copy in sorted(copies):
        if taken <= limit() or used > time.time() - UNUSED:
            break
        with suppress(OSError):
            copy.unlink()
            taken -= size
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(folder)
        return taken <= limit() and disk.free - needed >= SPARED * disk.total
    return False
