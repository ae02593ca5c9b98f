from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import labelled
from harness.spoiling import complaints, outcome
from u2pl.data.shapes import coco
from u2pl.data.shapes.coco import class_names, instances
from u2pl.data.shapes.drawing import paint
from u2pl.errors import UserError

NAMES = {1: "person", 3: "car"}
CLASSES = {"person": 1, "car": 2}


def square(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def content(objects: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """A file of two images of 6x4 pixels; the second one has no objects."""
    if objects is None:
        objects = [
            {"id": 4, "image_id": 7, "category_id": 1, "segmentation": [square(1, 1, 3, 3)]},
            {"id": 5, "image_id": 7, "category_id": 3, "segmentation": [square(0, 0, 5, 4)]},
        ]
    names = ("000000000007.jpg", "val2017/000000000009.jpg")
    images = [
        {"id": id, "file_name": name, "height": 4, "width": 6}
        for id, name in zip((7, 9), names, strict=True)
    ]
    categories = [{"id": id, "name": name} for id, name in NAMES.items()]
    found = {"info": {}, "images": images, "annotations": objects, "categories": categories}
    return found | changes


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """Write a file of instances."""
    numbers = itertools.count()

    def written(value: Any) -> Path:
        file = tmp_path / f"instances_{next(numbers)}.json"
        if isinstance(value, bytes):
            file.write_bytes(value)
        else:
            file.write_text(value if isinstance(value, str) else json.dumps(value))
        return file

    return written


def mask_of(file: Path, row: int = 0, largest_first: bool = True) -> list[list[int]]:
    drawing = instances(file).drawing(row)
    assert drawing.size == (6, 4)
    return paint(drawing, (4, 6), CLASSES, 0, largest_first).tolist()


def test_small_objects_stay_on_top_of_large_ones(write: Callable[[Any], Path]) -> None:
    found = mask_of(write(content()))
    assert found == [
        [2, 2, 2, 2, 2, 0],
        [2, 1, 1, 2, 2, 0],
        [2, 1, 1, 2, 2, 0],
        [2, 2, 2, 2, 2, 0],
    ]
    backwards = content()
    backwards["annotations"].reverse()
    assert mask_of(write(backwards)) == found
    assert mask_of(write(content()), 1) == [[0] * 6] * 4


def test_otherwise_the_later_one_is_on_top(write: Callable[[Any], Path]) -> None:
    assert mask_of(write(content()), largest_first=False) == [[2, 2, 2, 2, 2, 0]] * 4


def test_parts_of_an_object_and_a_crowd_are_painted(write: Callable[[Any], Path]) -> None:
    runs = {"size": [4, 6], "counts": [16, 8]}
    objects = [
        {"image_id": 7, "category_id": 3, "iscrowd": 1, "segmentation": runs},
        {
            "image_id": 7,
            "category_id": 1,
            "segmentation": [square(0, 0, 1, 1), square(2, 3, 4, 4)],
        },
    ]
    painted = [
        [1, 0, 0, 0, 2, 2],
        [0, 0, 0, 0, 2, 2],
        [0, 0, 0, 0, 2, 2],
        [0, 0, 1, 1, 2, 2],
    ]
    assert mask_of(write(content(objects))) == painted
    objects[0]["segmentation"] = {"size": [4, 6], "counts": "`08"}  # the same, compressed
    assert mask_of(write(content(objects))) == painted


def test_objects_of_other_programs_are_painted(write: Callable[[Any], Path]) -> None:
    """One polygon that is not in a list, a box alone, numbers that are written as 7.0."""
    objects = [
        {"image_id": 7.0, "category_id": 3, "segmentation": square(0, 0, 2, 2)},
        {"image_id": 7, "category_id": 1, "segmentation": [], "bbox": [4, 1, 2, 3]},
        {"image_id": 7, "category_id": 1, "segmentation": []},
    ]
    file = write(content(objects))
    assert mask_of(file) == [
        [2, 2, 0, 0, 0, 0],
        [2, 2, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]
    assert (instances(file).boxes, instances(file).objects.tolist()) == (1, [3, 0])


def test_a_file_without_sizes_takes_them_from_runs(write: Callable[[Any], Path]) -> None:
    images = [{"id": 7, "file_name": "a.jpg"}]
    runs = {"image_id": 7, "category_id": 3, "segmentation": {"size": [4, 6], "counts": [24]}}
    assert instances(write(content([runs], images=images))).drawing(0).size == (6, 4)
    assert instances(write(content([], images=images))).drawing(0).size is None


def test_groups_of_categories_are_no_classes(write: Callable[[Any], Path]) -> None:
    """As Roboflow writes them."""
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 2, "name": "dog", "supercategory": "animals"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
    ]
    ring = [square(0, 0, 2, 2)]
    one = {"image_id": 7, "category_id": 1, "segmentation": ring}
    file = write(content([one], categories=categories))
    assert class_names([instances(file)]) == ("cat", "dog")
    used = write(content([one | {"category_id": 0}], categories=categories))
    assert class_names([instances(used)]) == ("animals", "cat", "dog")


@pytest.mark.parametrize("kept", [0, coco.KEPT])
def test_a_file_is_taken_apart_once_and_again_after_it_changed(
    kept: int, write: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco, "KEPT", kept)
    taken: list[Path] = []
    take = coco._taken_apart
    monkeypatch.setattr(
        coco, "_taken_apart", lambda file, counting: taken.append(file) or take(file, counting)
    )
    file = write(content())
    first = mask_of(file)
    digest = instances(file).digest
    assert mask_of(file) == first and len(taken) == 1
    coco._recent.clear()  # another process finds a large file in the cache folder
    assert mask_of(file) == first and len(taken) == (1 if kept == 0 else 2)
    assert instances(file).digest == digest
    taken.clear()
    file.write_text(json.dumps(content([])))
    os.utime(file, ns=(1, 1))
    assert mask_of(file) == [[0] * 6] * 4 and len(taken) == 1
    assert instances(file).digest != digest


def test_a_large_file_tells_how_far_it_is(
    write: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco, "_OFTEN", 2)
    said: list[Any] = []

    class Counting:
        def __init__(self, what: str) -> None:
            said.append(what)

        def __enter__(self) -> Callable[[float, int], object]:
            return lambda done, total: said.append((done, total))

        def __exit__(self, *_: object) -> None:
            said.append("done")

    file = write(content(content()["annotations"] * 2))
    instances(file, Counting)
    assert said == [f"reading {file.name}", (2, 4), (4, 4), "done"]


def image(**fields: Any) -> dict[str, Any]:
    return {"images": [{"id": 7, "file_name": "7.jpg", "height": 4, "width": 6} | fields]}


def thing(**fields: Any) -> dict[str, Any]:
    return content([{"image_id": 7, "category_id": 1, "segmentation": []} | fields])


#: What a file holds, and the complaint.
BROKEN_FILES: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "cannot be read as JSON (Expecting property name"),
    "half": (json.dumps(content())[:200], "cannot be read as JSON ("),
    "empty": ("", "cannot be read as JSON (Expecting value"),
    "no text": (b"\xff\xff\xff{}", "cannot be read as JSON ('utf-8' codec can't decode"),
    "nested": ("[" * 100_000, "cannot be read as JSON (it is nested too deep)"),
    "a list": ([1, 2], "does not hold COCO's instances, which are the lists images, annotations"),
    "another structure": ({"images": [], "annotations": []}, "does not hold COCO's instances"),
    "no images": (content(images=[]), "images is empty"),
    "captions": (
        content([{"image_id": 7, "id": 1, "caption": "a car"}]),
        "annotations[0] has no category_id: export it as COCO instances",
    ),
    "keypoints": (
        content([{"image_id": 7, "category_id": 1, "keypoints": [1, 1, 2]}]),
        "annotations[0].segmentation is missing, and so is bbox: export COCO's instances",
    ),
    "an image without name": (
        content(images=[{"id": 7, "height": 4, "width": 6}]),
        "images[0] has no file_name",
    ),
    "an image that is a text": (content(images=["a.jpg"]), "images[0] has no id and no file_name"),
    "a blank name": (content() | image(file_name=" "), "images[0].file_name is ' ': it must be a"),
    "a height that is a text": (
        content() | image(height="4"),
        "images[0].height is '4': it must be a positive whole number",
    ),
    "no height": (content() | image(width=0), "images[0].width is 0: it must be a positive"),
    "a width that is missing": (
        content() | image(width=None),
        "images[0].width is None: it must be a positive whole number",
    ),
    "an image's number in a list": (thing(image_id=[7]), "annotations[0].image_id is a list of 1"),
    "an image's number as a text": (thing(image_id="7"), "annotations[0].image_id is '7': it must"),
    "a category in a list": (thing(category_id=[1]), "annotations[0].category_id is a list of 1"),
    "a number that is not": (thing(category_id=float("nan")), "annotations[0].category_id is nan"),
    "an unknown image": (thing(image_id=8), "annotations[0].image_id is 8, and there is no such"),
    "an unknown category": (
        thing(category_id=2),
        "annotations[0].category_id is 2, and there is no such category",
    ),
    "two images of one number": (
        content() | {"images": image()["images"] * 2},
        "images[1].id is 7, which images[0] has too",
    ),
    "two categories of one number": (
        content(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]),
        "categories[1].id is 1, which another category has",
    ),
    "a category without name": (
        content(categories=[{"id": 1}]),
        "categories[0].name is None: it must be a text",
    ),
    "a category that is a number": (content(categories=[3]), "categories[0] is 3: it must be an"),
}


