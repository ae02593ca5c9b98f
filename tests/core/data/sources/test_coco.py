from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from u2pl.data.opening import open_source
from u2pl.data.shapes import coco as instances_of_files
from u2pl.data.sources.coco import STUFF, THINGS, Coco
from u2pl.data.splits import choose_labeled
from u2pl.errors import UserError

TRAIN, VAL = (9, 25, 30, 34), (139, 285)
# categories: person, stop sign (13), chair (62), toothbrush (90); stuff from 92 (banner) to 182
CATEGORIES = {1: "person", 13: "stop sign", 62: "chair", 90: "toothbrush"}
STUFF_IDS = np.array([[0, 12, 61, 89, 91, 181], [255, 10, 0, 0, 0, 0]], np.uint8)
STUFF_IDS[1, 1:] = 255
STUFF_CLASSES = [[0, 11, 56, 79, 80, 170], [255] * 6]


def name(number: int) -> str:
    return f"{number:012d}"


def write_instances(root: Path, split: str, numbers: tuple[int, ...]) -> Path:
    """Image k has one object: in its column k, the k-th category."""
    objects: list[dict[str, Any]] = []
    for k, number in enumerate(numbers):
        box = [k, 0, k + 1, 0, k + 1, 2, k, 2]
        category = list(CATEGORIES)[k]
        objects.append({"image_id": number, "category_id": category, "segmentation": [box]})
    content = {
        "images": [
            {"id": number, "file_name": f"{name(number)}.jpg", "height": 2, "width": 6}
            for number in numbers
        ],
        "annotations": objects,
        "categories": [{"id": id, "name": each} for id, each in CATEGORIES.items()],
    }
    file = root / "annotations" / f"instances_{split}2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four training images, of which the annotations leave out the last, and two to score on."""
    for split, numbers in (("train", TRAIN), ("val", VAL)):
        for number in numbers:
            for folder, pixels, suffix in (
                (f"{split}2017", np.zeros((2, 6, 3), np.uint8), "jpg"),
                (f"stuffthingmaps/{split}2017", STUFF_IDS, "png"),
            ):
                file = tmp_path / folder / f"{name(number)}.{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
        write_instances(tmp_path, split, numbers[:3])
    return tmp_path


def test_instances_become_81_classes(root: Path) -> None:
    source = open_source(f"coco:{root}")
    assert source.split("train") == [name(number) for number in TRAIN]
    assert source.split("val") == [name(number) for number in VAL]
    assert len(source.classes) == 81 and source.classes[0] == "background"
    for k, label in enumerate(("person", "stop sign", "chair")):
        mask = source.mask(name(TRAIN[k]))
        assert mask.dtype == np.uint8
        column = [source.classes[value] for value in mask[:, k]]
        assert column == [label] * 2 and np.count_nonzero(mask) == 2
    assert source.mask(name(VAL[1]))[0].tolist() == [0, THINGS.index("stop sign") + 1, 0, 0, 0, 0]


def test_an_image_that_the_annotations_leave_out_has_no_mask(root: Path) -> None:
    source = Coco(root)
    assert [source.has_mask(name(number)) for number in TRAIN] == [True, True, True, False]
    with pytest.raises(UserError, match="coco: image '000000000034' has no mask: add one"):
        source.mask(name(34))


def test_stuff_maps_become_171_classes(root: Path) -> None:
    source = open_source(f"coco:{root}?labels=stuff")
    assert len(source.classes) == 171 and source.classes[:80] == THINGS
    assert source.mask(name(34)).tolist() == STUFF_CLASSES
    assert [source.classes[i] for i in (0, 11, 56, 79, 80, 170)] == [
        *("person", "stop sign", "chair", "toothbrush", "banner", "wood"),
    ]
    assert source.things == THINGS
    shutil.rmtree(root / "annotations")
    assert source.mask(name(34)).tolist() == STUFF_CLASSES


@pytest.mark.parametrize("gap", [11, 90, 182, 254])
def test_ids_between_the_stuff_classes_are_refused(root: Path, gap: int) -> None:
    Image.fromarray(np.full((2, 6), gap, np.uint8)).save(
        root / "stuffthingmaps/train2017" / f"{name(9)}.png"
    )
    with pytest.raises(UserError, match=rf"000000000009\.png holds the id {gap}, which is none"):
        Coco(root, "stuff").mask(name(9))


