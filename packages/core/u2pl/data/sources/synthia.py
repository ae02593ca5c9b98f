"""SYNTHIA-RAND-CITYSCAPES: rendered streets, mapped to Cityscapes' classes in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from u2pl.data.city_classes import NAMES, CityClasses
from u2pl.data.reading import read_first_of_16_bits
from u2pl.errors import UserError
from u2pl.files import expanded
from u2pl.notation import IGNORE

# SYNTHIA's id -> Cityscapes' class. Ignored: 0 void, 13 parking, 14 road work, 22 lane marking.
_CLASSES = {
    1: "sky",
    2: "building",
    3: "road",
    4: "sidewalk",
    5: "fence",
    6: "vegetation",
    7: "pole",
    8: "car",
    9: "traffic sign",
    10: "person",
    11: "bicycle",
    12: "motorcycle",
    15: "traffic light",
    16: "terrain",
    17: "rider",
    18: "truck",
    19: "bus",
    20: "train",
    21: "wall",
}
_IDS = 23
_TRAIN_ID = np.full(_IDS, IGNORE, np.uint8)
_TRAIN_ID[list(_CLASSES)] = [NAMES.index(name) for name in _CLASSES.values()]


class Synthia(CityClasses):
    """RGB/NNNNNNN.png and GT/LABELS/NNNNNNN.png, 16-bit RGB.

    A GT/LABELS/NNNNNNN_labelTrainIds.png takes precedence. All images are `train`; there is no
    split to score on. Raises UserError if there are no images.
    """

    def __init__(self, path: str | Path) -> None:
        root = expanded(path)
        self.name = "synthia"
        advice = (
            "give the folder RAND_CITYSCAPES of SYNTHIA-RAND-CITYSCAPES, which has RGB/ and "
            "GT/LABELS/ in it"
        )
        self._index_pairs(root / "RGB", root / "GT" / "LABELS", advice)

    def translate_mask(self, file: Path) -> np.ndarray:
        """The first channel holds SYNTHIA's ids, which become train ids; the second, instances."""
        ids = read_first_of_16_bits(file)
        if ids.max() >= _IDS:
            raise UserError(
                f"{file} holds ids up to {ids.max()}, but SYNTHIA has {_IDS} classes (0 to "
                f"{_IDS - 1}): replace the file"
            )
        return _TRAIN_ID[ids]