@pytest.mark.parametrize("what", BROKEN_FILES)
def test_broken_files_are_refused_in_a_line_that_names_the_field(
    what: str, write: Callable[[Any], Path]
) -> None:
    value, complaint = BROKEN_FILES[what]
    file = write(value)
    with pytest.raises(UserError, match=re.escape(complaint)) as caught:
        instances(file)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(file))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"none\.json cannot be read \(No such file"):
        instances(Path("none.json"))


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 1, 2]], "segmentation[0] is a list of 3: it must be the x and y of corners"),
        ([["a", "b"]], "segmentation[0] is a list of 2: it must be the x and y of corners"),
        ([[1, 1, 3, 1, 10**400, 3]], "segmentation[0] is a list of 6: it must be"),
        ([[1, 1, 3, 1, float("nan"), 3]], "segmentation[0] has a corner, number 3, that is not"),
        ([[1, 1, 3, 1]], "a polygon needs 3 corners, not 2: correct it, or take it out"),
        ([[1, 1, 3, 1, 1e12, 3]], "a corner is far from any image"),
        ([square(9, 9, 12, 12)], "it lies outside of the image of 6x4, from x=9, y=9 to x=12"),
        ({"size": [4, 5], "counts": [20]}, "runs of an image of 5x4, but the image is 6x4"),
        ({"size": [4, 6], "counts": [20]}, "runs of another number of pixels"),
        ({"size": [4, 6], "counts": [30, -6]}, "runs of another number of pixels"),
        ({"size": [4, 6], "counts": [2**62, 2**62, 2**62, 2**62]}, "runs of another number"),
        ({"size": [4, 6], "counts": [10**30]}, "segmentation.counts are no lengths of runs"),
        ({"size": [4, 6], "counts": ["a"]}, "segmentation.counts are no lengths of runs"),
        ({"size": [4, 6], "counts": "5a"}, "no lengths of runs (runs that end too early)"),
        ({"size": [4, 6]}, "segmentation.counts is None: it must be a list"),
        ({"counts": [24]}, "segmentation.size is None: it must be height and width"),
        ({"size": [-4, 6], "counts": [24]}, "segmentation.size is -4: it must be a whole number"),
        (7, "segmentation is 7: it must be an object with fields"),
        (None, "segmentation is None"),
    ],
)
def test_broken_segmentations_are_named_with_image_and_annotation(
    segmentation: Any, reason: str, write: Callable[[Any], Path]
) -> None:
    objects = [{"id": 12, "image_id": 7, "category_id": 1, "segmentation": segmentation}]
    file = write(content(objects))
    with pytest.raises(UserError, match=re.escape(reason)) as caught:
        mask_of(file)
    assert str(caught.value).startswith(f"{file}: image 000000000007.jpg: annotation 12")


@pytest.mark.parametrize(
    "name", ["a\x00.jpg", "a" * 5000, "a\x1b[2J.jpg", "..", "/", "C:\\", "\ud800.jpg"]
)
def test_names_that_no_image_can_have_are_not_found(name: str, tmp_path: Path) -> None:
    file = Path(labelled.coco(tmp_path).removeprefix("coco:"))
    found = labelled.coco_content()
    found["images"][0]["file_name"] = name
    file.write_text(json.dumps(found))
    assert outcome(f"coco:{file}").startswith(f"{file} names images that are not in {tmp_path}: ")


def test_control_characters_in_a_category_are_refused(tmp_path: Path) -> None:
    text = labelled.coco(tmp_path)
    file = tmp_path / "instances.json"
    file.write_text(file.read_text().replace('"cat"', '"c\\u001bt"'))
    assert "label 2 holds a control character: 'c\\x1bt': remove it" in outcome(text)


def test_random_changes_end_in_one_line_or_in_masks(tmp_path: Path) -> None:
    text = labelled.coco(tmp_path)
    file = tmp_path / "instances.json"
    assert complaints(text, file, file.read_text()) == {"masks", "error"}
