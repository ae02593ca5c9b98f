"""GTA5 ("Playing for Data"): frames of a game in Cityscapes' classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from u2pl.data.city_classes import TRAIN_ID, CityClasses
from u2pl.data.reading import read_ids, read_size


class Gta5(CityClasses):
    """images/NNNNN.png with labels/NNNNN.png, palette PNGs of Cityscapes' label ids, or labels/NNNNN_labelTrainIds.png where they are.

    Every image is `train`; there is no list to score on. Raises UserError when there are no images.
    """

    def __init__(self, path: str | Path) -> None:
        root = Path(path).expanduser()
        self.name = "gta5"
        self._index_pairs(
            root / "images",
            root / "labels",
            f"unpack GTA5's NN_images.zip and NN_labels.zip into {root}",
        )

    def translate_mask(self, file: Path) -> np.ndarray:
        """Label ids become train ids; above 33 is only what Cityscapes calls -1 (34: licence plates), so it is ignored."""
        return TRAIN_ID[read_ids(file)]

    def match_size(self, ids: np.ndarray, file: Path, image: Path) -> np.ndarray:
        """Stretch the mask to its image (nearest): a few of the published ones have another size, and would stop a run of days (ours)."""
        size = read_size(image)
        if size == ids.shape[::-1]:
            return ids
        return np.array(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
