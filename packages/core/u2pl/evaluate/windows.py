"""Where sliding windows lie, and what their pixels weigh where they overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from u2pl.evaluate.protocol import Blend

#: Standard deviation of a Gaussian weight, as a share of the window's side.
SPREAD = 0.125


def starts(size: int, crop: int, stride: int) -> list[int]:
    """First pixel of each window along an axis; the last one is shifted back inside.

    Args:
        size: of the axis in pixels, at least `crop`.
        crop: side of a window.
        stride: from a window to the next.
    """
    return [min(start, size - crop) for start in range(0, size - crop + stride, stride)]


def margins(height: int, width: int, crop: int) -> tuple[int, int, int, int]:
    """Padding (left, right, top, bottom) to the crop's size; odd pixels go right and bottom."""
    missing_y, missing_x = max(crop - height, 0), max(crop - width, 0)
    return missing_x // 2, missing_x - missing_x // 2, missing_y // 2, missing_y - missing_y // 2


def window_weight(crop: int, blend: Blend, device: torch.device | str = "cpu") -> Tensor:
    """What each pixel of a window weighs, float32 [crop, crop]; never 0.

    A window's edges have seen the least around them, so a seam is seen where all weigh alike.
    """
    place = torch.arange(crop, dtype=torch.float32, device=device)
    if blend == "mean":
        side = torch.ones_like(place)
    elif blend == "linear":
        side = torch.minimum(place + 1, crop - place) / ((crop + 1) // 2)
    else:
        side = torch.exp(-0.5 * ((place - (crop - 1) / 2) / (SPREAD * crop)).square())
    return side[:, None] * side
