"""Cityscapes' 19 classes, which other street data sets are labelled with or mapped to."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from types import MappingProxyType

import numpy as np

from u2pl.data.file_source import FileSource, IdList, files_by_id
from u2pl.data.reading import check_range, read_ids
from u2pl.errors import UserError
from u2pl.notation import IGNORE

# label id, name, colour; the position is the train id
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
#: Label id -> train id; 255 for classes that are not evaluated.
TRAIN_ID = np.full(IGNORE + 1, IGNORE, np.uint8)
TRAIN_ID[[label for label, _, _ in _CLASSES]] = np.arange(len(_CLASSES))

# SYNTHIA hardly contains three of the classes; older papers omit three more, thin or rare ones.
_SYNTHIA_16 = tuple(name for name in NAMES if name not in ("terrain", "truck", "train"))
_SYNTHIA_13 = tuple(name for name in _SYNTHIA_16 if name not in ("wall", "fence", "pole"))

_TRAIN_IDS = "_labelTrainIds"


class CityClasses(FileSource):
    """Masks as train ids: `*_labelTrainIds.png` as they are, others translated."""

    classes = NAMES
    palette = np.array([colour for _, _, colour in _CLASSES], np.uint8)
    # DAFormer's thing classes.
    things = (
        *("traffic light", "traffic sign"),
        *("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    )
    subsets = MappingProxyType(
        {"16 classes (SYNTHIA)": _SYNTHIA_16, "13 classes (SYNTHIA)": _SYNTHIA_13}
    )

    def decode_mask(self, file: Path) -> np.ndarray:
        """Train ids, uint8 [H, W], 255 for classes that are not evaluated."""
        if file.stem.endswith(_TRAIN_IDS):
            return check_range(read_ids(file), len(NAMES), str(file))
        return self.translate_mask(file)

    @abstractmethod
    def translate_mask(self, file: Path) -> np.ndarray:
        """Train ids, uint8 [H, W], of a mask in the data set's ids; UserError for other ids."""

    def _index_pairs(self, images: Path, labels: Path, advice: str) -> None:
        """Index two folders with matching file names; all images are `train`.

        Raises UserError with `advice` if there is no image.
        """
        self.images = files_by_id(images, (".png",))
        if not self.images:
            raise UserError(f"{images} holds no *.png: {advice}")
        masks = files_by_id(labels, (".png",)) | files_by_id(labels, (".png",), _TRAIN_IDS)
        self.masks = {id: file for id, file in masks.items() if id in self.images}
        self.lists = {"train": IdList(str(images), list(self.images))}
