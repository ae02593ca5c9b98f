from __future__ import annotations

import numpy as np
from PIL import Image

from u2pl.data.classes import IGNORE_COLOUR
from u2pl.report.gallery import Row, Tile, gallery, mask_sheet

CLASSES = ("background", "fish", "star", "never seen")
PALETTE = np.array([[30, 30, 40], [240, 120, 20], [20, 120, 240], [1, 255, 1]], np.uint8)


def row(height: int, width: int, truth: bool = True) -> Row:
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, : width // 2] = 1
    told = mask.copy()
    told[-1:] = 255
    return Row(
        "an image", np.full((height, width, 3), 90, np.uint8), told if truth else None, mask * 2
    )


def colours(path) -> set[tuple[int, ...]]:
    return {
        tuple(colour)
        for colour in np.unique(np.array(Image.open(path)).reshape(-1, 3), axis=0).tolist()
    }


def test_sheet_shows_the_classes_that_occur(tmp_path):
    gallery([row(40, 60), row(64, 48)], CLASSES, PALETTE, tmp_path / "predictions.png")
    shown = colours(tmp_path / "predictions.png")
    assert {(90, 90, 90), (30, 30, 40), (240, 120, 20), (20, 120, 240), IGNORE_COLOUR} <= shown
    assert (1, 255, 1) not in shown


def test_odd_shapes_missing_truth_and_long_names_fit(tmp_path):
    rows = [
        row(2, 900),
        row(900, 2),
        row(1, 1),
        row(30, 30, truth=False)._replace(title="a/very/long/name/" * 40),
    ]
    gallery(rows, [name * 30 for name in CLASSES], PALETTE, tmp_path / "predictions.png")
    width, height = Image.open(tmp_path / "predictions.png").size
    assert width < 1000 and height < 1600


def tile(height: int, width: int, title: str = "an image") -> Tile:
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, : width // 2] = 1
    return Tile(title, np.full((height, width, 3), 90, np.uint8), mask)


def test_masks_lie_over_their_images(tmp_path):
    """In half of the class's colour; the background is the image, except where it is a class."""
    path = tmp_path / "masks.png"
    mask_sheet([tile(40, 60), tile(64, 48)], CLASSES, PALETTE, True, path)
    assert {(90, 90, 90), (165, 105, 55), (240, 120, 20)} <= colours(path)
    assert (1, 255, 1) not in colours(path)
    mask_sheet([tile(40, 60)], CLASSES, PALETTE, False, path)
    assert (90, 90, 90) not in colours(path) and (60, 60, 65) in colours(path)


def test_sheets_of_any_number_and_shape_fit(tmp_path):
    path = tmp_path / "masks.png"
    tiles = [tile(2, 900), tile(900, 2), tile(1, 1), tile(30, 30, "a/long/name/" * 40)]
    sizes = []
    for count in (1, 4, 5, 12):
        mask_sheet((tiles * 3)[:count], CLASSES, PALETTE, True, path)
        sizes.append(Image.open(path).size)
    assert [width for width, _ in sizes] == [344, 1244, 1244, 1244]
    heights = [height for _, height in sizes]
    assert sorted(heights) == heights and len(set(heights)) == 4 and max(heights) < 1500
