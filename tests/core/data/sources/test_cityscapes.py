from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2pl.data.opening import open_source
from u2pl.data.sources.cityscapes import Cityscapes
from u2pl.data.splits import choose_labeled
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError

RAW = np.array(
    [
        [0, 7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23],
        [24, 25, 26, 27, 28, 31, 32, 33, 255, 29, 30, 1],
    ],
    np.uint8,
)
TRAIN = [[255, *range(11)], [*range(11, 19), 255, 255, 255, 255]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "lindau")):
        stem = f"{city}_000000_000019"
        for folder, ending, pixels in (
            ("leftImg8bit", "leftImg8bit", np.zeros((2, 12, 3), np.uint8)),
            ("gtFine", "gtFine_labelIds", RAW),
            ("gtFine", "gtFine_color", np.zeros((2, 12, 4), np.uint8)),
            ("gtFine", "gtFine_instanceIds", np.full((2, 12), 26001, np.uint16)),
        ):
            file = tmp_path / folder / split / city / f"{stem}_{ending}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return tmp_path


def test_raw_label_ids_become_train_ids(root: Path) -> None:
    source = open_source(f"cityscapes:{root}")
    assert source.split("train") == ["aachen/aachen_000000_000019", "bochum/bochum_000000_000019"]
    assert source.split("val") == ["lindau/lindau_000000_000019"]
    assert (len(source.classes), source.classes[13], source.palette[13].tolist()) == (
        19,
        "car",
        [0, 0, 142],
    )
    assert source.mask("lindau/lindau_000000_000019").tolist() == TRAIN


def test_images_that_no_protocol_uses_are_said_to_be_left_out(root: Path) -> None:
    assert Cityscapes(root).notes == ()
    (root / "leftImg8bit" / "train_extra" / "ulm").mkdir(parents=True)
    assert Cityscapes(root).notes == (
        "leftImg8bit/train_extra/ is left out, as in the papers' protocols",
    )


def test_train_ids_are_taken_where_they_are(root: Path) -> None:
    Image.fromarray(np.full((2, 12), 18, np.uint8)).save(
        root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png"
    )
    source = Cityscapes(root)
    assert np.unique(source.mask("aachen/aachen_000000_000019")).tolist() == [18]
    assert source.mask("bochum/bochum_000000_000019").tolist() == TRAIN


def test_published_list_of_paths_is_read(root: Path) -> None:
    name = "train/bochum/bochum_000000_000019"
    (root / "l.txt").write_text(
        f"leftImg8bit/{name}_leftImg8bit.png gtFine/{name}_gtFine_labelTrainIds.png\n"
    )
    split = choose_labeled(Cityscapes(root), str(root / "l.txt"), seed=0)
    assert split == (
        ["bochum/bochum_000000_000019"],
        ["aachen/aachen_000000_000019"],
        "fine: file l.txt (1 image)",
    )


def test_masks_are_optional(root: Path) -> None:
    shutil.rmtree(root / "gtFine")
    source = open_source(f"cityscapes:{root}")
    assert source.image(source.split("train")[0]).size == (12, 2)
    assert not any(source.has_mask(id) for id in source.ids())
    stream = Stream(
        source,
        source.split("train"),
        TrainTransform(4, (1.0, 1.0), False, 0, source.void_rows),
        0,
        "target",
        "never",
    )
    assert (stream[0].label == 255).all()
    with pytest.raises(
        UserError, match="cityscapes: image 'lindau/lindau_000000_000019' has no mask"
    ):
        source.mask("lindau/lindau_000000_000019")


def test_masks_of_val_alone_are_enough_to_score(root: Path) -> None:
    shutil.rmtree(root / "gtFine" / "train")
    source = Cityscapes(root)
    assert [source.has_mask(id) for split in ("train", "val") for id in source.split(split)] == [
        False,
        False,
        True,
    ]


def test_wrong_layouts_and_ids_are_named(root: Path) -> None:
    Image.fromarray(np.full((2, 12), 40, np.uint8)).save(
        root / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"
    )
    with pytest.raises(UserError, match="holds ids 40, but there are 34 classes"):
        Cityscapes(root).mask("lindau/lindau_000000_000019")
    shutil.rmtree(root / "leftImg8bit" / "val")
    with pytest.raises(UserError, match=r"val holds no \*_leftImg8bit\.png"):
        Cityscapes(root)
