"""The built-in demo: procedural scenes whose classes differ in outline and pattern, not colour."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from u2pl.data.demo.paint import DAY, DUSK, SIZE, Item, Look, paint
from u2pl.data.demo.shapes import PATTERNS
from u2pl.data.source import Source
from u2pl.errors import UserError

# Increase whenever the same parameters draw different pixels.
_FORMAT = 1
_NUM_LABELED, _NUM_TRAIN, _NUM_VAL = 32, 332, 80

#: Class name -> outline and pattern. Fish and rings take both to tell apart: each comes striped and
#: dotted. Star and moon have an outline and a pattern of their own.
KINDS = {
    "striped fish": ("fish", "stripes"),
    "dotted fish": ("fish", "dots"),
    "checked star": ("star", "checks"),
    "striped ring": ("ring", "stripes"),
    "dotted ring": ("ring", "dots"),
    "speckled moon": ("moon", "speckles"),
}
#: Distractors count as background: outlines of no class in any pattern, and outlines of classes in
#: blotches, the pattern of no class.
DISTRACTORS = [
    (outline, pattern)
    for outline in ("disc", "square", "triangle")
    for pattern in (*PATTERNS, "blotches")
] + [(outline, "blotches") for outline in ("fish", "star", "ring")]
_PALETTE = [
    [32, 36, 48],
    [240, 163, 10],
    [214, 73, 51],
    [162, 62, 190],
    [58, 134, 255],
    [17, 168, 150],
    [138, 201, 38],
]


#: Demo -> look, seed, and fewest and most objects of a scene. Source and target share no scene.
DEMOS = {
    "demo": (Look(), 0, (2, 3)),
    "demo-source": (DAY, 1, (2, 3)),
    "demo-target": (DUSK, 2, (2, 3)),
    "demo-tags": (Look(), 3, (1, 2)),
}


def lay_out(rng: np.random.Generator, objects: tuple[int, int], front: int) -> list[Item]:
    """Draw a layout from back to front: up to two distractors, then the objects.

    Args:
        rng: drawn from.
        objects: fewest and most objects.
        front: class of the frontmost object.
    """
    things = [(0, *DISTRACTORS[i]) for i in rng.integers(len(DISTRACTORS), size=rng.integers(3))]
    kinds = list(KINDS.values())
    behind = rng.integers(1, len(kinds) + 1, size=rng.integers(objects[0], objects[1] + 1) - 1)
    things += [(c, *kinds[c - 1]) for c in (*behind.tolist(), front)]
    items: list[Item] = []
    for class_id, outline, pattern in things:
        radius = rng.uniform(23, 33) if class_id else rng.uniform(10, 20)
        x, y = _free_spot(rng, [item for item in items if item.class_id], radius)
        items.append(Item(class_id, outline, pattern, x, y, radius, rng.uniform(-0.5, 0.5)))
    return items


def _free_spot(rng: np.random.Generator, objects: list[Item], radius: float) -> tuple[float, float]:
    """The one of ten random spots with the least overlap; full occlusion is rare."""
    spots = rng.uniform(0.16 * SIZE, 0.84 * SIZE, size=(10, 2))
    overlap = [
        max(
            (radius + item.radius - np.hypot(x - item.x, y - item.y) for item in objects),
            default=0.0,
        )
        for x, y in spots
    ]
    x, y = spots[int(np.argmin(overlap))]
    return float(x), float(y)


class Scenes(Source):
    """Scenes of 96 x 96 pixels, drawn on first use from the seed and the id, then kept in memory.

    Args:
        name: printed with every score.
        look: how scenes are painted; masks depend on the seed only.
        objects: fewest (at least 1) and most objects in an image.
        seed: of the scenes.
    """

    things = tuple(KINDS)

    def __init__(
        self,
        name: str = "demo",
        look: Look | None = None,
        objects: tuple[int, int] = (2, 3),
        seed: int = 0,
    ) -> None:
        self.name, self.look, self.objects, self.seed = name, look or Look(), objects, seed
        self.classes = ("background", *KINDS)
        self.palette = np.array(_PALETTE, dtype=np.uint8)
        train = [f"train_{i:04d}" for i in range(_NUM_TRAIN)]
        val = [f"val_{i:04d}" for i in range(_NUM_VAL)]
        self._lists = {"train": train, "val": val, "labeled": train[:_NUM_LABELED]}
        self._number = {id: number for number, id in enumerate(train + val)}
        self._drawn: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def splits(self) -> tuple[str, ...]:
        return tuple(self._lists)

    def split(self, name: str) -> list[str]:
        if name not in self._lists:
            raise self.unknown_split(name)
        return list(self._lists[name])

    def image(self, id: str) -> Image.Image:
        return Image.fromarray(self._scene(id)[0])

    def has_mask(self, id: str) -> bool:
        return id in self._number

    def mask(self, id: str) -> np.ndarray:
        return self._scene(id)[1].copy()

    def fingerprint(self) -> str:
        facts = (_FORMAT, SIZE, self.classes, self._lists, self.look, self.objects, self.seed)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]

    def _scene(self, id: str) -> tuple[np.ndarray, np.ndarray]:
        if id not in self._number:
            first_last = " and ".join(
                f"{self._lists[name][0]} to {self._lists[name][-1]}" for name in ("train", "val")
            )
            raise UserError(f"{self.name} has no image {id!r}: its ids are {first_last}")
        if id not in self._drawn:
            number = self._number[id]
            # Separate generators, so that the look does not change the layout.
            layout_rng, paint_rng = (
                np.random.default_rng([self.seed, number, stream]) for stream in range(2)
            )
            # Classes take turns at the front, so that any few consecutive scenes show them all.
            items = lay_out(layout_rng, self.objects, front=1 + number % len(KINDS))
            self._drawn[id] = paint(items, self.look, paint_rng)
        return self._drawn[id]
