from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from PIL import Image

from harness.filling import filled
from u2pl.data.demo.scenes import DEMOS, Scenes
from u2pl.data.outlines import Outline, outlines

#: The share of a mask's pixels that may be lost between mask and polygons, with the options that
#: `predict` has without being asked; docs/predict.md says so.
LOST = 0.01


def drawn(shape: tuple[int, int], found: list[Outline]) -> tuple[np.ndarray, np.ndarray]:
    """The mask that the outlines give, 255 where there is none, and how many cover each pixel."""
    mask, times = np.full(shape, 255, np.uint8), np.zeros(shape, np.int64)
    for each in found:
        inside = filled(shape, [each.single_ring()])
        mask[inside] = each.label
        times += inside
    return mask, times


def masks(count: int = 40) -> Iterable[np.ndarray]:
    rng = np.random.default_rng(0)
    for number in range(count):
        mask = rng.integers(0, 3, rng.integers(1, 13, 2)).astype(np.uint8)
        if number % 3 == 0:
            mask[rng.random(mask.shape) < 0.2] = 255
        yield mask


def blobs(height: int, width: int, classes: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    coarse = rng.random((classes, height // size + 2, width // size + 2)).astype(np.float32)
    fine = [
        np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC))
        for each in coarse
    ]
    return np.argmax(fine, axis=0).astype(np.uint8)


def test_polygons_of_any_mask_give_it_back() -> None:
    for mask in masks():
        found = outlines(mask, (0, 1, 2))
        again, times = drawn(mask.shape, found)
        np.testing.assert_array_equal(again, mask)
        assert times.max(initial=0) <= 1
        assert sum(each.area for each in found) == (mask != 255).sum()


def test_a_ring_with_cut_holes_covers_what_ring_and_holes_do() -> None:
    for mask in masks():
        for each in outlines(mask, (0, 1, 2)):
            inside = filled(mask.shape, [each.outer, *each.holes])
            np.testing.assert_array_equal(inside, filled(mask.shape, [each.single_ring()]))
            assert inside.sum() == each.area


def test_parts_share_sides_not_corners_and_come_in_the_order_of_their_first_pixels() -> None:
    mask = np.array([[1, 0, 2], [0, 1, 2], [0, 0, 0]], np.uint8)
    found = outlines(mask, (1, 2))
    assert [(each.label, each.area) for each in found] == [(1, 1), (2, 2), (1, 1)]
    assert found[1].outer.tolist() == [[2, 0], [3, 0], [3, 2], [2, 2]]
    assert all(not each.holes for each in found)


def test_a_hole_has_a_ring_of_its_own_in_the_other_direction() -> None:
    mask = np.ones((5, 6), np.uint8)
    mask[2, 2:4] = 0
    (found,) = outlines(mask, (1,))
    assert sorted(map(tuple, found.outer.tolist())) == [(0, 0), (0, 5), (6, 0), (6, 5)]
    (hole,) = found.holes
    assert sorted(map(tuple, hole.tolist())) == [(2, 2), (2, 3), (4, 2), (4, 3)]
    # a hole that touches the outside at a corner is one all the same
    touching = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]], np.uint8)
    (one,) = outlines(touching, (1,))
    assert one.area == 7 and len(one.holes) == 0
    again, _ = drawn(touching.shape, [one])
    np.testing.assert_array_equal(again == 1, touching == 1)


def test_small_parts_become_the_neighbour_with_the_longest_border() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[:, 4:] = 1
    mask[2, 3:5] = 2  # touches class 0 with 4 sides, class 1 with 4: the first part wins
    mask[4, 6] = 2
    found = outlines(mask, (0, 1, 2), least=3)
    assert [(each.label, each.area) for each in found] == [(0, 25), (1, 23)]
    assert {each.label for each in outlines(mask, (0, 1, 2), least=2)} == {0, 1, 2}
    # specks beside each other go one after the other, and specks alone are left out
    board = np.indices((9, 9)).sum(0).astype(np.uint8) % 2
    board = np.pad(board, 4, constant_values=3)
    (whole,) = outlines(board, (0, 1, 3), least=2)
    assert (whole.label, whole.area) == (3, board.size)
    assert outlines(np.zeros((2, 2), np.uint8), (0,), least=5) == []


def test_small_ones_in_a_row_join_their_neighbours() -> None:
    mask = np.array([[0, 0, 0, 1, 0, 0, 0]], np.uint8)
    (found,) = outlines(mask, (0, 1), least=2)
    assert (found.label, found.area) == (0, 7)


@pytest.mark.parametrize("tolerance", [0.5, 0.75, 1.0, 2.0])
def test_simplified_polygons_leave_no_gap_and_stay_near(tolerance: float) -> None:
    mask = blobs(90, 130, 4, 30)
    exact = outlines(mask, range(4))
    found = outlines(mask, range(4), tolerance=tolerance)
    again, times = drawn(mask.shape, found)
    assert (times == 0).sum() == 0
    assert (times > 1).mean() < 0.001
    corners = [sum(len(each.single_ring()) for each in kind) for kind in (exact, found)]
    assert corners[1] < 0.9 * corners[0]
    # a pixel that changed touches, within the tolerance, one of its new class
    for row, column in np.argwhere(again != mask):
        reach = int(np.ceil(tolerance)) + 1
        top, left = max(0, row - reach), max(0, column - reach)
        near = mask[top : row + reach + 1, left : column + reach + 1]
        assert again[row, column] in near


def test_what_is_lost_of_drawn_scenes_stays_below_the_stated_share() -> None:
    look, seed, objects = DEMOS["demo"]
    source = Scenes("demo", look, objects, seed)
    classes = range(1, len(source.classes))
    wrong = total = 0
    for id in source.split("val")[:6]:
        mask = source.mask(id)
        again, _ = drawn(mask.shape, outlines(mask, classes, 64, 0.75))
        wrong += int((np.where(again == 255, 0, again) != mask).sum())
        total += mask.size
    assert wrong / total < LOST


def test_long_thin_and_empty_masks() -> None:
    for shape in ((1, 1), (1, 50), (50, 1)):
        (found,) = outlines(np.ones(shape, np.uint8), (1,), tolerance=5)
        assert len(found.outer) == 4 and found.area == shape[0] * shape[1]
    assert outlines(np.full((4, 4), 255, np.uint8), (0, 1)) == []
    stripes = np.tile(np.array([1, 0], np.uint8), (8, 6))
    assert len(outlines(stripes, (1,), tolerance=3)) == 6
