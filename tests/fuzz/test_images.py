"""A mutated image is refused in a line, or has the pixels that Pillow alone gives."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from torch import from_numpy
from torchvision.io import decode_png

from harness.mutations import Mutate, in_bytes, in_png
from harness.verdicts import Subject, expect
from u2pl.data.opening import open_source
from u2pl.data.reading import read_rgb
from u2pl.data.regions import open_regions

#: Width and height.
SIZE = (21, 17)


def drawn(mode: str) -> Image.Image:
    """Noise, so that every bit of the file matters."""
    draw = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(draw.integers(0, 4096, SIZE[::-1]).astype(np.uint16))
    noise = draw.integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(kind: str, mode: str = "RGB", turned: bool = False, **options: Any) -> bytes:
    """The content of an image's file."""
    file, image = io.BytesIO(), drawn(mode)
    if turned:
        image.getexif()[ExifTags.Base.Orientation] = 6
        options["exif"] = image.getexif()
    image.save(file, kind, **options)
    return file.getvalue()


PHOTOS: dict[str, tuple[bytes, Mutate]] = {
    "photo png": (encoded("PNG"), in_png),
    "photo png of a palette": (encoded("PNG", "P", transparency=3), in_png),
    "photo png of 16 bits": (encoded("PNG", "I;16"), in_png),
    "photo jpeg": (encoded("JPEG", turned=True), in_bytes),
    "photo progressive jpeg": (encoded("JPEG", progressive=True), in_bytes),
    "photo tiff": (encoded("TIFF", turned=True), in_bytes),
    "photo tiff lzw": (encoded("TIFF", compression="tiff_lzw"), in_bytes),
    "photo tiff of 16 bits": (encoded("TIFF", "I;16"), in_bytes),
    "photo webp": (encoded("WEBP"), in_bytes),
    "photo bmp": (encoded("BMP"), in_bytes),
    "photo gif": (encoded("GIF", "P"), in_bytes),
    "photo ppm": (encoded("PPM"), in_bytes),
    "photo jp2": (encoded("JPEG2000"), in_bytes),
    "photo avif": (encoded("AVIF"), in_bytes),
}


def written(content: bytes, mutate: Mutate, draw: Random, folder: Path) -> str:
    """The mutated image in the folder."""
    new, words = mutate(draw, content)
    (folder / "photo.png").write_bytes(new)
    return words


@pytest.fixture(autouse=True)
def _no_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header may claim any size."""
    monkeypatch.setenv("U2PL_MEGAPIXELS", "4")


def both_ways(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """As training reads it, and as `predict` reads it: in parts."""
    path = folder / "photo.png"
    return np.asarray(read_rgb(path)), open_regions(path).whole()


def as_pillow_reads_it(folder: Path, read: tuple[np.ndarray, np.ndarray]) -> None:
    whole, parts = read
    expect(np.array_equal(whole, parts), "training and prediction read other pixels")
    expected, tolerance = pixels_of(folder / "photo.png")
    expect(whole.shape == expected.shape, f"{whole.shape}, Pillow: {expected.shape}")
    difference = int(np.abs(whole.astype(np.int16) - expected).max())
    expect(difference <= tolerance, f"pixels differ by {difference} from Pillow's")


def pixels_of(path: Path) -> tuple[np.ndarray, int]:
    """What Pillow and nothing else reads, 8 bits in RGB, and by how much it may be off."""
    with Image.open(path) as image:
        raw = str(image.tile[0][3]) if getattr(image, "tile", None) else ""
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        return slowly_scaled(np.asarray(upright))[..., None].repeat(3, -1), 0
    if ";16" in raw and image.format == "PNG":
        content = np.fromfile(path, np.uint8)
        colours = decode_png(from_numpy(content)).permute(1, 2, 0)[..., :3].numpy()
        return slowly_scaled(colours), 1  # Pillow keeps the high bytes
    return np.asarray(upright.convert("RGBA").convert("RGB") if upright.mode == "P" else
                      upright.convert("RGB")), 0  # fmt: skip


def slowly_scaled(values: np.ndarray) -> np.ndarray:
    """The fewest bits that hold the largest value, of which the full range becomes 0 to 255."""
    bits = min(each for each in (8, 10, 12, 14, 16) if int(values.max()) < 2**each)
    held, places = np.unique(values, return_inverse=True)
    scaled = [int(value) * 255 / (2**bits - 1) for value in held]
    return np.array([int(each + 0.5) for each in scaled])[places].reshape(values.shape)


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo(name: str, fuzzed: Callable[[Subject], None]) -> None:
    content, mutate = PHOTOS[name]
    write = partial(written, content)
    fuzzed(Subject.of_file(name, write, mutate, both_ways, as_pillow_reads_it))


def ids(mode: str) -> Image.Image:
    """Class ids below 4, and 255."""
    held = np.array([0, 1, 2, 3, 255], np.uint8) if mode == "P" else np.arange(4, dtype=np.uint8)
    image = Image.fromarray(np.random.default_rng(0).choice(held, (SIZE[1], SIZE[0])))
    if mode == "P":
        image = image.copy()
        image.putpalette([value for id in range(256) for value in (id, 255 - id, id)])
    return image


def mask(mode: str, **options: Any) -> bytes:
    """The content of a mask's file."""
    file = io.BytesIO()
    ids(mode).save(file, "PNG", **options)
    return file.getvalue()


MASKS = {
    "mask grey": mask("L"),
    "mask palette": mask("P"),
    "mask palette of 2 bits": mask("L", bits=2),
}


def beside(content: bytes, mutate: Mutate, draw: Random, folder: Path) -> str:
    """A folder of data whose one mask is mutated."""
    new, words = mutate(draw, content)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    drawn("RGB").save(folder / "images" / "a.png")
    (folder / "masks" / "a.png").write_bytes(new)
    (folder / "classes.txt").write_text("a\nb\nc\nd\n")
    return words


def mask_of(folder: Path) -> np.ndarray:
    """As training and scoring read it."""
    return open_source(str(folder)).mask("a")


def as_it_is_stored(folder: Path, read: np.ndarray) -> None:
    with Image.open(folder / "masks" / "a.png") as image:
        bits = image.tile[0][3]
        stored = np.asarray(image)
    stored = stored // {"L;2": 85, "L;4": 17}.get(bits, 1) if image.mode == "L" else stored
    expect(image.mode in ("L", "P", "1") or image.mode.startswith("I"), f"a mask of {image.mode}")
    expect(image.format == "PNG", f"a mask that is a {image.format}")
    expect(read.shape == SIZE[::-1] and np.array_equal(read, stored), "other ids")
    expect(((read < 4) | (read == 255)).all(), "ids that are no classes")


@pytest.mark.parametrize("name", MASKS)
def test_a_mask(name: str, fuzzed: Callable[[Subject], None]) -> None:
    write = partial(beside, MASKS[name])
    fuzzed(Subject.of_file(name, write, in_png, mask_of, as_it_is_stored))
