"""The outlines and surface patterns that the demo's scenes are drawn with.

Both are functions of coordinates in the object's own frame, so an object's pattern rotates with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def fish(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Lens-shaped body that faces +x, with a forked tail."""
    body = np.hypot(x - 0.21, np.abs(y) + 0.22) - 0.88
    tail = np.maximum(
        np.maximum(-0.98 - x - 0.35 * np.abs(y) + 0.25, x + 0.3), np.abs(y) + 0.9 * x + 0.28
    )
    return np.minimum(body, tail)


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Starfish with five rounded arms."""
    return 0.8 * (np.hypot(x, y) - 0.75 - 0.25 * np.cos(5 * np.arctan2(y, x)))


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Disc with a hole."""
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


def moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Crescent that opens towards +x."""
    return np.maximum(np.hypot(x, y) - 1.0, 0.74 - np.hypot(x - 0.5, y))


def disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slightly flattened disc."""
    return np.hypot(x, 1.3 * y) - 0.9


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Square with rounded corners."""
    return np.hypot(np.maximum(np.abs(x) - 0.55, 0), np.maximum(np.abs(y) - 0.55, 0)) - 0.2


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Equilateral triangle that points along +y."""
    return np.maximum(0.866 * np.abs(x) + 0.5 * y, -y) - 0.5


def stripes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Straight bands across x."""
    return np.sin(2 * np.pi * x)


def dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Round spots on a square grid, a quarter of the area."""
    return np.cos(8 * x) + np.cos(8 * y) - 0.7


def checks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Chessboard."""
    return 2.5 * np.sin(0.85 * np.pi * x) * np.sin(0.85 * np.pi * y)


#: Outline -> signed distance in units of the object's radius, negative inside; exact near the edge.
OUTLINES: dict[str, Field] = {
    f.__name__: f for f in (fish, star, ring, moon, disc, square, triangle)
}

#: Pattern -> signed field of coordinates in units of the period, positive in the second colour.
PATTERNS: dict[str, Field] = {f.__name__: f for f in (stripes, dots, checks)}
