from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2pl.data.opening import open_source
from u2pl.data.sources.voc import Voc
from u2pl.data.splits import choose_labeled
from u2pl.errors import UserError


def _devkit(tmp_path: Path, augmented: bool) -> Path:
    """Images 0 to 9: 0 to 3 are train, 4 and 5 val; 9 has no mask.

    The augmented masks lack 4; only they have 6 to 8.
    """
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in (
        "JPEGImages",
        "SegmentationClass",
        "ImageSets/Segmentation",
        *(["SegmentationClassAug"] if augmented else []),
    ):
        (root / folder).mkdir(parents=True)
    for i in range(10):
        Image.new("RGB", (6, 4)).save(root / "JPEGImages" / f"{i}.jpg")
        mask = Image.fromarray(np.resize(np.array([0, i, 255], np.uint8), (4, 6)))
        mask.putpalette(list(range(255, -1, -1)) * 3)
        if i < 6:
            mask.save(root / "SegmentationClass" / f"{i}.png")
        if augmented and i < 9 and i != 4:
            Image.fromarray(np.full((4, 6), i, np.uint8)).save(
                root / "SegmentationClassAug" / f"{i}.png"
            )
    (root / "ImageSets/Segmentation/train.txt").write_text("0\n1\n2\n3\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("4\n5\n")
    return tmp_path


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_devkit_is_found_and_palette_masks_are_ids(tmp_path: Path, below: str) -> None:
    source = open_source(f"voc:{_devkit(tmp_path, augmented=False) / below}")
    assert (source.name, len(source.classes), source.classes[15]) == ("voc", 21, "person")
    assert source.palette[15].tolist() == [192, 128, 128]
    assert source.mask("3").tolist() == [[0, 3, 255] * 2] * 4
    assert (source.train_split, source.label_pool) == ("train", "train")


def test_classic_draws_labels_from_train_and_takes_the_rest_of_train_aug_unlabelled(
    tmp_path: Path,
) -> None:
    source = Voc(_devkit(tmp_path, augmented=True))
    assert source.split("train_aug") == ["0", "1", "2", "3", "6", "7", "8"]
    assert source.mask("3").tolist() == [[3] * 6] * 4
    assert source.mask("4").tolist() == [[0, 4, 255] * 2] * 4
    split = choose_labeled(source, "1/2", seed=0)
    assert len(split.labeled) == 2 and set(split.labeled) <= set("0123")
    assert sorted(split.labeled + split.unlabeled) == list("0123678")
    assert split.protocol.startswith(
        "classic: 1/2 of train, seed 0, stratified (2 images, not a published list, without"
    )


def test_blender_draws_labels_from_train_aug(tmp_path: Path) -> None:
    split = choose_labeled(
        open_source(f"voc:{_devkit(tmp_path, augmented=True)}?protocol=blender"), "7", seed=0
    )
    assert (split.labeled, split.unlabeled) == (list("0123678"), [])
    assert split.protocol == "blender: all of train_aug with masks (7 images)"


def test_a_published_list_of_path_pairs_is_read(tmp_path: Path) -> None:
    source = Voc(_devkit(tmp_path, augmented=True))
    (tmp_path / "92.txt").write_text(
        "JPEGImages/2.jpg SegmentationClass/2.png\nJPEGImages/0.jpg SegmentationClass/0.png\n"
    )
    split = choose_labeled(source, str(tmp_path / "92.txt"), seed=0)
    assert (split.labeled, split.protocol) == (["2", "0"], "classic: file 92.txt (2 images)")


def test_wrong_devkits_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no VOC devkit"):
        Voc(tmp_path)
    root = _devkit(tmp_path, augmented=False)
    with pytest.raises(UserError, match=r"blender needs .*SegmentationClassAug"):
        Voc(root, "blender")
    with pytest.raises(UserError, match="protocol 'clasic' is unknown"):
        Voc(root, "clasic")
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(UserError, match=r"val\.txt does not exist"):
        Voc(root)