@pytest.mark.parametrize("below", ["", "train2017/"])
def test_ready_masks_are_taken_as_they_are(root: Path, below: str) -> None:
    file = root / "masks" / f"{below}{name(9)}.png"
    file.parent.mkdir(parents=True)
    Image.fromarray(np.full((2, 6), 80, np.uint8)).save(file)
    source = Coco(root, "masks")
    assert source.has_mask(name(9)) and not source.has_mask(name(25))
    assert (source.mask(name(9)) == 80).all() and source.classes[80] == "toothbrush"
    Image.fromarray(np.full((2, 6), 81, np.uint8)).save(file)
    with pytest.raises(UserError, match="holds ids 81, but there are 81 classes"):
        source.mask(name(9))


def test_the_tables_hold_what_coco_has() -> None:
    assert (len(THINGS), len(STUFF), len(set(THINGS + STUFF))) == (80, 91, 171)
    assert "background" not in THINGS
    assert THINGS[79] == "toothbrush" and STUFF[0] == "banner"


def test_images_may_lie_one_folder_deeper(root: Path) -> None:
    for split in ("train", "val"):
        shutil.move(root / f"{split}2017", root / "images" / f"{split}2017")
    assert Coco(root).mask(name(9))[:, 0].tolist() == [1, 1]


def test_published_lists_and_seeded_shares_choose_the_labels(root: Path) -> None:
    (root / "labeled.txt").write_text(f"train2017/{name(25)}.jpg masks/{name(25)}.png\n")
    split = choose_labeled(Coco(root), str(root / "labeled.txt"), seed=0)
    assert split.labeled == [name(25)] and len(split.unlabeled) == 3
    assert split.protocol == "81 classes: file labeled.txt (1 image)"
    drawn = choose_labeled(Coco(root), "1/3", seed=0)
    assert len(drawn.labeled) == 1 and len(drawn.unlabeled) == 3
    assert "1/3 of train, seed 0" in drawn.protocol and "not a published list" in drawn.protocol


def test_labels_are_optional_and_where_they_belong_is_said(root: Path) -> None:
    shutil.rmtree(root / "annotations")
    source = Coco(root)
    assert source.image(name(9)).size == (6, 2)
    assert not any(source.has_mask(id) for id in source.ids())
    with pytest.raises(
        UserError,
        match=r"has a mask: \S*annotations holds no labels of COCO; unpack them there, or write "
        r"\?labels=masks or \?labels=stuff$",
    ):
        choose_labeled(source, "2", seed=0)


def test_the_fingerprint_follows_the_annotations(root: Path) -> None:
    first = Coco(root).fingerprint()
    assert first == Coco(root).fingerprint() != Coco(root, "stuff").fingerprint()
    write_instances(root, "train", TRAIN[:2])
    assert Coco(root).fingerprint() != first


def test_broken_files_and_other_sizes_are_named_in_one_line(root: Path) -> None:
    file = write_instances(root, "train", TRAIN[:3])
    Image.new("RGB", (5, 2)).save(root / "train2017" / f"{name(9)}.jpg")
    with pytest.raises(UserError, match=r"09\.jpg is said to be 6x2, but it is 5x2"):
        Coco(root).mask(name(9))
    file.write_text(file.read_text()[:100])
    with pytest.raises(UserError, match="cannot be read as JSON"):
        Coco(root).has_mask(name(9))
    shutil.rmtree(root / "val2017")
    with pytest.raises(UserError, match=r"val2017 holds no \*\.jpg: unpack COCO's val2017\.zip"):
        Coco(root)


def test_unknown_labels_are_refused(root: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"labels='panoptic' are unknown: write \?labels=instances or \?labels=masks or",
    ):
        open_source(f"coco:{root}?labels=panoptic")


def test_workers_get_no_annotations_with_the_source(root: Path) -> None:
    """Half a GB would be copied to each; what was taken apart is theirs too, or in the cache."""
    source = Coco(root)
    before = len(pickle.dumps(source))
    source.mask(name(9))
    assert len(pickle.dumps(source)) == before
    instances_of_files._recent.clear()
    assert pickle.loads(pickle.dumps(source)).mask(name(9))[:, 0].tolist() == [1, 1]


def test_opening_reads_no_annotations_and_no_torch(root: Path) -> None:
    (root / "annotations" / "instances_val2017.json").write_text("nothing")
    code = f"""
import sys
from u2pl.data.opening import open_source
print(len(open_source("coco:" + {str(root)!r}).split("val")), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
