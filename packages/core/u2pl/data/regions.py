"""Rectangles of an image: without decoding the rest where its file allows, else decoded once."""

from __future__ import annotations

import io
import struct
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import TiffImagePlugin, TiffTags

from u2pl.data.channels import as_image
from u2pl.data.reading import open_image, read_photo_header, read_rgb
from u2pl.errors import UserError
from u2pl.notation import COLOURS

#: Bytes of decoded blocks that are kept, since neighbouring rectangles share blocks.
KEPT = 256 * 2**20
#: Kinds of pixels, 8 bits each, whose blocks have the colours that the whole image has.
_MODES = ("L", "RGB", "RGBA")
#: What a block needs to be decoded by itself: everything but sizes and places.
_SHARED = (
    TiffImagePlugin.BITSPERSAMPLE,
    TiffImagePlugin.COMPRESSION,
    TiffImagePlugin.PHOTOMETRIC_INTERPRETATION,
    TiffImagePlugin.FILLORDER,
    TiffImagePlugin.SAMPLESPERPIXEL,
    TiffImagePlugin.PLANAR_CONFIGURATION,
    TiffImagePlugin.PREDICTOR,
    TiffImagePlugin.EXTRASAMPLES,
    TiffImagePlugin.SAMPLEFORMAT,
    TiffImagePlugin.JPEGTABLES,
    TiffImagePlugin.YCBCRSUBSAMPLING,
    TiffImagePlugin.REFERENCEBLACKWHITE,
)
_RAW, _OLD_JPEG = 1, 6  # compressions
_UNREADABLE = (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error)


