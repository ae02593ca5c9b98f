"""Crops of large photos: the pixels of the whole image, which is decoded at most once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from harness.tiled import write_tiled
from u2pl.data import file_source, large_photos
from u2pl.data.content import photo_notes
from u2pl.data.large_photos import LargePhoto
from u2pl.data.orientation import STORED
from u2pl.data.reading import read_rgb
from u2pl.data.regions import Decoded
from u2pl.data.sources.folder import Folder
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainSample, TrainTransform
from u2pl.errors import UserError

WIDTH, HEIGHT = 90, 70


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(large_photos, "LARGE", WIDTH * HEIGHT)
    monkeypatch.setattr(
        large_photos.shutil, "disk_usage", lambda _: SimpleNamespace(free=9, total=1)
    )
    monkeypatch.setattr(large_photos, "SPARED", -np.inf)
    monkeypatch.setenv("U2PL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded whole, one after the other."""
    found: list[str] = []

    def reading(real: Callable[..., object]) -> Callable[..., object]:
        def read(file: Path, *args: object, **options: object) -> object:
            found.append(file.name)
            return real(file, *args, **options)

        return read

    monkeypatch.setattr(file_source, "read_rgb", reading(file_source.read_rgb))
    real = Folder.decode_mask
    monkeypatch.setattr(
        Folder, "decode_mask", lambda self, file: reading(lambda file: real(self, file))(file)
    )
    return found


