"""The built-in demo: procedural scenes of objects that are told apart by outline and pattern, never by colour.

A scene is drawn in two steps with a random stream each: `draw_layout` decides what lies where, and `paint` decides how it looks.
The same layout under another `Look` has the same mask.
"""

from __future__ import annotations

import colorsys
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from u2pl.data.scene_shapes import OUTLINES, PATTERNS
from u2pl.data.source import Source
from u2pl.errors import UserError

SIZE = 96
#: Raised whenever the same parameters draw other pixels.
FORMAT = 1
NUM_LABELED, NUM_TRAIN, NUM_VAL = 16, 316, 80

BLOTCHES, SPECKLES = "blotches", "speckles"
#: Class name -> (outline, pattern). Each outline but the moon comes in two patterns and each pattern in two outlines.
KINDS = {
    "striped fish": ("fish", "stripes"),
    "dotted fish": ("fish", "dots"),
    "checked star": ("star", "checks"),
    "striped ring": ("ring", "stripes"),
    "dotted ring": ("ring", "dots"),
    "speckled moon": ("moon", SPECKLES),
}
#: What belongs to the background: the patterns on outlines of no class, and outlines of the classes without their pattern.
DISTRACTORS = [(outline, pattern) for outline in ("disc", "square", "triangle") for pattern in (*PATTERNS, BLOTCHES)] + [
    (outline, BLOTCHES) for outline in ("fish", "star", "ring")
]
PALETTE = np.array(
    [[32, 36, 48], [240, 163, 10], [214, 73, 51], [162, 62, 190], [58, 134, 255], [17, 168, 150], [138, 201, 38], [255, 221, 134]], dtype=np.uint8
)


@dataclass(frozen=True)
class Look:
    """How a layout is painted: the ranges of colours, patterns, light and camera, shared by all classes and the background.

    Args:
        hue, saturation, value: ranges of HSV colours, each in [0, 1].
        contrast: gap in value between the two colours of a pattern.
        period: range of a pattern's period in pixels.
        grain: strength of the fine background texture.
        light: largest change of brightness from the image's centre to its corner, as a fraction.
        blur: range of the standard deviation of the camera's blur, in pixels.
        noise: standard deviation of the pixel noise, with intensities in [0, 1].
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


class Item(NamedTuple):
    """One thing in a scene; `x`, `y` and `radius` in pixels, `angle` in radians."""

    class_id: int
    outline: str
    pattern: str
    x: float
    y: float
    radius: float
    angle: float


def draw_layout(rng: np.random.Generator, objects: tuple[int, int], front: int) -> list[Item]:
    """What lies where, from back to front: distractors, then between `objects[0]` and `objects[1]` objects, of which the last has class `front`."""
    things = [(0, *DISTRACTORS[i]) for i in rng.integers(len(DISTRACTORS), size=rng.integers(3))]
    count = rng.integers(objects[0], objects[1] + 1)
    kinds = list(KINDS.values())
    things += [(c, *kinds[c - 1]) for c in (*rng.integers(1, len(kinds) + 1, size=count - 1), front)]
    items: list[Item] = []
    for class_id, outline, pattern in things:
        radius = rng.uniform(23, 33) if class_id else rng.uniform(10, 20)
        x, y = _free_spot(rng, [item for item in items if item.class_id], radius)
        items.append(Item(int(class_id), outline, pattern, x, y, radius, rng.uniform(-0.5, 0.5)))
    return items


def _free_spot(rng: np.random.Generator, items: list[Item], radius: float) -> tuple[float, float]:
    """The candidate that overlaps the earlier items least: objects hide parts of each other, seldom the whole."""
    spots = rng.uniform(0.16 * SIZE, 0.84 * SIZE, size=(10, 2))
    overlap = [max((radius + item.radius - np.hypot(x - item.x, y - item.y) for item in items), default=0.0) for x, y in spots]
    x, y = spots[int(np.argmin(overlap))]
    return float(x), float(y)


def paint(items: list[Item], look: Look, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [SIZE, SIZE, 3] and mask uint8 [SIZE, SIZE] of a layout."""
    grain = look.grain * (_blotches(rng, 32) - 0.5)
    canvas = _blend(_two_colours(rng, look), 0.2 + 0.6 * _blotches(rng, 5) + grain)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for item in items:
        _paint_item(canvas, mask, item, look, rng)
    direction = rng.normal(size=2)
    ramp = np.linspace(-1, 1, SIZE, dtype=np.float32)
    slope = (direction[0] * ramp[:, None] + direction[1] * ramp) / np.abs(direction).sum()
    canvas *= (1 + rng.uniform(0, look.light) * slope)[..., None]
    picture = Image.fromarray((255 * np.clip(canvas, 0, 1)).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(*look.blur)))
    noisy = np.asarray(picture) + 255 * look.noise * rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32)
    return np.clip(noisy, 0, 255).astype(np.uint8), mask