class Regions(ABC):
    """An image of which rectangles are read.

    Args:
        width, height: in pixels.
        channels: three, red, green and blue, of photos.
    """

    #: Whether the file holds whole rows, so that its columns cannot be read one after the other.
    by_rows = False

    def __init__(self, width: int, height: int, channels: int = COLOURS) -> None:
        self.width, self.height, self.channels = width, height, channels

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.width * self.height

    @abstractmethod
    def read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """The pixels of a rectangle inside of the image, uint8 [h, w, channels].

        Right and bottom are exclusive. The array may be a view and is not to be written to.
        Raises UserError if the file is broken.
        """

    def valid_rows(self, top: int, bottom: int) -> np.ndarray | None:
        """Which pixels of some rows hold data, bool [h, W]; None: all of them.

        An image that says so is `by_rows`.
        """
        return None

    def whole(self) -> np.ndarray:
        """All pixels, uint8 [H, W, channels]."""
        return self.read(0, 0, self.width, self.height)

    def reduced(self, factor: int) -> np.ndarray:
        """The image with its sides divided by `factor` and rounded up, read a few rows at a time.

        Returns: means of factor x factor pixels, uint8 [h, w, channels].
        """
        if factor == 1:
            return self.whole()
        rows = factor * max(1, 256 // factor)
        strips = [
            as_image(self.read(0, top, self.width, min(top + rows, self.height)))
            for top in range(0, self.height, rows)
        ]
        return np.concatenate([np.asarray(strip.reduce(factor)) for strip in strips])


class Decoded(Regions):
    """An image in memory, uint8 [H, W, channels]."""

    def __init__(self, pixels_HWC: np.ndarray) -> None:
        height, width, channels = pixels_HWC.shape
        super().__init__(width, height, channels)
        self._pixels = pixels_HWC

    def read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        return self._pixels[top:bottom, left:right]


class Blocks(Regions):
    """A TIFF in tiles or strips, each of which is decoded when it is read.

    A block becomes a small TIFF of its own, so that every compression that Pillow knows will do.

    Args:
        path: of the file.
        tags: of its first image, for which `_fits` holds.
    """

    #: Whether a small rectangle takes little: without compression, or from tiles, since of a strip
    #: the whole rows are decoded.
    reads_little: bool

    def __init__(self, path: Path, tags: TiffImagePlugin.ImageFileDirectory_v2) -> None:
        super().__init__(int(tags[256]), int(tags[257]))
        self._path, self._tiled = path, TiffImagePlugin.TILEOFFSETS in tags
        if self._tiled:
            self._block = (
                int(tags[TiffImagePlugin.TILEWIDTH]),
                int(tags[TiffImagePlugin.TILELENGTH]),
            )
            places = TiffImagePlugin.TILEOFFSETS, TiffImagePlugin.TILEBYTECOUNTS
        else:
            self._block = self.width, int(tags[TiffImagePlugin.ROWSPERSTRIP])
            places = TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.STRIPBYTECOUNTS
        self.by_rows = not self._tiled
        self.reads_little = self._tiled or tags.get(TiffImagePlugin.COMPRESSION, _RAW) == _RAW
        if min(self._block) < 1:
            raise ValueError("a block without pixels")
        self._offsets, self._sizes = (tuple(map(int, tags[tag])) for tag in places)
        if not self._tiled and len(self._offsets) == 1:
            self._split(tags)
        self._across = -(-self.width // self._block[0])
        self._prefix = tags.prefix
        self._shared = {tag: (tags.tagtype[tag], tags[tag]) for tag in _SHARED if tag in tags}
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        needed = self._across * -(-self.height // self._block[1])
        if len(self._offsets) != len(self._sizes) or len(self._offsets) < needed:
            raise ValueError("blocks are missing")

    def read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        wide, high = self._block
        found = np.empty((bottom - top, right - left, 3), np.uint8)
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                block, x, y = self._decoded(row * self._across + column), column * wide, row * high
                x0, x1 = max(left, x), min(right, x + wide)
                y0, y1 = max(top, y), min(bottom, y + high)
                found[y0 - top : y1 - top, x0 - left : x1 - left] = block[
                    y0 - y : y1 - y, x0 - x : x1 - x
                ]
        return found

    def _split(self, tags: TiffImagePlugin.ImageFileDirectory_v2) -> None:
        """Take a single strip, whose rows lie one after the other, for many."""
        row = self.width * len(tags[TiffImagePlugin.BITSPERSAMPLE])
        rows = max(1, 2**20 // row)
        tops = range(0, self.height, rows)
        start = self._offsets[0]
        if self._sizes[0] < row * self.height:
            raise ValueError("rows are missing")
        self._block = self.width, rows
        self._offsets = tuple(start + top * row for top in tops)
        self._sizes = tuple(row * min(rows, self.height - top) for top in tops)

    def _decoded(self, index: int) -> np.ndarray:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        block = np.asarray(read_rgb(self._file(index), str(self._path)))
        width, height = self._size(index)
        if block.shape[:2] != (height, width):
            raise UserError(f"{self._path} has a block of another size: replace the file")
        self._kept[index] = block
        while len(self._kept) > 1 and len(self._kept) * block.nbytes > KEPT:
            self._kept.popitem(last=False)
        return block

    def _size(self, index: int) -> tuple[int, int]:
        """Width and height of a block as stored: tiles are padded, the last strip is not."""
        wide, high = self._block
        if self._tiled:
            return wide, high
        return wide, min(high, self.height - index * high)

    def _file(self, index: int) -> bytes:
        """A block as the content of a TIFF that holds nothing else."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offsets[index])
                content = file.read(self._sizes[index])
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self._path} cannot be read ({reason}): restore the file") from None
        width, height = self._size(index)
        sizes = {
            256: width,
            257: height,
            TiffImagePlugin.ROWSPERSTRIP: height,
            TiffImagePlugin.STRIPOFFSETS: 0,  # Pillow adds the length of the header
            TiffImagePlugin.STRIPBYTECOUNTS: len(content),
        }
        tags = self._shared | {tag: (TiffTags.LONG, value) for tag, value in sizes.items()}
        own, header = TiffImagePlugin.ImageFileDirectory_v2(prefix=self._prefix), io.BytesIO()
        try:
            for tag, (kind, value) in tags.items():
                own.tagtype[tag] = kind
                own[tag] = value
            own.save(header)
        except _UNREADABLE as error:
            raise UserError(
                f"{self._path} cannot be decoded (its tags: {error}): replace the file"
            ) from None
        return header.getvalue() + content


def open_regions(path: Path, stored_pixels: bool = False) -> Regions:
    """An image file whose rectangles are read.

    TIFFs with 8 bits per channel in tiles or strips are read block by block; any other file is
    decoded here, as `read_rgb` does.

    Args:
        path: of the file.
        stored_pixels: whether the pixels stay as they are stored, whatever EXIF says.

    Raises UserError if the file is missing, too large or no image.
    """
    return blocks_of(path) or Decoded(np.array(read_rgb(path, upright=not stored_pixels)))


def blocks_of(path: Path) -> Blocks | None:
    """The blocks of a TIFF that EXIF does not turn; None if it has none to decode by themselves.

    Raises UserError if the file is missing, too large or no image.
    """
    header = read_photo_header(path)
    if header.deep or header.facing.tag != 1:
        return None
    try:
        with open_image(path) as image:
            if not isinstance(image, TiffImagePlugin.TiffImageFile):
                return None
            return Blocks(path, image.tag_v2) if _fits(image) else None
    except _UNREADABLE:  # decoding the whole image says what is wrong
        return None


def _fits(image: TiffImagePlugin.TiffImageFile) -> bool:
    tags = image.tag_v2
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    return (
        image.mode in _MODES
        and set(bits) == {8}
        and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 1
        and tags.get(TiffImagePlugin.COMPRESSION, 1) != _OLD_JPEG
        and (
            TiffImagePlugin.TILEOFFSETS in tags
            or tags.get(TiffImagePlugin.ROWSPERSTRIP, image.height) < image.height
            or tags.get(TiffImagePlugin.COMPRESSION, 1) == _RAW
        )
    )
