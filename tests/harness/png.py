"""Images that neither Pillow nor torchvision writes: PNG and TIFF of 16-bit colours."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def rgb16(pixels: np.ndarray) -> bytes:
    """A 16-bit RGB PNG of uint16 [H, W, 3]."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def rgb16_tiff(pixels: np.ndarray) -> bytes:
    """A 16-bit RGB TIFF of uint16 [H, W, 3], in one strip, without compression."""
    height, width = pixels.shape[:2]
    data = pixels.astype("<u2").tobytes()
    entries = [  # tag, type (3: 16 bits, 4: 32 bits), values
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [16, 16, 16]),
        (259, 3, [1]),
        (262, 3, [2]),
        (273, 4, [8]),
        (277, 3, [3]),
        (278, 4, [height]),
        (279, 4, [len(data)]),
    ]
    behind = 8 + len(data) + 2 + 12 * len(entries) + 4
    extra, listed = b"", b""
    for tag, kind, values in entries:
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", behind + len(extra)), extra + packed
        listed += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(entries)) + listed + b"\0" * 4 + extra
