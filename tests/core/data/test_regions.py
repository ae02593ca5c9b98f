from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.tiled import write_tiled
from u2pl.data import regions
from u2pl.data.reading import read_rgb
from u2pl.data.regions import Blocks, Decoded, open_regions
from u2pl.errors import UserError


def pixels(height: int = 45, width: int = 70) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (-(-height // 5), -(-width // 5), 3))
    return np.kron(coarse, np.ones((5, 5, 1)))[:height, :width].astype(np.uint8)


RECTANGLES = [(0, 0, 70, 45), (3, 5, 66, 44), (16, 16, 32, 32), (69, 44, 70, 45), (0, 20, 70, 21)]


def same_pixels(found: regions.Regions, path: Path) -> None:
    whole = np.asarray(read_rgb(path))
    assert (found.width, found.height) == (whole.shape[1], whole.shape[0])
    for left, top, right, bottom in RECTANGLES:
        np.testing.assert_array_equal(
            found.read(left, top, right, bottom), whole[top:bottom, left:right]
        )
    np.testing.assert_array_equal(found.whole(), whole)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("compression", ["raw", "tiff_deflate", "tiff_lzw", "packbits", "jpeg"])
def test_strips_are_read_as_the_whole_is(tmp_path: Path, mode: str, compression: str) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(pixels()).convert(mode).save(path, compression=compression, strip_size=700)
    found = open_regions(path)
    assert isinstance(found, Blocks)
    same_pixels(found, path)


@pytest.mark.parametrize(("grey", "jpeg"), [(False, False), (True, False), (True, True)])
def test_tiles_are_read_as_the_whole_is(tmp_path: Path, grey: bool, jpeg: bool) -> None:
    write_tiled(tmp_path / "a.tif", pixels()[..., 0] if grey else pixels(), 16, jpeg)
    found = open_regions(tmp_path / "a.tif")
    assert isinstance(found, Blocks)
    same_pixels(found, tmp_path / "a.tif")


def test_only_the_tiles_of_a_rectangle_are_decoded_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiled(tmp_path / "a.tif", pixels(), 16)
    decoded: list[int] = []
    real = Blocks._file
    monkeypatch.setattr(
        Blocks, "_file", lambda self, index: decoded.append(index) or real(self, index)
    )
    found = open_regions(tmp_path / "a.tif")
    for _ in range(2):
        found.read(20, 3, 40, 18)
    assert decoded == [1, 2, 6, 7]
    monkeypatch.setattr(regions, "KEPT", 2 * 16 * 16 * 3)  # room for two of them
    found.read(0, 0, 70, 16)
    found.read(0, 0, 70, 16)
    assert decoded.count(0) == 2


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels()).save(path, exif=exif, compression="tiff_deflate", strip_size=700)


#: What has no blocks that could be decoded by themselves.
WHOLE: dict[str, Any] = {
    "a.jpg": lambda path: Image.fromarray(pixels()).save(path),
    "a.png": lambda path: Image.fromarray(pixels()).convert("P").save(path),
    "turned.tif": turned,
    "palette.tif": lambda path: Image.fromarray(pixels()).convert("P").save(path),
    "deep.tif": lambda path: Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257).save(
        path, compression="tiff_deflate", strip_size=700
    ),
    "one.tif": lambda path: Image.fromarray(pixels()).save(path, compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_other_files_are_decoded_once(tmp_path: Path, name: str) -> None:
    WHOLE[name](tmp_path / name)
    found = open_regions(tmp_path / name)
    assert isinstance(found, Decoded)
    np.testing.assert_array_equal(found.whole(), np.asarray(read_rgb(tmp_path / name)))


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_a_reduced_image_is_that_of_the_whole(tmp_path: Path, factor: int) -> None:
    tall = np.tile(pixels(), (20, 1, 1))
    found = Decoded(tall).reduced(factor)
    expected = np.asarray(Image.fromarray(tall).reduce(factor))
    np.testing.assert_array_equal(found, expected)


def test_a_damaged_block_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiled(path, pixels(), 16)
    content = bytearray(path.read_bytes())
    content[8:40] = bytes(32)
    path.write_bytes(content)
    found = open_regions(path)
    found.read(20, 20, 30, 30)
    with pytest.raises(UserError, match=r"a\.tif cannot be decoded"):
        found.read(0, 0, 5, 5)


def test_damaged_tags_are_one_line(tmp_path: Path) -> None:
    """Whatever byte of the tags is another one, an image or one line comes out."""
    path = tmp_path / "a.tif"
    write_tiled(path, pixels(), 16)
    content = path.read_bytes()
    start = int.from_bytes(content[4:8], "little")
    for place in range(start, len(content), 3):
        for value in (0, 255):
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                found = open_regions(path)
                found.read(0, 0, min(found.width, 40), min(found.height, 20))
            except UserError as error:
                assert "a.tif" in str(error) and "\n" not in str(error)


def test_an_image_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiled(tmp_path / "a.tif", pixels(), 16)
    monkeypatch.setenv("U2PL_MEGAPIXELS", "0.003")
    with pytest.raises(
        UserError, match=r"a\.tif has 70x45 pixels, more than the 0\.003 megapixels"
    ):
        open_regions(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_a_turned_photo_is_read_as_viewers_show_it_or_as_it_is_stored(
    tmp_path: Path, name: str
) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels()).save(tmp_path / name, exif=exif)
    assert (open_regions(tmp_path / name).width, open_regions(tmp_path / name).height) == (45, 70)
    stored = open_regions(tmp_path / name, stored_pixels=True)
    assert (stored.width, stored.height) == (70, 45)
    whole = read_rgb(tmp_path / name, upright=False)
    np.testing.assert_array_equal(stored.whole(), np.asarray(whole))


@pytest.mark.parametrize("content", [b"", b"II*\0\x08\0\0\0\xff\xff", b"GIF89a", None])
def test_what_is_no_image_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tif (cannot be decoded|does not exist)"):
        open_regions(tmp_path / "a.tif")
