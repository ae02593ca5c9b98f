"""Small data sets on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """`make_folder({"a": [0, 1], "b": None})`: photos a and b of 6x4 pixels, a's mask in stripes of ids 0 and 1, b without mask."""

    def make(
        held: Mapping[str, list[int] | None], classes: str = "background\ncat\ndog\n", **splits: str
    ) -> Path:
        root = tmp_path / "photos"
        for number, (id, ids) in enumerate(held.items()):
            _save(root / "images" / f"{id}.png", np.full((4, 6, 3), 10 + number, np.uint8))
            if ids is not None:
                _save(root / "masks" / f"{id}.png", np.resize(np.array(ids, np.uint8), (4, 6)))
        (root / "classes.txt").write_text(classes)
        for name, lines in splits.items():
            (root / "splits").mkdir(exist_ok=True)
            (root / "splits" / f"{name}.txt").write_text(lines)
        return root

    return make
