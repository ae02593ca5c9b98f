from __future__ import annotations

import io
import multiprocessing
import os
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.png import rgb16, rgb16_tiff
from u2pl.data import reading
from u2pl.data.reading import check_range, check_size, read_ids, read_mask, read_rgb, read_size
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


#: 12 bits in 16, 10 bits, 8 bits in 32, and 16 bits: values, and what they become.
DEPTHS = {
    "12 bits": ([0, 16, 2048, 4095], [0, 1, 128, 255]),
    "10 bits": ([0, 4, 512, 1023], [0, 1, 128, 255]),
    "8 bits": ([0, 1, 128, 255], [0, 1, 128, 255]),
    "16 bits": ([0, 257, 32768, 65535], [0, 1, 128, 255]),
}


@pytest.mark.parametrize("case", DEPTHS)
@pytest.mark.parametrize("kind", ["grey.png", "grey.tif", "int32.tif", "rgb.png", "rgb.tif"])
def test_more_bits_are_scaled_by_the_range_that_they_use(
    tmp_path: Path, case: str, kind: str
) -> None:
    values, expected = DEPTHS[case]
    wide, file = np.array([values] * 2, np.uint16), tmp_path / kind
    if kind == "rgb.png":
        file.write_bytes(rgb16(np.repeat(wide[..., None], 3, axis=2)))
    elif kind == "rgb.tif":
        file.write_bytes(rgb16_tiff(np.repeat(wide[..., None], 3, axis=2)))
    else:
        Image.fromarray(wide.astype(np.int32) if "32" in kind else wide).save(file)
    found = np.asarray(read_rgb(file))
    assert (abs(found[..., 1].astype(int) - expected) <= (kind[0] == "r")).all()
    assert (found == found[..., :1]).all()


def test_a_dark_photo_of_16_bits_in_colour_keeps_its_high_bytes(tmp_path: Path) -> None:
    pixels = np.full((2, 3, 3), 64 * 256 + 200, np.uint16)
    (tmp_path / "a.png").write_bytes(rgb16(pixels))
    assert np.unique(np.asarray(read_rgb(tmp_path / "a.png"))).tolist() == [64]


@pytest.mark.parametrize("values", [[-1, 5], [0, 70000]])
def test_values_that_are_no_brightness_are_refused(tmp_path: Path, values: list[int]) -> None:
    Image.fromarray(np.array([values], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"holds values from {values[0]} to {values[1]}: save it"):
        read_rgb(tmp_path / "a.tif")


def test_large_images_have_a_limit_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    Image.new("1", (18_000, 10_001)).save(tmp_path / "a.png")  # Pillow's own limit is 179
    assert read_size(tmp_path / "a.png") == (18_000, 10_001)
    assert read_ids(tmp_path / "a.png").shape == (10_001, 18_000)
    assert not recwarn.list and Image.MAX_IMAGE_PIXELS is not None
    monkeypatch.setenv("U2PL_MEGAPIXELS", "100")
    says = (
        r"a\.png has 18000x10001 pixels, more than the 100 megapixels that are decoded: if that is "
        "right, set the environment variable U2PL_MEGAPIXELS to 181 or more"
    )
    for read in (read_rgb, read_ids, read_size):
        with pytest.raises(UserError, match=says):
            read(tmp_path / "a.png")
    for wrong in ("many", "0", "nan"):
        monkeypatch.setenv("U2PL_MEGAPIXELS", wrong)
        with pytest.raises(UserError, match=f"U2PL_MEGAPIXELS is '{wrong}': set it to a number"):
            read_size(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_a_process_that_is_forked_while_an_image_is_opened_opens_its_own(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    with reading.any_size():
        child = multiprocessing.get_context("fork").Process(
            target=read_size, args=(tmp_path / "a.png",)
        )
        child.start()
        child.join(20)
    assert child.exitcode == 0


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


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_ids_that_went_through_lossy_compression_are_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"m.{suffix}"
    Image.new("L", (3, 3)).save(file, "JPEG")
    with pytest.raises(UserError, match=rf"m\.{suffix} is a JPEG image, whose compression changes"):
        read_ids(file)
    assert read_mask(file).lossy == "JPEG"


def test_colours_of_16_bits_are_no_mask(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(rgb16(np.ones((2, 2, 3), np.uint16)))
    with pytest.raises(UserError, match=r"m\.png holds 16 bits in each channel: save the mask"):
        read_mask(tmp_path / "m.png")


def test_transparency_of_a_grey_mask_is_dropped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[1, 0], [2, 255]]], np.uint8), "LA").save(tmp_path / "m.png")
    assert read_ids(tmp_path / "m.png").tolist() == [[1, 2]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
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
    with pytest.raises(UserError, match=r"m is 4x6, but its image i is 6x4 \(one of the two lies"):
        check_size(np.zeros((6, 4), np.uint8), stream.getvalue(), "m", "i")


def test_formats_that_are_not_documented_are_not_opened(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for an EPS, whatever its name."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png cannot be decoded \(no known image format\)"):
        read_rgb(tmp_path / "a.png")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        for read in (read_rgb, read_ids, read_size):
            with pytest.raises(UserError, match=f"{name} is no file: replace it by an image"):
                read(tmp_path / name)
    (tmp_path / "lost.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"lost\.png is a link that leads nowhere: mend it"):
        read_rgb(tmp_path / "lost.png")


def _png(mode: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (4, 3), 1).save(file, "PNG", **options)
    return file.getvalue()


def _with_chunk(content: bytes, kind: bytes, body: bytes) -> bytes:
    """The PNG with another body of a chunk, and a checksum that fits."""
    at = content.index(kind)
    length = int.from_bytes(content[at - 4 : at], "big")
    new = len(body).to_bytes(4, "big") + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return content[: at - 4] + new + content[at + length + 8 :]


def test_whatever_a_decoder_raises_is_one_line() -> None:
    """Each of Pillow's has errors of its own; these are of the headers that a mask has too."""
    palette = _png("P", transparency=0)
    for content in (
        _with_chunk(palette, b"PLTE", b"\0" * 8),
        _with_chunk(palette, b"tRNS", b"\0" * 1000),
    ):
        for read in (read_rgb, read_mask, read_size):
            with suppress(UserError):  # the others may have no use for it
                read(content)
    with pytest.raises(UserError, match="image cannot be decoded"):
        read_mask(_with_chunk(palette, b"PLTE", b"\0" * 8))
    with pytest.raises(UserError, match="image cannot be decoded"):
        read_rgb(_with_chunk(palette, b"tRNS", b"\0" * 1000))
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "AVIF")
    avif = file.getvalue()
    for place in range(len(avif) - 60, len(avif), 4):
        with suppress(UserError):
            read_rgb(avif[:place] + bytes(4) + avif[place + 4 :])


def test_a_damaged_header_of_a_whole_photo_is_no_matter_of_a_warning(tmp_path: Path) -> None:
    photo = Image.new("RGB", (8, 8))
    photo.getexif()[0x0112] = 6
    photo.save(tmp_path / "photo.jpg", exif=photo.getexif())
    content = (tmp_path / "photo.jpg").read_bytes()
    at = content.index(b"MM\0*") + 9
    (tmp_path / "photo.jpg").write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    code = "import sys; from pathlib import Path; from u2pl.data.reading import read_rgb; "
    code += "print(read_rgb(Path(sys.argv[1])).size)"
    command = [sys.executable, "-c", code, str(tmp_path / "photo.jpg")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(8, 8)\n", "")