def noise(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def photos(root: Path, **files: Callable[[Path], object]) -> Path:
    """A folder of a large photo, `a` with some suffix, its mask, and small ones."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    ids = np.random.default_rng(1).integers(0, 3, (HEIGHT, WIDTH), np.uint8)
    Image.fromarray(ids).save(root / "masks" / "a.png")
    for suffix, write in files.items():
        write(root / "images" / f"a.{suffix}")
    Image.fromarray(noise(8, 9)).save(root / "images" / "small.png")
    Image.fromarray(ids[:8, :9]).save(root / "masks" / "small.png")
    return root


def png(path: Path) -> None:
    Image.fromarray(noise()).save(path)


def samples(root: Path, crop: int = 31, long_side: int = 0) -> Iterator[TrainSample]:
    """Crops of `a`, on some of which a filter spans many pixels."""
    stream = Stream(
        Folder(root), ["a"], TrainTransform(crop, (0.2, 2.0), True, long_side), 0, "labelled"
    )
    return (stream[position] for position in range(40))


def same(found: TrainSample, expected: TrainSample) -> None:
    assert torch.equal(found.label, expected.label) and torch.equal(found.valid, expected.valid)
    # PIL scales rows or columns first, by the size of the image, and rounds in between
    assert (found.image.int() - expected.image.int()).abs().max() <= 1


@pytest.mark.parametrize("long_side", [0, 50])
@pytest.mark.parametrize("kind", ["png", "tiles", "rows", "strips"])
def test_crops_are_those_of_the_whole_image(
    tmp_path: Path, kind: str, long_side: int, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    writers: dict[str, tuple[str, Callable[[Path], object]]] = {
        "png": ("png", png),
        "tiles": ("tif", lambda path: write_tiled(path, noise(), 16)),
        "rows": ("tif", lambda path: Image.fromarray(noise()).save(path)),
        "strips": (
            "tif",
            lambda path: Image.fromarray(noise()).save(
                path, compression="tiff_lzw", strip_size=2000
            ),
        ),
    }
    suffix, write = writers[kind]
    root = photos(tmp_path / "photos", **{suffix: write})
    for _ in range(2):  # from the copy the second time
        found = list(samples(root, long_side=long_side))
    copied = {"png": "a.png", "strips": "a.tif"}
    assert decoded == [*([copied[kind]] if kind in copied else []), "a.png"]  # the last is the mask
    monkeypatch.setattr(large_photos, "LARGE", WIDTH * HEIGHT + 1)
    whole = list(samples(root, long_side=long_side))
    assert len(decoded) > 40
    for one, other in zip(found, whole, strict=True):
        same(one, other)


@pytest.mark.parametrize("shape", [(40, 5000), (5000, 40), (900, 800)])
def test_a_part_is_scaled_as_the_whole_would_be(shape: tuple[int, int]) -> None:
    """Far from the corner PIL's 32 bits are coarse, and the part must be cut at the same place."""
    pixels, rng = noise(*shape), np.random.default_rng(2)
    whole, large = Image.fromarray(pixels), LargePhoto(Decoded(pixels))
    assert large.size == whole.size
    transform = TrainTransform(33, (0.1, 3.0), False)
    for _ in range(30):
        geometry = transform.draw(whole.size, rng)
        same(transform.cut(large, None, geometry), transform.cut(whole, None, geometry))


def test_only_what_a_crop_needs_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int, int, int]] = []
    real = Decoded.read

    def reading(self: Decoded, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        read.append((left, top, right, bottom))
        return real(self, left, top, right, bottom)

    monkeypatch.setattr(Decoded, "read", reading)
    photo = LargePhoto(Decoded(noise()))
    photo.resize((10, 10), Image.Resampling.BILINEAR, (20.0, 30.0, 30.0, 40.0))
    photo.resize((10, 5), Image.Resampling.BILINEAR, (0.0, 0.5, 20.0, 20.5))
    assert read == [(18, 28, 32, 42), (0, 0, 23, 26)]


def test_only_large_photos_and_their_masks_are_copied(tmp_path: Path, cache: Path) -> None:
    source = Folder(photos(tmp_path / "photos", png=png))
    assert isinstance(source.image_to_cut("small"), Image.Image)
    assert isinstance(source.image_to_cut("a"), LargePhoto)
    source.mask_to_cut("small")
    assert len(list(cache.glob("decoded-*.raw"))) == 1
    np.testing.assert_array_equal(source.mask_to_cut("a"), source.mask("a"))
    assert len(list(cache.glob("decoded-*.raw"))) == 2


def test_what_pixels_follow_from_makes_another_copy(
    tmp_path: Path, cache: Path, decoded: list[str]
) -> None:
    root = photos(tmp_path / "photos", png=png)

    def both() -> tuple[np.ndarray, np.ndarray]:
        source = Folder(root)
        photo = source.image_to_cut("a")
        assert isinstance(photo, LargePhoto)
        return photo.regions.whole(), source.mask_to_cut("a")

    image, mask = both()
    (root / "meta.toml").write_text('ignore = ["dog"]\n')  # changes the ids and no pixel
    again, moved = both()
    assert decoded == ["a.png"] * 3
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(moved, np.where(mask == 2, 255, mask))
    Image.fromarray(255 - noise()).save(root / "images" / "a.png")
    np.testing.assert_array_equal(both()[0], 255 - image)


@pytest.mark.parametrize("exif", ["upright", "stored"])
def test_a_turned_photo_lies_as_its_mask_was_drawn(tmp_path: Path, exif: str) -> None:
    def half_turn(path: Path) -> None:
        tags = Image.Exif()
        tags[274] = 3
        Image.fromarray(noise()).save(path, exif=tags, quality=100)

    root = photos(tmp_path / "photos", jpg=half_turn)
    for rule in (exif, "upright"):
        (root / "meta.toml").write_text(f'exif = "{rule}"\n')
        source = Folder(root)
        photo = source.image_to_cut("a")
        assert isinstance(photo, LargePhoto)
        expected = read_rgb(root / "images" / "a.jpg", upright=source.exif != STORED)
        np.testing.assert_array_equal(photo.regions.whole(), np.asarray(expected))


@pytest.mark.parametrize("kind", ["image_to_cut", "mask_to_cut"])
@pytest.mark.parametrize("change", [-1, 1, -(10**6)])
def test_a_damaged_copy_is_made_anew(
    tmp_path: Path, cache: Path, decoded: list[str], kind: str, change: int
) -> None:
    source = Folder(photos(tmp_path / "photos", png=png))
    getattr(source, kind)("a")
    (copy,) = cache.glob("decoded-*.raw")
    content = copy.read_bytes()
    copy.write_bytes((content + bytes(1))[: max(0, len(content) + change)])
    getattr(source, kind)("a")
    assert decoded == ["a.png"] * 2 and copy.read_bytes() == content


def test_a_copy_that_may_not_be_touched_is_used(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(path)

    source = Folder(photos(tmp_path / "photos", png=png))
    monkeypatch.setattr(large_photos.os, "utime", refuse)
    for _ in range(2):
        source.image_to_cut("a")
    assert decoded == ["a.png"]


def test_a_mask_that_went_away_is_one_line(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", png=png)
    source = Folder(root)
    (root / "masks" / "a.png").unlink()
    with pytest.raises(UserError, match=r"masks/a\.png does not exist"):
        source.mask_to_cut("a")


def test_sources_that_read_photos_otherwise_have_no_copies(tmp_path: Path, cache: Path) -> None:
    class Dark(Folder):
        def image(self, id: str) -> Image.Image:
            return super().image(id).point(lambda value: value // 2)

    root = photos(tmp_path / "photos", tif=lambda path: write_tiled(path, noise(), 16))
    image = Dark(root).image_to_cut("a")
    assert isinstance(image, Image.Image) and not cache.exists()
    np.testing.assert_array_equal(np.asarray(image), noise() // 2)


def test_copies_leave_room_and_make_room(
    tmp_path: Path, cache: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Folder(photos(tmp_path / "photos", png=png))

    def copies() -> set[str]:
        source.image_to_cut("a")
        return {file.name for file in cache.glob("decoded-*.raw")}

    cache.mkdir()
    old, new = cache / "decoded-old.raw", cache / "decoded-new.raw"
    for file in (old, new):
        file.write_bytes(bytes(10_000))
    os.utime(old, (1, 1))
    monkeypatch.setenv("U2PL_DECODED_GB", "0.00002")  # 20 kB, and a copy takes 19
    assert copies() == {"decoded-new.raw"}  # what nobody uses goes, the rest stays
    monkeypatch.setenv("U2PL_DECODED_GB", "0.00003")
    monkeypatch.setattr(large_photos, "SPARED", 0.1)
    monkeypatch.setattr(
        large_photos.shutil, "disk_usage", lambda _: SimpleNamespace(free=20_000, total=100_000)
    )
    assert copies() == {"decoded-new.raw"}
    monkeypatch.setattr(
        large_photos.shutil, "disk_usage", lambda _: SimpleNamespace(free=29_000, total=100_000)
    )
    assert len(copies()) == 2 and decoded == ["a.png"] * 3
    copies()
    assert decoded == ["a.png"] * 3


def test_no_copies_are_kept_where_nobody_wants_them(
    tmp_path: Path, cache: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Folder(photos(tmp_path / "photos", png=png))
    monkeypatch.setenv("U2PL_DECODED_GB", "0")
    (without,) = photo_notes(source, ["a", "small"])
    found = [source.image_to_cut("a") for _ in range(2)]
    assert decoded == ["a.png"] * 2 and not cache.exists()
    assert all(isinstance(photo, LargePhoto) for photo in found)
    assert without.endswith("since no copies are kept (U2PL_DECODED_GB=0)")
    monkeypatch.setenv("U2PL_DECODED_GB", "much")
    with pytest.raises(UserError, match="U2PL_DECODED_GB is 'much': set it to a number of"):
        photo_notes(source, ["a"])
    cache.write_text("a file where the folder should be")
    monkeypatch.delenv("U2PL_DECODED_GB")
    source.image_to_cut("a")
    assert decoded == ["a.png"] * 3


def test_a_run_says_what_copies_take(tmp_path: Path, cache: Path) -> None:
    source = Folder(photos(tmp_path / "photos", png=png))
    (note,) = photo_notes(source, ["a", "small"])
    assert note == (
        "1 of 2 photos looked at have 20 megapixels or more: crops are cut from decoded copies in "
        f"{cache}, which take about 25 kB, at most 50.0 GB (U2PL_DECODED_GB sets it, 0 for no "
        "copies)"
    )
    shutil.rmtree(tmp_path / "photos")
    tiled = photos(tmp_path / "photos", tif=lambda path: write_tiled(path, noise(), 16))
    (note,) = photo_notes(Folder(tiled), ["a", "small"])
    assert "about 6 kB" in note  # for the mask
    (tiled / "masks" / "a.png").unlink()
    assert photo_notes(Folder(tiled), ["a", "small"]) == []


def test_a_damaged_part_of_an_unlabelled_photo_is_skipped(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", tif=lambda path: write_tiled(path, noise(), 16))
    file = root / "images" / "a.tif"
    content = bytearray(file.read_bytes())
    content[8:3000] = bytes(2992)
    file.write_bytes(content)
    source = Folder(root)
    transform = TrainTransform(80, (1.0, 1.0), False)
    stream = Stream(source, ["a", "small"], transform, 0, "unlabelled", "extra")
    heights = {int(stream[position].valid.any(1).sum()) for position in range(4)}
    assert heights == {8} and stream.skipped() == ["a"]  # the small one is shown instead
