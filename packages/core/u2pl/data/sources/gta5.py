"""GTA5 ("Playing for Data"): frames of a game, labelled with Cityscapes' classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from u2pl.data.city_classes import TRAIN_ID, CityClasses
from u2pl.data.reading import read_ids, read_size
from u2pl.files import expanded


class Gta5(CityClasses):
    """images/NNNNN.png and labels/NNNNN.png, palette PNGs of Cityscapes' label ids.

    A labels/NNNNN_labelTrainIds.png takes precedence. All images are `train`; there is no split to
    score on. Raises UserError if there are no images.
    """

    def __init__(self, path: str | Path) -> None:
        root = expanded(path)
        self.name = "gta5"
        self._index_pairs(
            root / "images",
            root / "labels",
            f"unpack GTA5's NN_images.zip and NN_labels.zip into {root}",
        )

    def translate_mask(self, file: Path) -> np.ndarray:
        """Label ids become train ids; 34, licence plates, the only one above 33, is ignored."""
        return TRAIN_ID[read_ids(file)]

    def match_size(self, ids: np.ndarray, file: Path, image: Path) -> np.ndarray:
        """Resize a mask to its image (nearest): a few published ones differ in size (ours)."""
        size = read_size(image)
        if size == ids.shape[::-1]:
            return ids
        return np.array(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
