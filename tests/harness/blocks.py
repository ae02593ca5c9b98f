"""A folder of data that is made in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def make_folder(
    root: Path, classes: int = 4, images: int = 10, size: tuple[int, int] = (40, 36)
) -> Path:
    """A data folder of blocks of colour.

    Images 0-2 are val, 3-6 are labelled, the others have no mask.
    """
    rng = np.random.default_rng(classes)
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        mask = np.kron(rng.integers(classes, size=(3, 3)), np.ones((16, 16), np.int64))[
            : size[1], : size[0]
        ].astype(np.uint8)
        colour = (
            40
            + 50 * np.stack([mask, classes - mask, mask % 2], axis=-1)
            + rng.integers(20, size=(*mask.shape, 3))
        ).astype(np.uint8)
        Image.fromarray(colour).save(root / "images" / f"{number}.png")
        if number < 7:
            Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    (root / "splits" / "val.txt").write_text("0\n1\n2\n")
    (root / "splits" / "labeled.txt").write_text("3\n4\n5\n6\n")
    (root / "classes.txt").write_text("".join(f"class{index}\n" for index in range(classes)))
    return root
