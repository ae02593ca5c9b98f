"""Cityscapes' 19 classes, which other data sets of streets are labelled with or mapped to."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from types import MappingProxyType

import numpy as np

from u2pl.data.file_source import FileSource, IdList, files_by_id
from u2pl.data.reading import check_range, read_ids
from u2pl.errors import UserError
from u2pl.notation import IGNORE

# label id, name, colour; the order is the train id
_CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
NAMES = tuple(name for _, name, _ in _CLASSES)
#: Label id -> train id; 255 where the class is not evaluated.
TRAIN_ID = np.full(IGNORE + 1, IGNORE, np.uint8)
TRAIN_ID[[label for label, _, _ in _CLASSES]] = np.arange(len(_CLASSES))

# SYNTHIA shows three of the classes hardly ever; older papers leave out three more that are thin or rare in it.
_SYNTHIA_16 = tuple(name for name in NAMES if name not in ("terrain", "truck", "train"))
_SYNTHIA_13 = tuple(name for name in _SYNTHIA_16 if name not in ("wall", "fence", "pole"))

_TRAIN_IDS = "_labelTrainIds"


class CityClasses(FileSource):
    """Masks as train ids: read from `*_labelTrainIds.png` as they are, translated from the data set's own ids otherwise."""

    classes = NAMES
    palette = np.array([colour for _, _, colour in _CLASSES], np.uint8)
    # The classes whose features DAFormer holds on to.
    things = (
        *("traffic light", "traffic sign"),
        *("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    )
    subsets = MappingProxyType(
        {"16 classes (SYNTHIA)": _SYNTHIA_16, "13 classes (SYNTHIA)": _SYNTHIA_13}
    )

    def decode_mask(self, file: Path) -> np.ndarray:
        """Train ids, uint8 [H, W], 255 for what is not evaluated."""
        if file.stem.endswith(_TRAIN_IDS):
            return check_range(read_ids(file), len(NAMES), str(file))
        return self.translate_mask(file)

    @abstractmethod
    def translate_mask(self, file: Path) -> np.ndarray:
        """Read a mask in the data set's own ids: train ids, uint8 [H, W]; UserError when it holds anything else."""

    def _index_pairs(self, images: Path, labels: Path, advice: str) -> None:
        """Fill images, masks and one list `train` from two folders of equal names; UserError with `advice` when there is no image."""
        self.images = files_by_id(images, (".png",))
        if not self.images:
            raise UserError(f"{images} holds no *.png: {advice}")
        masks = files_by_id(labels, (".png",)) | files_by_id(labels, (".png",), _TRAIN_IDS)
        self.masks = {id: file for id, file in masks.items() if id in self.images}
        self.lists = {"train": IdList(str(images), list(self.images))}
