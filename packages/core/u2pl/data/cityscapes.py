"""Cityscapes in its own layout; raw label ids are mapped to the 19 evaluated classes in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from u2pl.data.files import FileSource, IdList, files_by_id
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
_LABEL_IDS = 34
TRAIN_ID = np.full(IGNORE + 1, IGNORE, np.uint8)
TRAIN_ID[[label for label, _, _ in _CLASSES]] = np.arange(len(_CLASSES))


class Cityscapes(FileSource):
    """leftImg8bit/{train,val}/CITY/*_leftImg8bit.png with gtFine/…/*_gtFine_labelTrainIds.png, or *_labelIds.png where those are missing.

    An id is `CITY/CITY_NNNNNN_NNNNNN`. Raises UserError when the images are not where Cityscapes puts them.
    """

    id_ending = "_leftImg8bit"

    def __init__(self, path: str | Path) -> None:
        root = Path(path).expanduser()
        self.name = "cityscapes"
        self.classes = tuple(name for _, name, _ in _CLASSES)
        self.palette = np.array([colour for _, _, colour in _CLASSES], np.uint8)
        self.protocol = "fine"
        self.images, self.masks, self.lists = {}, {}, {}
        for split in ("train", "val"):
            images = files_by_id(root / "leftImg8bit" / split, (".png",), self.id_ending)
            if not images:
                raise UserError(
                    f"{root / 'leftImg8bit' / split} holds no *_leftImg8bit.png: unpack leftImg8bit_trainvaltest.zip into {root}"
                )
            self.images |= images
            for kind in ("labelIds", "labelTrainIds"):
                self.masks |= files_by_id(root / "gtFine" / split, (".png",), f"_gtFine_{kind}")
            self.lists[split] = IdList(str(root / "leftImg8bit" / split), list(images))

    def decode_mask(self, file: Path) -> np.ndarray:
        """Train ids, uint8 [H, W]; raw label ids become train ids, those that are not evaluated 255."""
        ids = read_ids(file)
        if file.stem.endswith("_labelIds"):
            return TRAIN_ID[check_range(ids, _LABEL_IDS, str(file))]
        return check_range(ids, len(self.classes), str(file))
