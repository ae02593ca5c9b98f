"""Cityscapes in its own layout; label ids are mapped to the 19 evaluated classes in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from u2pl.data.city_classes import TRAIN_ID, CityClasses
from u2pl.data.file_source import IdList, files_by_id
from u2pl.data.reading import check_range, read_ids
from u2pl.errors import UserError
from u2pl.files import expanded

_LABEL_IDS = 34


class Cityscapes(CityClasses):
    """leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_*.png.

    Masks are *_labelTrainIds.png, or *_labelIds.png where those are missing; only labelled images
    and scoring need them. An id is `CITY/CITY_NNNNNN_NNNNNN`. Raises UserError if the images are
    not where Cityscapes has them.
    """

    id_ending = "_leftImg8bit"
    # Rows, of 512, where DAFormer ignores pseudo-labels: rectification edges and the car's bonnet.
    void_rows = (15 / 512, 120 / 512)

    def __init__(self, path: str | Path) -> None:
        root = expanded(path)
        self.name = "cityscapes"
        self.protocol = "fine"
        self.images, self.masks, self.lists = {}, {}, {}
        for split in ("train", "val"):
            images = files_by_id(root / "leftImg8bit" / split, (".png",), self.id_ending)
            if not images:
                raise UserError(
                    f"{root / 'leftImg8bit' / split} holds no *_leftImg8bit.png: unpack "
                    f"leftImg8bit_trainvaltest.zip into {root}"
                )
            self.images |= images
            for kind in ("labelIds", "labelTrainIds"):
                self.masks |= files_by_id(root / "gtFine" / split, (".png",), f"_gtFine_{kind}")
            self.lists[split] = IdList(str(root / "leftImg8bit" / split), list(images))
        if (root / "leftImg8bit" / "train_extra").is_dir():
            self.notes = ("leftImg8bit/train_extra/ is left out, as in the papers' protocols",)

    def translate_mask(self, file: Path) -> np.ndarray:
        """Label ids 0 to 33 become train ids."""
        return TRAIN_ID[check_range(read_ids(file), _LABEL_IDS, str(file))]
