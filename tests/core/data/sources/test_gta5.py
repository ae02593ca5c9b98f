from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2pl.data.opening import open_source
from u2pl.data.sources.gta5 import Gta5
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError

LABEL_IDS = np.array([[0, 7, 8, 11, 33, 34], [1, 26, 29, 31, 24, 35]], np.uint8)
TRAIN_IDS = [[255, 0, 1, 2, 18, 255], [255, 13, 255, 16, 11, 255]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in (1, 2):
        Image.fromarray(np.zeros((2, 6, 3), np.uint8)).save(
            tmp_path / "images" / f"{number:05d}.png"
        )
        label = Image.fromarray(LABEL_IDS)
        label.putpalette([5 * i % 256 for i in range(768)])
        label.save(tmp_path / "labels" / f"{number:05d}.png")
    return tmp_path


def test_palette_indices_become_train_ids(root: Path) -> None:
    source = open_source(f"gta5:{root}")
    assert (source.name, source.splits(), source.split("train")) == (
        "gta5",
        ("train",),
        ["00001", "00002"],
    )
    assert source.mask("00001").tolist() == TRAIN_IDS
    assert source.classes[13] == "car"


def test_there_is_nothing_to_score_on(root: Path) -> None:
    with pytest.raises(UserError, match="gta5 has no split 'val': it has train"):
        Gta5(root).split("val")


def test_a_label_of_another_size_is_stretched(root: Path) -> None:
    Image.fromarray(LABEL_IDS.repeat(2, 0).repeat(3, 1)).save(root / "labels" / "00002.png")
    source = Gta5(root)
    assert source.mask("00002").tolist() == TRAIN_IDS
    transform = TrainTransform(4, (1.0, 1.0), flip=False)
    assert (Stream(source, ["00002"], transform, 0, "source")[0].label != 255).any()


def test_train_ids_are_taken_where_they_are_and_strays_left_out(root: Path) -> None:
    Image.fromarray(np.full((2, 6), 18, np.uint8)).save(root / "labels" / "00001_labelTrainIds.png")
    (root / "images" / "00002.png").unlink()
    source = Gta5(root)
    assert set(source.masks) == {"00001"} and (source.mask("00001") == 18).all()


def test_missing_and_broken_files_are_named(root: Path) -> None:
    (root / "labels" / "00002.png").unlink()
    Image.new("RGB", (6, 2)).save(root / "labels" / "00001.png")
    source = Gta5(root)
    assert not source.has_mask("00002")
    with pytest.raises(UserError, match=r"00001\.png is a RGB image"):
        source.mask("00001")
    shutil.rmtree(root / "images")
    with pytest.raises(UserError, match=r"images holds no \*\.png: unpack GTA5's"):
        Gta5(root)
