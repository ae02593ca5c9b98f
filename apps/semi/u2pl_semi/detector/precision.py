"""How good boxes are: average precision at an overlap of one half (AP50), and what is right.

Shapes: N = boxes of an image, with the columns class, top, left, bottom, right, and a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Precision(NamedTuple):
    """Of one class."""

    ap50: float  # in percent; NaN without a true box
    true: int  # boxes around parts of the masks
    found: int  # boxes above the threshold
    right: float  # share of these that overlap a true box by 0.8 or more; NaN without one


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [N, 4] and [M, 4], top, left, bottom, right: [N, M]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (one, other)]
    return inside / np.maximum(areas[0][:, None] + areas[1][None] - inside, 1e-9)


def average_precision(
    found: Sequence[np.ndarray], true: Sequence[np.ndarray], at: float = 0.5
) -> float:
    """Area under the curve of precision over recall, which never rises again; in percent.

        best first, a found box is right if it overlaps a true one by `at` that no better box took

    Args:
        found: boxes of each image, float [N, 5], the score behind the corners.
        true: boxes of each image, [M, 4].
        at: intersection over union.
    """
    total = sum(map(len, true))
    if not total:
        return float("nan")
    order = sorted(
        ((row[4], image, row[:4]) for image, rows in enumerate(found) for row in rows),
        key=lambda each: -each[0],
    )
    taken = [np.zeros(len(rows), bool) for rows in true]
    right = np.zeros(len(order))
    for place, (_, image, box) in enumerate(order):
        if not len(true[image]):
            continue
        overlap = overlaps(box[None], true[image].astype(float))[0]
        best = int(overlap.argmax())
        if overlap[best] >= at and not taken[image][best]:
            taken[image][best] = True
            right[place] = 1
    hits = right.cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(hits / total, prepend=0.0)
    return float(100 * (steps * envelope).sum())


def class_precisions(
    found: Sequence[np.ndarray],
    true: Sequence[np.ndarray],
    things: Sequence[int],
    threshold: float,
) -> dict[int, Precision]:
    """The precision of each thing class.

    Args:
        found: float [N, 6] of each image.
        true: int64 [M, 5] of each image.
        things: class ids.
        threshold: score from which boxes are used.
    """
    result = {}
    for c in things:
        own = [rows[rows[:, 0] == c][:, 1:] for rows in found]
        real = [rows[rows[:, 0] == c][:, 1:] for rows in true]
        hits = used = 0
        for boxes, truth in zip(own, real, strict=True):
            kept = boxes[boxes[:, 4] >= threshold]
            used += len(kept)
            if len(kept) and len(truth):
                best = overlaps(kept[:, :4], truth.astype(float)).max(axis=1)
                hits += int((best >= 0.8).sum())
        right = 100 * hits / used if used else float("nan")
        result[c] = Precision(average_precision(own, real), sum(map(len, real)), used, right)
    return result
