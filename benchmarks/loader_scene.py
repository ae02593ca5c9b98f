"""A folder that is as expensive to read as GTA5.

Its frames have GTA5's size and as much noise as photographs, and its masks have rare small objects.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from u2pl.data.city_classes import NAMES, TRAIN_ID, CityClasses
from u2pl.notation import IGNORE

SIZE = (1914, 1052)
#: Noise levels per channel: gives PNGs of 2.3 MB, the mean of GTA5.
NOISE = 8
#: Class, and where its band ends, as a share of the height.
BANDS = (("sky", 0.25), ("building", 0.45), ("vegetation", 0.55), ("sidewalk", 0.65), ("road", 1.0))
#: Class, width, height, and the share of the frames that show one; the traffic light has fewer
#: than `min_pixels` pixels.
OBJECTS = (
    ("car", 330, 160, 0.9),
    ("person", 45, 110, 0.6),
    ("pole", 14, 420, 0.6),
    ("truck", 380, 260, 0.2),
    ("traffic light", 30, 70, 0.2),
    ("rider", 50, 90, 0.15),
    ("bicycle", 75, 60, 0.15),
    ("train", 420, 120, 0.1),
)


def write_gta5(root: Path, frames: int, seed: int) -> None:
    """Fill `root` with images/ and labels/, laid out like GTA5."""
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    label_of = {
        NAMES[train_id]: label
        for label, train_id in enumerate(TRAIN_ID.tolist())
        if train_id != IGNORE
    }
    colour = np.zeros((256, 3), np.uint8)
    colour[list(label_of.values())] = CityClasses.palette[TRAIN_ID[list(label_of.values())]]
    for number in range(frames):
        rng = np.random.default_rng((seed, number))
        label = np.zeros(SIZE[::-1], np.uint8)
        for name, end in reversed(BANDS):
            label[: round(end * SIZE[1])] = label_of[name]
        for name, width, height, share in OBJECTS:
            left, top = rng.integers(SIZE[0] - width), rng.integers(SIZE[1] - height)
            if rng.random() < share:
                label[top : top + height, left : left + width] = label_of[name]
        pixels = colour[label] // 2 + rng.integers(NOISE, size=(*label.shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number:05d}.png")
        mask = Image.fromarray(label)
        mask.putpalette(colour.tobytes())
        mask.save(root / "labels" / f"{number:05d}.png")
