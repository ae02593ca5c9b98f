"""Signs of masks that are not what they seem; clean masks show none."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2pl.data.content import mask_doubts
from u2pl.data.mask_checks import black_and_white, in_squares, is_blended, thin_ids
from u2pl.data.sources.folder import Folder

MakeFolder = Callable[..., Path]


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (7, 8)])
def test_squares_are_found_as_by_looking_at_each(side: int, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(side).integers(0, 2, shape)
    values[:4, :5] = 1
    slow = np.zeros(shape, bool)
    for y in range(shape[0] - side + 1):
        for x in range(shape[1] - side + 1):
            square = values[y : y + side, x : x + side]
            if (square == square[0, 0]).all():
                slow[y : y + side, x : x + side] = True
    assert np.array_equal(in_squares(values, side), slow)


def scene(number: int) -> np.ndarray:
    """A disc of id 8 and a box of id 5, as VOC has them, and a pole of id 3."""
    draw = np.random.default_rng(number)
    mask = np.zeros((96, 128), np.uint8)
    y, x = np.mgrid[:96, :128]
    mask[(y - draw.uniform(30, 60)) ** 2 + (x - draw.uniform(30, 50)) ** 2 < 400] = 8
    mask[20:50, 80:110] = 5
    mask[:, 120] = 3
    return mask


def jpeg(mask: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


@pytest.mark.parametrize("number", range(4))
def test_ids_that_nobody_drew_are_told_from_thin_objects(number: int) -> None:
    mask = scene(number)
    assert thin_ids(mask) == {3} and not is_blended(mask)
    for quality in (60, 75, 90, 95):
        assert is_blended(jpeg(mask, quality))
    small = Image.fromarray(mask).resize((90, 70), Image.Resampling.BILINEAR)
    assert is_blended(np.asarray(small))


def test_real_masks_raise_no_doubt(shared: Callable[[str], Path]) -> None:
    for name in ("voc-animals", "camvid"):
        source = Folder(shared(f"data/{name}"))
        ids = sorted(source.masks)[::40]
        assert not any(is_blended(source.mask(id)) for id in ids[:20])
        assert mask_doubts(source, ids) == []


def test_damaged_masks_of_a_folder_are_counted(make_folder: MakeFolder) -> None:
    names = [f"m{number}" for number in range(6)]
    root = make_folder({name: [0] for name in names}, "\n".join(map(str, range(21))))
    for number, name in enumerate(names):
        Image.new("RGB", (128, 96)).save(root / "images" / f"{name}.png")
        damaged = np.minimum(jpeg(scene(number), 90), 20) if number < 3 else scene(number)
        Image.fromarray(damaged).save(root / "masks" / f"{name}.png")
    (doubt,) = mask_doubts(Folder(root), names)
    assert doubt.startswith("3 of 6 masks of photos that were looked at hold several ids in thin")
    assert mask_doubts(Folder(root), names[3:]) == []
    (root / "masks" / "m5.png").write_bytes(b"")
    assert mask_doubts(Folder(root), ["m5"]) == []


def test_black_and_white_masks_are_known_by_all_of_them(make_folder: MakeFolder) -> None:
    two = "background\ncat\n"
    source = Folder(make_folder({"a": [0, 255], "b": [0], "c": [255], "d": [1]}, two))
    assert black_and_white(source, "abc") == (
        "the masks of photos hold only 0 and 255, and 255 means ignore: if 255 is cat add the line "
        f'masks = "binary" to {source.root / "meta.toml"}; else write the class\'s id instead of '
        "255"
    )
    for others in ("abcd", "b", "c", ""):
        assert black_and_white(source, others) == ""
    source.masks["d"].write_bytes(b"")
    assert black_and_white(source, "abcd")
