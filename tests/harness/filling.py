"""Masks from polygons: a slow reference."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def filled(shape: tuple[int, int], rings: Iterable[np.ndarray]) -> np.ndarray:
    """Pixels whose centre is inside of an odd number of times, bool [H, W].

    Args:
        shape: height and width.
        rings: x and y of corners, [V, 2], where pixel (0, 0) covers the square from 0 to 1.
    """
    inside = np.zeros(shape, bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            for row in range(shape[0]):
                if min(y0, y1) <= row + 0.5 < max(y0, y1):
                    x = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                    # 1e-4: some formats round
                    inside[row, max(0, int(np.ceil(x - 0.5 - 1e-4))) :] ^= True
    return inside