def _paint_item(canvas: np.ndarray, mask: np.ndarray, item: Item, look: Look, rng: np.random.Generator) -> None:
    left, top = (max(0, int(centre - 1.2 * item.radius)) for centre in (item.x, item.y))
    right, bottom = (min(SIZE, int(centre + 1.2 * item.radius) + 1) for centre in (item.x, item.y))
    dy, dx = np.mgrid[top:bottom, left:right].astype(np.float32) - np.array([item.y, item.x], dtype=np.float32)[:, None, None]
    x, y = np.cos(item.angle) * dx + np.sin(item.angle) * dy, np.cos(item.angle) * dy - np.sin(item.angle) * dx
    distance = item.radius * OUTLINES[item.outline](x / item.radius, y / item.radius)
    colours, period, phase = _two_colours(rng, look), rng.uniform(*look.period), rng.uniform(0, 1, size=2)
    if item.pattern in (BLOTCHES, SPECKLES):
        share = _blotches(rng, {BLOTCHES: 8, SPECKLES: SIZE // 2}[item.pattern])[top:bottom, left:right]
    else:
        share = np.clip(0.5 + period / 4 * PATTERNS[item.pattern](x / period + phase[0], y / period + phase[1]), 0, 1)
    rim = 1 - 0.35 * np.clip(1 + distance / 3, 0, 1)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    area = canvas[top:bottom, left:right]
    area += cover * (_blend(colours, share) * rim[..., None] - area)
    mask[top:bottom, left:right][distance < 0] = item.class_id


def _two_colours(rng: np.random.Generator, look: Look) -> np.ndarray:
    """Two RGB colours [2, 3] in [0, 1], at least `look.contrast` apart in value, in either order."""
    low, high = look.value
    dark, light = rng.uniform(low, (low + high - look.contrast) / 2), rng.uniform((low + high + look.contrast) / 2, high)
    pair = [colorsys.hsv_to_rgb(rng.uniform(*look.hue) % 1, rng.uniform(*look.saturation), value) for value in (dark, light)]
    return rng.permutation(np.array(pair, dtype=np.float32))


def _blotches(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise [SIZE, SIZE] in [0, 1] with about `cells` bumps along a side."""
    coarse = Image.fromarray(rng.uniform(0, 1, size=(cells, cells)).astype(np.float32))
    return np.clip(np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)), 0, 1)


def _blend(colours: np.ndarray, share: np.ndarray) -> np.ndarray:
    return colours[0] + share[..., None] * (colours[1] - colours[0])


class Scenes(Source):
    """Scenes of 96 x 96 pixels, each drawn on first use from (seed, id) alone and then kept in memory.

    Args:
        name: printed with every number.
        look: how the scenes are painted; it changes no mask.
        objects: fewest and most objects in an image.
        seed: another seed has other scenes.
    """

    def __init__(self, name: str = "demo", look: Look = Look(), objects: tuple[int, int] = (2, 3), seed: int = 0) -> None:
        self.name, self.look, self.objects, self.seed = name, look, objects, seed
        self.classes = ("background", *KINDS)
        self.palette = PALETTE
        train = [f"train_{i:04d}" for i in range(NUM_TRAIN)]
        self._splits = {"train": train, "val": [f"val_{i:04d}" for i in range(NUM_VAL)], "labeled": train[:NUM_LABELED]}
        self._number = {id: i for i, id in enumerate([*train, *self._splits["val"]])}
        self._drawn: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def split(self, name: str) -> list[str]:
        if name not in self._splits:
            raise UserError(f"{self.name} has no split {name!r}; it has {', '.join(self._splits)}")
        return list(self._splits[name])

    def image(self, id: str) -> Image.Image:
        return Image.fromarray(self._scene(id)[0])

    def has_mask(self, id: str) -> bool:
        return id in self._number

    def mask(self, id: str) -> np.ndarray:
        return self._scene(id)[1].copy()

    def fingerprint(self) -> str:
        parts = (FORMAT, self.classes, self._splits, self.look, self.objects, self.seed)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    def _scene(self, id: str) -> tuple[np.ndarray, np.ndarray]:
        if id not in self._number:
            raise UserError(f"{self.name} has no image {id!r}; its ids run from train_0000 to val_{NUM_VAL - 1:04d}")
        if id not in self._drawn:
            number = self._number[id]
            layout_rng, paint_rng = (np.random.default_rng([self.seed, number, stream]) for stream in range(2))
            # Taking turns puts every class, unhidden, into any few consecutive scenes.
            layout = draw_layout(layout_rng, self.objects, front=1 + number % len(KINDS))
            self._drawn[id] = paint(layout, self.look, paint_rng)
        return self._drawn[id]
