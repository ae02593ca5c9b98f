"""Shapes become pixels, one on top of the other."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from u2pl.data.shapes.drawing import (
    ROUND,
    Drawing,
    Picture,
    Polygons,
    Runs,
    Shape,
    Shares,
    ellipse,
    paint,
    rectangle,
)
from u2pl.errors import UserError

SIZE = (6, 8)  # height and width
IDS = {"cat": 1, "dog": 2, "nobody": 255}


def square(left: float, top: float, side: float) -> Polygons:
    return Polygons((rectangle((left, top, left + side, top + side)),))


def drawing(*regions: Polygons | Shares | Runs | Picture, labels: str = "cat dog") -> Drawing:
    """Shapes of the labels in turn."""
    names = labels.split()
    return Drawing(
        "a.xml: image a.png",
        (8, 6),
        tuple(Shape(names[i % len(names)], each, f"shape {i}") for i, each in enumerate(regions)),
    )


def pixels(region: Polygons | Shares | Runs | Picture) -> list[list[int]]:
    return paint(drawing(region), SIZE, IDS, 0)[:4, :4].tolist()


SQUARE = [[0] * 4, [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]


def picture(values: list[list[int]], mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.array(values, np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "region",
    [
        square(1, 1, 2),
        Shares((rectangle((1 / 8, 1 / 6, 3 / 8, 3 / 6)),)),
        Runs(np.array([0, 4]), (1, 1, 2, 2), down=True),
        Runs(np.array([0, 4]), (1, 1, 2, 2), down=False),
        Runs(np.array([9, 2, 6, 2, 29]), (0, 0, 8, 6), down=False),
        Runs(np.array([7, 2, 4, 2, 33]), (0, 0, 8, 6), down=True),
        Picture(1, 1, picture([[255, 255], [255, 255]])),
        Picture(0, 0, picture([[0, 0, 0], [0, 1, 1], [0, 1, 1]])),
        Picture(1, 1, picture([[9, 9], [9, 9]], "RGB")),
        Picture(1, 1, picture([[255, 255], [255, 255]], "1")),
    ],
)
def test_each_kind_of_region_fills_the_same_square(
    region: Polygons | Shares | Runs | Picture,
) -> None:
    assert pixels(region) == SQUARE


def test_parts_of_an_object_are_united_even_if_they_overlap() -> None:
    both = Polygons((*square(1, 1, 2).rings, *square(1, 1, 2).rings, *square(0, 0, 1).rings))
    assert pixels(both) == [[1, 0, 0, 0], *SQUARE[1:]]


def test_a_later_shape_is_on_top_or_else_a_smaller_one() -> None:
    small_below = drawing(square(2, 2, 1), square(1, 1, 4))
    assert (paint(small_below, SIZE, IDS, 0) == 1).sum() == 0
    shown = paint(small_below, SIZE, IDS, 0, largest_first=True)
    assert shown[2, 2] == 1 and (shown == 2).sum() == 15
    ties = drawing(square(1, 1, 2), square(2, 1, 2))
    np.testing.assert_array_equal(
        paint(ties, SIZE, IDS, 0), paint(ties, SIZE, IDS, 0, largest_first=True)
    )


def test_the_rest_is_outside_and_a_shape_can_be_ignored() -> None:
    found = paint(drawing(square(1, 1, 2), labels="nobody"), SIZE, IDS, 7)
    assert found.dtype == np.uint8 and (found == 255).sum() == 4 and (found == 7).sum() == 44
    assert (paint(drawing(), SIZE, IDS, 255) == 255).all()


def test_what_leaves_the_image_is_cut_off() -> None:
    found = paint(drawing(square(-3, -3, 4.6)), SIZE, IDS, 0)
    assert found[:2, :2].all() and found.sum() == 4


def test_turned_shapes_turn_around_their_middle() -> None:
    """Clockwise, as the rows go down."""
    turned = rectangle((2, 1, 6, 3), 90)
    assert sorted(np.round(turned, 9).tolist()) == [[3, 0], [3, 4], [5, 0], [5, 4]]
    quarter = np.round(rectangle((0, 0, 2, 2), 45).mean(0), 9).tolist()
    assert quarter == [1, 1]
    (tip,) = ellipse((4, 3), (2, 1), 30)[:1]
    np.testing.assert_allclose(tip, (4 + 2 * np.cos(np.pi / 6), 3 + 2 * np.sin(np.pi / 6)))


def test_an_ellipse_differs_by_less_than_one_pixel_in_5000() -> None:
    y, x = np.indices((600, 800)) + 0.5
    expected = ((x - 400) / 350) ** 2 + ((y - 300) / 250) ** 2 <= 1
    ring = ellipse((400, 300), (350, 250))
    assert len(ring) == ROUND
    found = paint(drawing(Polygons((ring,))), (600, 800), IDS, 0) == 1
    assert (found != expected).sum() * 5000 <= expected.sum()


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (Polygons((np.zeros((0, 2)),)), "a polygon needs 3 corners, not 0"),
        (Polygons((np.array([(1.0, 1), (2, 2)]),)), "a polygon needs 3 corners, not 2"),
        (square(9, 1, 2), "it lies outside of the image of 8x6, from x=9, y=1 to x=11, y=3"),
        (square(1, -4, 2), "it lies outside of the image of 8x6, from x=1, y=-4 to x=3, y=-2"),
        (square(1, 1, float("nan")), "a corner is not finite"),
        (square(1, 1, 1e12), "a corner is far from any image"),
        (Runs(np.array([4]), (7, 5, 2, 2), True), "its mask of 2x2 pixels at x=7, y=5 leaves the"),
        (Runs(np.array([3]), (0, 0, 2, 2), True), "runs of another number of pixels"),
        (Runs(np.array([5, -1]), (0, 0, 2, 2), True), "runs of another number of pixels"),
        (Picture(-1, 0, picture([[1]])), "its mask of 1x1 pixels at x=-1, y=0 leaves the image"),
        (Picture(0, 0, b"GIF89a"), "its mask cannot be decoded"),
    ],
)
def test_broken_shapes_are_named(region: Polygons | Shares | Runs | Picture, reason: str) -> None:
    for largest_first in (False, True):
        with pytest.raises(UserError) as caught:
            paint(drawing(square(0, 0, 1), region), SIZE, IDS, 0, largest_first)
        assert str(caught.value).startswith(f"a.xml: image a.png: shape 1 (dog): {reason}")
        assert str(caught.value).endswith(": correct it, or take it out")
