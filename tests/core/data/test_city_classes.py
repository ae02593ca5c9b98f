from __future__ import annotations

import numpy as np

from u2pl.data.city_classes import NAMES, TRAIN_ID
from u2pl.data.sources.cityscapes import Cityscapes
from u2pl.data.sources.gta5 import Gta5
from u2pl.data.sources.synthia import Synthia


def test_label_ids_and_train_ids_are_cityscapes_own() -> None:
    raw = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert TRAIN_ID[raw].tolist() == list(range(19))
    assert (np.delete(TRAIN_ID, raw) == 255).all()
    assert (NAMES[0], NAMES[10], NAMES[18]) == ("road", "sky", "bicycle")


def test_three_sources_share_classes_things_and_subsets() -> None:
    for kind in (Cityscapes, Gta5, Synthia):
        assert kind.classes == NAMES and kind.palette.shape == (19, 3)
        assert [NAMES.index(name) for name in kind.things] == [6, 7, *range(11, 19)]
        sixteen, thirteen = (
            kind.subsets["16 classes (SYNTHIA)"],
            kind.subsets["13 classes (SYNTHIA)"],
        )
        assert [NAMES.index(name) for name in sixteen] == [
            0,
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            10,
            11,
            12,
            13,
            15,
            17,
            18,
        ]
        assert [NAMES.index(name) for name in thirteen] == [
            0,
            1,
            2,
            6,
            7,
            8,
            10,
            11,
            12,
            13,
            15,
            17,
            18,
        ]
    assert (Cityscapes.void_rows, Gta5.void_rows, Synthia.void_rows) == (
        (15 / 512, 120 / 512),
        (0, 0),
        (0, 0),
    )
