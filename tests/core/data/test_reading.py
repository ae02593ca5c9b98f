from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2pl.data.reading import check_range, check_size, read_ids, read_rgb
from u2pl.errors import UserError


def _grey_png(width: int, bits: int, rows: list[bytes]) -> bytes:
    """A greyscale PNG of fewer than 8 bits, which Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode).save(file)
    image = read_rgb(file)
    assert (image.mode, image.size) == ("RGB", (5, 3))
    assert np.asarray(image).min() >= 250


def test_palette_with_transparency_keeps_its_colours_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert read_rgb(tmp_path / "a.png").getpixel((0, 0)) == (200, 100, 50)
    assert not recwarn.list


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257, 2770, 40000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(read_rgb(tmp_path / "a.png"))[0, :, 1].tolist() == [0, 1, 11, 156, 255]


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(tmp_path / "a.jpg").size == (6, 4)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.6])
def test_truncated_or_empty_image_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match=rf"a\.{suffix} cannot be decoded"):
        read_rgb(file)


def test_missing_text_and_float_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        read_rgb(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"text\.png cannot be decoded \(no known image format\)"):
        read_rgb(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"float\.tif holds floating-point"):
        read_rgb(tmp_path / "float.tif")


@pytest.mark.parametrize("mode", ["P", "L", "I;16", "I"])
def test_ids_are_read_as_stored(tmp_path: Path, mode: str) -> None:
    ids = np.array([[0, 1, 2], [7, 254, 255]])
    if mode == "P":
        mask = Image.fromarray(ids.astype(np.uint8))
        mask.putpalette(list(range(255, -1, -1)) * 3)
    else:
        mask = Image.fromarray(ids.astype({"L": np.uint8, "I;16": np.uint16, "I": np.int32}[mode]))
    assert mask.mode == mode
    mask.save(tmp_path / "m.png" if mode != "I" else tmp_path / "m.tif")
    read = read_ids(tmp_path / "m.png" if mode != "I" else tmp_path / "m.tif")
    assert read.dtype == np.uint8
    assert read.tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("bits", "row", "ids"),
    [(1, b"\x50", [0, 1, 0, 1]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])],
)
def test_greyscale_of_few_bits_is_not_stretched(bits: int, row: bytes, ids: list[int]) -> None:
    assert read_ids(_grey_png(4, bits, [row, row])).tolist() == [ids, ids]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_coloured_mask_says_what_a_mask_is(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (3, 3)).save(tmp_path / "m.png")
    with pytest.raises(
        UserError, match=rf"m\.png is a {mode} image: a mask must hold one class id per pixel"
    ):
        read_ids(tmp_path / "m.png")


def test_large_values_of_a_wide_mask_are_reported(tmp_path: Path) -> None:
    Image.fromarray(np.array([[3, 4660]], np.uint16)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="from 3 to 4660"):
        read_ids(tmp_path / "m.png")


def test_foreign_ids_are_listed() -> None:
    ids = np.array([[0, 2, 3, 9, 255]], np.uint8)
    assert check_range(ids, 10, "m.png") is ids
    with pytest.raises(
        UserError, match=r"m\.png holds ids 3, 9, but there are 3 classes \(0 to 2; 255 = ignore\)"
    ):
        check_range(ids, 3, "m.png")


def test_another_size_names_both() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4)).save(stream, "PNG")
    assert check_size(np.zeros((4, 6), np.uint8), stream.getvalue(), "m", "i").shape == (4, 6)
    with pytest.raises(UserError, match="m is 5x4, but its image i is 6x4:"):
        check_size(np.zeros((4, 5), np.uint8), stream.getvalue(), "m", "i")
    with pytest.raises(UserError, match=r"m is 4x6, but its image i is 6x4 \(turned by its EXIF"):
        check_size(np.zeros((6, 4), np.uint8), stream.getvalue(), "m", "i")
