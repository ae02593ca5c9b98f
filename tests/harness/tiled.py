"""Tiled TIFFs, which Pillow reads and does not write."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

#: Names of the types of a tag's values: bytes of one, and how struct spells it.
_SHORT, _LONG = (3, "H"), (4, "I")


def write_tiled(path: Path, pixels: np.ndarray, side: int = 16, jpeg: bool = False) -> None:
    """Write uint8 [H, W] or [H, W, 3] as a TIFF in square tiles, deflated or as JPEGs."""
    height, width = pixels.shape[:2]
    bands = pixels[..., None] if pixels.ndim == 2 else pixels
    tiles = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            tile = np.zeros((side, side, bands.shape[2]), np.uint8)
            part = bands[top : top + side, left : left + side]
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(_jpeg(tile) if jpeg else zlib.compress(tile.tobytes()))
    offsets = 8 + np.cumsum([0, *(len(tile) for tile in tiles)])
    bits = bands.shape[2]
    tags = [
        (256, _LONG, [width]),
        (257, _LONG, [height]),
        (258, _SHORT, [8] * bits),
        (259, _SHORT, [7 if jpeg else 8]),
        (262, _SHORT, [2 if bits == 3 else 1]),
        (277, _SHORT, [bits]),
        (284, _SHORT, [1]),
        (322, _LONG, [side]),
        (323, _LONG, [side]),
        (324, _LONG, offsets[:-1].tolist()),
        (325, _LONG, [len(tile) for tile in tiles]),
    ]
    start = int(offsets[-1])
    entries, behind = b"", b""
    after = start + 2 + 12 * len(tags) + 4
    for tag, (kind, letter), values in tags:
        content = struct.pack(f"<{len(values)}{letter}", *values)
        if len(content) > 4:
            place = struct.pack("<I", after + len(behind))
            behind += content
        else:
            place = content.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(values)) + place
    head = b"II*\0" + struct.pack("<I", start)
    directory = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    path.write_bytes(head + b"".join(tiles) + directory + behind)


def _jpeg(tile: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(tile[..., 0]).save(encoded, "JPEG", quality=95)
    return encoded.getvalue()
