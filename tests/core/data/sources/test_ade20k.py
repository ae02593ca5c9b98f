from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2pl.data.opening import open_source
from u2pl.data.sources.ade20k import NAMES, STUFF, Ade20k
from u2pl.data.splits import choose_labeled
from u2pl.errors import UserError

IDS = np.array([[0, 1, 2, 3], [149, 150, 0, 13]], np.uint8)
CLASSES = [[255, 0, 1, 2], [148, 149, 255, 12]]


def annotation(root: Path, id: str) -> Path:
    folder = "training" if "train" in id else "validation"
    return root / "annotations" / folder / f"{id}.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training images, one without annotation, and one to score on."""
    for id in (
        "ADE_train_00000001",
        "ADE_train_00000002",
        "ADE_train_00000003",
        "ADE_val_00000001",
    ):
        file = annotation(tmp_path, id)
        image = tmp_path / "images" / file.parent.name / f"{id}.jpg"
        for each in (file, image):
            each.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(image)
        if not id.endswith("3"):
            Image.fromarray(IDS).save(file)
    return tmp_path


def test_what_nobody_labelled_is_ignored_and_the_others_move_down(root: Path) -> None:
    source = open_source(f"ade20k:{root}")
    assert source.split("train") == [f"ADE_train_0000000{i}" for i in (1, 2, 3)]
    assert source.split("val") == ["ADE_val_00000001"]
    mask = source.mask("ADE_val_00000001")
    assert mask.dtype == np.uint8 and mask.tolist() == CLASSES
    assert not source.has_mask("ADE_train_00000003")
    # the challenge's 1 is the wall, its 13 a person and its 150 a flag
    assert [source.classes[i] for i in (0, 12, 149)] == ["wall", "person", "flag"]


def test_the_table_has_150_classes_of_which_100_are_things(root: Path) -> None:
    source = Ade20k(root)
    assert len(NAMES) == len(set(NAMES)) == 150
    assert len(source.things) == 100 and not set(source.things) & set(STUFF)
    assert set(STUFF) < set(NAMES)
    assert source.palette.shape == (150, 3) and len(np.unique(source.palette, axis=0)) == 150


def test_the_folder_above_is_understood(root: Path, tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    for name in ("images", "annotations"):
        shutil.move(root / name, above / "ADEChallengeData2016" / name)
    assert Ade20k(above).mask("ADE_train_00000001").tolist() == CLASSES


def test_annotations_that_others_have_shifted_are_taken_as_they_are(root: Path) -> None:
    Image.fromarray(np.array(CLASSES, np.uint8)).save(annotation(root, "ADE_train_00000001"))
    with pytest.raises(
        UserError,
        match=r"1\.png holds the id 255, and ids end at 150: .* shifted.* ade20k:PATH\?first=0$",
    ):
        Ade20k(root).mask("ADE_train_00000001")
    source = open_source(f"ade20k:{root}?first=0")
    assert source.mask("ADE_train_00000001").tolist() == CLASSES
    assert source.fingerprint() != open_source(f"ade20k:{root}").fingerprint()
    with pytest.raises(
        UserError, match=r"holds the id 150, and ids end at 149: .* published, so leave \?first=0"
    ):
        source.mask("ADE_train_00000002")


@pytest.mark.parametrize("first", ["0", "1"])
def test_ids_of_something_else_are_named(root: Path, first: str) -> None:
    Image.fromarray(np.array([[1, 151, 7, 255]] * 2, np.uint8)).save(
        annotation(root, "ADE_train_00000001")
    )
    with pytest.raises(UserError, match=r"00001\.png holds the id \d+, .* replace the file$"):
        Ade20k(root, first).mask("ADE_train_00000001")


def test_published_lists_and_seeded_shares_choose_the_labels(root: Path, tmp_path: Path) -> None:
    pair = "images/training/{0}.jpg annotations/training/{0}.png\n"
    (tmp_path / "labeled.txt").write_text(pair.format("ADE_train_00000002"))
    source = Ade20k(root)
    split = choose_labeled(source, str(tmp_path / "labeled.txt"), seed=0)
    assert split.labeled == ["ADE_train_00000002"]
    assert split.unlabeled == ["ADE_train_00000001", "ADE_train_00000003"]
    assert split.protocol == "150 classes: file labeled.txt (1 image)"
    drawn = choose_labeled(source, "1/2", seed=0)
    assert len(drawn.labeled) == 1 and "not a published list" in drawn.protocol


@pytest.mark.parametrize("spoil", ["cut", "colours", "size", "folder"])
def test_broken_annotations_are_named_in_one_line(root: Path, spoil: str) -> None:
    file = annotation(root, "ADE_train_00000001")
    if spoil == "cut":
        file.write_bytes(file.read_bytes()[:50])
    elif spoil == "colours":
        Image.new("RGB", (4, 2)).save(file)
    elif spoil == "size":
        Image.fromarray(IDS.T.copy()).save(file)
    else:
        file.unlink()
        file.mkdir()
    with pytest.raises(UserError, match=r"ADE_train_00000001\S*( |$)") as caught:
        Ade20k(root).mask("ADE_train_00000001")
    assert "\n" not in str(caught.value)


def test_wrong_layouts_and_options_say_what_is_expected(root: Path) -> None:
    with pytest.raises(UserError, match=r"first='2' is unknown: write \?first=1"):
        open_source(f"ade20k:{root}?first=2")
    with pytest.raises(UserError, match=r"unknown option 'offset'; write ade20k:PATH, \?first="):
        open_source(f"ade20k:{root}?offset=1")
    shutil.rmtree(root / "images" / "validation")
    with pytest.raises(
        UserError, match=r"validation holds no \*\.jpg: unpack ADEChallengeData2016"
    ):
        Ade20k(root)
