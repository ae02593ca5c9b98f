from __future__ import annotations

import numpy as np
import pytest

from u2pl_semi.detector.precision import average_precision, class_precisions, overlaps


def random_boxes(rng: np.random.Generator, count: int, side: int = 12) -> np.ndarray:
    """Float [count, 4] in an image of so many pixels, on a grid, so that many overlap."""
    corner = rng.integers(0, side - 1, (count, 2))
    return np.concatenate([corner, corner + rng.integers(1, side // 2, (count, 2))], 1).astype(
        float
    )


def test_overlaps_equal_counts_of_pixels() -> None:
    rng = np.random.default_rng(0)
    one, other = random_boxes(rng, 40), random_boxes(rng, 30)

    def filled(box: np.ndarray) -> np.ndarray:
        mask = np.zeros((30, 30), bool)
        top, left, bottom, right = box.astype(int)
        mask[top:bottom, left:right] = True
        return mask

    found = overlaps(one, other)
    assert found.shape == (40, 30)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            both = (filled(a) & filled(b)).sum() / (filled(a) | filled(b)).sum()
            assert found[i, j] == pytest.approx(both)
    assert (found == 0).any() and (found == 1).any() and ((found > 0) & (found < 1)).any()


def test_boxes_without_area_overlap_nothing() -> None:
    empty, box = np.array([[2.0, 2, 2, 5]]), np.array([[0.0, 0, 4, 4]])
    assert overlaps(empty, box) == overlaps(empty, empty) == 0
    assert overlaps(np.zeros((0, 4)), box).shape == (0, 1)


def by_definition(found: list[np.ndarray], true: list[np.ndarray], at: float) -> float:
    """The sum over recalls of the best precision at this recall or above.

    A loop over the found boxes as VOC's development kit has it, one prefix at a time.
    """
    rows = [(row[4], image, row[:4]) for image, boxes in enumerate(found) for row in boxes]
    rows.sort(key=lambda row: row[0], reverse=True)
    total, hits = sum(len(boxes) for boxes in true), 0
    taken: set[tuple[int, int]] = set()
    curve = []
    for number, (_, image, box) in enumerate(rows, 1):
        best, place = 0.0, -1
        for j, other in enumerate(true[image]):
            overlap = float(overlaps(box[None], other[None].astype(float))[0, 0])
            if overlap > best:
                best, place = overlap, j
        if best >= at and (image, place) not in taken:
            taken.add((image, place))
            hits += 1
        curve.append((hits / total, hits / number))
    area = 0.0
    for k in range(1, total + 1):
        area += max((p for recall, p in curve if recall >= k / total - 1e-12), default=0.0) / total
    return 100 * area


@pytest.mark.parametrize("at", [0.3, 0.5, 0.8])
def test_average_precision_is_that_of_the_definition(at: float) -> None:
    rng, values = np.random.default_rng(1), []
    for _ in range(60):
        images = int(rng.integers(1, 4))
        true = [random_boxes(rng, int(rng.integers(0, 5))).astype(np.int64) for _ in range(images)]
        true[0] = random_boxes(rng, 3).astype(np.int64)
        found = []
        for boxes in true:
            near = boxes[rng.integers(0, len(boxes), 2 * len(boxes))] if len(boxes) else boxes
            near = near + rng.integers(-1, 2, near.shape) * (rng.random(near.shape) < 0.2)
            both = np.concatenate([near, random_boxes(rng, int(rng.integers(0, 4)))])
            both[:, 2:] = np.maximum(both[:, 2:], both[:, :2] + 1)
            # few scores: many are equal, also between images
            found.append(np.column_stack([both, rng.integers(0, 6, len(both)) / 5]))
        values.append(by_definition(found, true, at))
        assert average_precision(found, true, at) == pytest.approx(values[-1])
    assert len(set(values)) > 20 and 10 < np.mean(values) < 90


BOX, FAR = [0, 0, 10, 10], [50, 50, 60, 60]
CASES: dict[str, tuple[list[list[float]], list[list[int]], float]] = {
    "all right": ([[*BOX, 0.9], [*FAR, 0.2]], [BOX, FAR], 100),
    "a duplicate is wrong, the first one counts": ([[*BOX, 0.9], [*BOX, 0.8]], [BOX], 100),
    "a duplicate before the second one": (
        [[*BOX, 0.9], [*BOX, 0.8], [*FAR, 0.7]], [BOX, FAR], 50 + 100 / 3,
    ),
    "wrong before right": ([[*FAR, 0.9], [*BOX, 0.8]], [BOX], 50),
    "right before wrong": ([[*BOX, 0.9], [*FAR, 0.8]], [BOX], 100),
    "one of two is missed": ([[*BOX, 0.9]], [BOX, FAR], 50),
    "equal scores keep their order": ([[*BOX, 0.5], [*FAR, 0.5]], [BOX], 100),
    "exactly one half": ([[0, 0, 10, 5, 0.9]], [BOX], 100),
    "just below": ([[0, 0, 10, 4.99, 0.9]], [BOX], 0),
    "nothing found": ([], [BOX], 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_average_precision_of_few_boxes(case: str) -> None:
    found, true, expected = CASES[case]
    boxes = np.array(found, float).reshape(-1, 5)
    assert average_precision([boxes], [np.array(true)]) == pytest.approx(expected)


def test_boxes_of_other_images_do_not_help() -> None:
    found, true = np.array([[*BOX, 0.9]]), np.array([BOX])
    nothing, none = np.zeros((0, 5)), np.zeros((0, 4), np.int64)
    assert average_precision([nothing, found], [true, none]) == 0
    assert average_precision([found, nothing], [true, none]) == 100


def test_without_a_true_box_there_is_no_precision() -> None:
    assert np.isnan(average_precision([np.array([[*BOX, 0.9]])], [np.zeros((0, 4))]))
    assert np.isnan(average_precision([], []))


def test_each_class_is_judged_by_itself() -> None:
    found = [
        np.array([[1, *BOX, 0.9], [2, *FAR, 0.9], [1, *FAR, 0.5]]),
        np.array([[1, 0, 0, 10, 7, 0.85], [3, *BOX, 0.3]]),
        np.zeros((0, 6)),
    ]
    true = [
        np.array([[1, *BOX], [5, *FAR]]),
        np.array([[1, *BOX], [2, *BOX], [3, *BOX]]),
        np.zeros((0, 5), np.int64),
    ]
    scores = class_precisions(found, true, (2, 1, 3, 4), 0.85)
    assert list(scores) == [2, 1, 3, 4]
    # of class 1, one of the two boxes overlaps by 0.8; the one of 0.5 is below the threshold
    assert (scores[1].ap50, scores[1].true, scores[1].found, scores[1].right) == (100, 2, 2, 50)
    assert (scores[2].ap50, scores[2].true, scores[2].found, scores[2].right) == (0, 1, 1, 0)
    assert (scores[3].ap50, scores[3].true, scores[3].found) == (100, 1, 0)
    assert np.isnan(scores[3].right)
    assert np.isnan(scores[4].ap50) and (scores[4].true, scores[4].found) == (0, 0)
