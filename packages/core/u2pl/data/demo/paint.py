"""Rendering a demo scene of given layout: colours, patterns, light and camera."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from u2pl.data.demo.shapes import OUTLINES, PATTERNS

SIZE = 96
#: Noise pattern -> bumps along a side of the image.
NOISES = {"blotches": 8, "speckles": SIZE // 2}


@dataclass(frozen=True)
class Look:
    """Ranges from which a scene's appearance is drawn, for background and classes alike.

    The masks do not depend on it.

    Args:
        hue: in turns; a range that spans red may extend beyond [0, 1].
        saturation: of every colour, in [0, 1].
        value: of every colour, in [0, 1].
        contrast: minimum difference in value between the two colours of a pattern.
        period: of stripes, dots and checks, in pixels.
        grain: strength of the background's fine texture.
        light: maximum relative change of brightness towards an edge of the image.
        blur: standard deviation of the camera's blur, in pixels.
        noise: standard deviation of the camera's noise, with intensities in [0, 1].
    """

    hue: tuple[float, float] = (0.0, 1.0)
    saturation: tuple[float, float] = (0.15, 0.75)
    value: tuple[float, float] = (0.2, 1.0)
    contrast: float = 0.45
    period: tuple[float, float] = (8.0, 11.0)
    grain: float = 0.06
    light: float = 0.35
    blur: tuple[float, float] = (0.3, 0.8)
    noise: float = 0.02


#: Two domains: a bright, sharp day in warm colours; a bluish, blurred, noisy dusk of low contrast.
DAY = Look(
    hue=(-0.1, 0.4),
    saturation=(0.35, 0.9),
    value=(0.4, 1.0),
    contrast=0.4,
    grain=0.04,
    light=0.15,
    blur=(0.2, 0.5),
    noise=0.01,
)
DUSK = Look(
    hue=(0.5, 0.75),
    saturation=(0.2, 0.6),
    value=(0.05, 0.5),
    contrast=0.25,
    period=(7.0, 9.5),
    grain=0.1,
    light=0.6,
    blur=(0.7, 1.1),
    noise=0.04,
)


class Item(NamedTuple):
    """An object or distractor (class 0) of a scene; x, y and radius in pixels, angle in radians."""

    class_id: int
    outline: str
    pattern: str
    x: float
    y: float
    radius: float
    angle: float


def paint(items: list[Item], look: Look, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paint items from back to front: image uint8 [SIZE, SIZE, 3] and mask uint8 [SIZE, SIZE]."""
    grain = look.grain * (_bumps(rng, 32) - 0.5)
    canvas = _blend(_two_colours(rng, look), 0.2 + 0.6 * _bumps(rng, 5) + grain)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for item in items:
        _paint_item(canvas, mask, item, look, rng)
    direction, ramp = rng.normal(size=2), np.linspace(-1, 1, SIZE, dtype=np.float32)
    slope = (direction[0] * ramp[:, None] + direction[1] * ramp) / np.abs(direction).sum()
    canvas *= (1 + rng.uniform(0, look.light) * slope)[..., None]
    picture = Image.fromarray((255 * np.clip(canvas, 0, 1)).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(rng.uniform(*look.blur))
    )
    noisy = np.asarray(picture) + 255 * look.noise * rng.standard_normal(
        (SIZE, SIZE, 3), dtype=np.float32
    )
    return np.clip(noisy, 0, 255).astype(np.uint8), mask


def _paint_item(
    canvas: np.ndarray, mask: np.ndarray, item: Item, look: Look, rng: np.random.Generator
) -> None:
    left, top = (max(0, int(centre - 1.2 * item.radius)) for centre in (item.x, item.y))
    right, bottom = (min(SIZE, int(centre + 1.2 * item.radius) + 1) for centre in (item.x, item.y))
    window = slice(top, bottom), slice(left, right)
    dy, dx = (
        np.mgrid[window].astype(np.float32)
        - np.array([item.y, item.x], dtype=np.float32)[:, None, None]
    )
    x, y = (
        np.cos(item.angle) * dx + np.sin(item.angle) * dy,
        np.cos(item.angle) * dy - np.sin(item.angle) * dx,
    )
    distance = item.radius * OUTLINES[item.outline](x / item.radius, y / item.radius)
    colours, period, phase = (
        _two_colours(rng, look),
        rng.uniform(*look.period),
        rng.uniform(0, 1, size=2),
    )
    if item.pattern in NOISES:
        share = _bumps(rng, NOISES[item.pattern])[window]
    else:
        share = np.clip(
            0.5 + period / 4 * PATTERNS[item.pattern](x / period + phase[0], y / period + phase[1]),
            0,
            1,
        )
    rim = 1 - 0.35 * np.clip(1 + distance / 3, 0, 1)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas[window] += cover * (_blend(colours, share) * rim[..., None] - canvas[window])
    mask[window][distance < 0] = item.class_id


def _two_colours(rng: np.random.Generator, look: Look) -> np.ndarray:
    """RGB float32 [2, 3] in [0, 1], a dark and a light colour in either order."""
    low, high = look.value
    dark, light = (
        rng.uniform(low, (low + high - look.contrast) / 2),
        rng.uniform((low + high + look.contrast) / 2, high),
    )
    pair = [
        colorsys.hsv_to_rgb(rng.uniform(*look.hue) % 1, rng.uniform(*look.saturation), value)
        for value in (dark, light)
    ]
    return rng.permutation(np.array(pair, dtype=np.float32))


def _bumps(rng: np.random.Generator, along: int) -> np.ndarray:
    """Smooth noise float32 [SIZE, SIZE] in [0, 1] with `along` bumps along a side."""
    coarse = Image.fromarray(rng.uniform(0, 1, size=(along, along)).astype(np.float32))
    return np.clip(np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)), 0, 1)


def _blend(colours: np.ndarray, share: np.ndarray) -> np.ndarray:
    return colours[0] + share[..., None] * (colours[1] - colours[0])
