"""Polygons and runs become the pixels that the docstrings' loops find."""

from __future__ import annotations

import numpy as np
import pytest

from u2pl.data.shapes import filling
from u2pl.data.shapes.filling import fill_polygon, fill_runs, polygon_patch, uncompressed


def slow_fill(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The docstring's loop."""
    inside = np.zeros(size, bool)
    ends = list(zip(points, np.roll(points, -1, axis=0), strict=True))
    for i, j in np.ndindex(size):
        crossings = [
            x + (i + 0.5 - y) * (x2 - x) / (y2 - y)
            for (x, y), (x2, y2) in ends
            if min(y, y2) <= i + 0.5 < max(y, y2)
        ]
        inside[i, j] = sum(x <= j + 0.5 for x in crossings) % 2 == 1
    return inside


@pytest.mark.parametrize("corners", [3, 4, 7, 20])
def test_polygons_are_filled_as_by_the_loop(corners: int) -> None:
    draw = np.random.default_rng(corners)
    for _ in range(10):
        points = draw.uniform(-8, 28, (corners, 2))  # some leave the image, and cross themselves
        np.testing.assert_array_equal(fill_polygon(points, (17, 23)), slow_fill(points, (17, 23)))


def test_polygons_side_by_side_share_no_pixel_and_leave_none_out() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        middle = draw.uniform(0, 12, 2)
        corners = np.array([[0, 0], [12, 0], [12, 9], [0, 9]])
        parts = [
            fill_polygon(np.array([corners[k], corners[(k + 1) % 4], middle]), (9, 12)).astype(int)
            for k in range(4)
        ]
        inside = middle[1] < 9
        assert (sum(parts) == 1).all() or not inside


@pytest.mark.parametrize(
    "points", [[[1, 1], [5, 5]], [[2, 2]], [], [[1, 2.5], [4, 2.5], [9, 2.5]], [[-9, -9]] * 5]
)
def test_polygons_without_area_are_empty(points: list[list[float]]) -> None:
    assert not fill_polygon(np.array(points, np.float64).reshape(-1, 2), (6, 8)).any()


def test_a_polygon_of_many_crossings_is_filled_in_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(5).uniform(-3, 30, (40, 2))
    expected = slow_fill(points, (19, 21))
    monkeypatch.setattr(filling, "_AT_ONCE", 7)
    np.testing.assert_array_equal(fill_polygon(points, (19, 21)), expected)
    monkeypatch.setattr(filling, "MOST", 100)
    with pytest.raises(ValueError, match="its 40 corners cross the rows more than 100 times"):
        fill_polygon(points, (19, 21))


def test_a_patch_is_no_larger_than_its_polygon() -> None:
    ring = np.array([[5, 3], [9, 3], [9, 8], [5, 8]], np.float64)
    patch = polygon_patch(ring, (1000, 1000))
    assert (patch.top, patch.left, patch.inside.shape) == (3, 5, (5, 4)) and patch.inside.all()
    outside = polygon_patch(ring + 2000, (1000, 1000))
    assert not outside.inside.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300, 1e10])
def test_corners_that_no_image_has_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"a corner is (not finite|far from any image)"):
        fill_polygon(np.array([[1, 1], [3, 1], [3, value]]), (6, 6))


def compressed(counts: list[int]) -> str:
    """COCO's text of runs, as its specification writes them."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(bits + 32 * more + 48)
    return text


def test_runs_go_down_the_columns_with_and_without_compression() -> None:
    draw = np.random.default_rng(1)
    for density in (0.02, 0.5):
        mask = draw.random((37, 29)) < density
        flat = mask.T.ravel()
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
        counts = np.diff(np.concatenate([[0], edges])).tolist()
        assert sum(counts) == mask.size
        for form in (counts, compressed(counts)):
            np.testing.assert_array_equal(
                fill_runs(uncompressed(form) if isinstance(form, str) else form, (37, 29)), mask
            )
    # a text as COCO's own library makes it
    assert uncompressed("52203") == [5, 2, 2, 2, 5]
