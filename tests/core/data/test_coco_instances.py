from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from u2pl.data import coco_instances
from u2pl.data.coco_instances import Instances, fill_polygon, instances, region, uncompressed
from u2pl.errors import UserError

NAMES = {1: "person", 3: "car"}
CLASSES = {1: 1, 3: 2}


def square(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def content(objects: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A file of two images of 6x4 pixels; the second one has no objects."""
    if objects is None:
        objects = [
            {"image_id": 7, "category_id": 1, "segmentation": [square(1, 1, 3, 3)]},
            {"image_id": 7, "category_id": 3, "segmentation": [square(0, 0, 5, 4)]},
        ]
    names = ("000000000007.jpg", "val2017/000000000009.jpg")
    images = [
        {"id": id, "file_name": name, "height": 4, "width": 6}
        for id, name in zip((7, 9), names, strict=True)
    ]
    categories = [{"id": id, "name": name} for id, name in NAMES.items()]
    return {"info": {}, "images": images, "annotations": objects, "categories": categories}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """Write a file of instances."""
    numbers = itertools.count()

    def written(value: Any) -> Path:
        file = tmp_path / f"instances_{next(numbers)}.json"
        file.write_text(value if isinstance(value, str) else json.dumps(value))
        return file

    return written


def mask_of(file: Path, id: str = "000000000007") -> list[list[int]]:
    return instances(file, NAMES).mask(id, (4, 6), CLASSES).tolist()


def slow_fill(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The docstring's loop."""
    inside = np.zeros(size, bool)
    ends = list(zip(points, np.roll(points, -1, axis=0), strict=True))
    for i, j in np.ndindex(size):
        crossings = [
            x + (i + 0.5 - y) * (x2 - x) / (y2 - y)
            for (x, y), (x2, y2) in ends
            if min(y, y2) <= i + 0.5 < max(y, y2)
        ]
        inside[i, j] = sum(x <= j + 0.5 for x in crossings) % 2 == 1
    return inside


@pytest.mark.parametrize("corners", [3, 4, 7, 20])
def test_polygons_are_filled_as_by_the_loop(corners: int) -> None:
    draw = np.random.default_rng(corners)
    for _ in range(10):
        points = draw.uniform(-8, 28, (corners, 2))  # some leave the image, and cross themselves
        np.testing.assert_array_equal(fill_polygon(points, (17, 23)), slow_fill(points, (17, 23)))


def test_polygons_side_by_side_share_no_pixel_and_leave_none_out() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        middle = draw.uniform(0, 12, 2)
        corners = np.array([[0, 0], [12, 0], [12, 9], [0, 9]])
        parts = [
            fill_polygon(np.array([corners[k], corners[(k + 1) % 4], middle]), (9, 12)).astype(int)
            for k in range(4)
        ]
        inside = middle[1] < 9
        assert (sum(parts) == 1).all() or not inside


@pytest.mark.parametrize(
    "points", [[[1, 1], [5, 5]], [[2, 2]], [], [[1, 2.5], [4, 2.5], [9, 2.5]], [[-9, -9]] * 5]
)
def test_polygons_without_area_are_empty(points: list[list[float]]) -> None:
    assert not fill_polygon(np.array(points, np.float64).reshape(-1, 2), (6, 8)).any()


def compressed(counts: list[int]) -> str:
    """COCO's text of runs, as its specification writes them."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(bits + 32 * more + 48)
    return text


def test_runs_go_down_the_columns_with_and_without_compression() -> None:
    draw = np.random.default_rng(1)
    for density in (0.02, 0.5):
        mask = draw.random((37, 29)) < density
        flat = mask.T.ravel()
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
        counts = np.diff(np.concatenate([[0], edges])).tolist()
        assert sum(counts) == mask.size
        for form in (counts, compressed(counts)):
            np.testing.assert_array_equal(
                region({"size": [37, 29], "counts": form}, (37, 29)), mask
            )
    # a text as COCO's own library makes it
    assert uncompressed("52203") == [5, 2, 2, 2, 5]


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
    assert mask_of(write(content()), "000000000009") == [[0] * 6] * 4


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
    assert mask_of(write(content(objects))) == [
        [1, 0, 0, 0, 2, 2],
        [0, 0, 0, 0, 2, 2],
        [0, 0, 0, 0, 2, 2],
        [0, 0, 1, 1, 2, 2],
    ]


def test_a_file_is_taken_apart_once_and_again_after_it_changed(
    write: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    take = coco_instances._taken_apart
    monkeypatch.setattr(
        coco_instances, "_taken_apart", lambda file, names: taken.append(file) or take(file, names)
    )
    file = write(content())
    first = mask_of(file)
    assert mask_of(file) == first and len(taken) == 1
    coco_instances._instances.cache_clear()  # another process finds it in the cache folder
    assert mask_of(file) == first and len(taken) == 1
    file.write_text(json.dumps(content([])))
    os.utime(file, ns=(1, 1))
    assert mask_of(file) == [[0] * 6] * 4 and len(taken) == 2


BROKEN_FILES = {
    "no JSON": "{",
    "half": json.dumps(content())[:200],
    "not UTF-8": None,
    "another structure": {"images": [], "annotations": []},
    "no images": content() | {"images": []},
    "a list": [1, 2],
    "captions": content([{"image_id": 7, "id": 1, "caption": "a car"}]),
    "sizes that are no numbers": content()
    | {"images": [{"id": 7, "file_name": "7.jpg", "height": "4", "width": 6}]},
    "an image's number in a list": content(
        [{"image_id": [7], "category_id": 1, "segmentation": []}]
    ),
    "a category in a list": content([{"image_id": 7, "category_id": [1], "segmentation": []}]),
    "nested": "[" * 100_000,
}


@pytest.mark.parametrize("what", BROKEN_FILES)
def test_files_of_another_kind_are_refused_in_one_line(
    what: str, write: Callable[[Any], Path]
) -> None:
    file = write(BROKEN_FILES[what] or "")
    if BROKEN_FILES[what] is None:
        file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"\.json does not hold COCO's instances") as caught:
        instances(file, NAMES)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_other_categories_are_named(write: Callable[[Any], Path]) -> None:
    with pytest.raises(UserError, match=r"none\.json cannot be read \(No such file"):
        instances(Path("none.json"), NAMES)
    own = content() | {"categories": [{"id": 1, "name": "weed"}, {"id": 3, "name": "car"}]}
    with pytest.raises(UserError, match=r"calls category 1 'weed', which COCO calls 'person': "):
        instances(write(own), NAMES)
    unknown = content([{"image_id": 7, "category_id": 12, "segmentation": []}])
    with pytest.raises(UserError, match=r"calls category 12 '', which COCO calls None"):
        instances(write(unknown), NAMES)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 1, 2]], "cannot reshape"),
        ([["a", "b"]], "could not convert"),
        ([[1, 1, 3, 1, 10**400, 3]], "neither polygons nor runs"),
        ([[1, 1, 3, 1, float("nan"), 3]], "not finite"),
        ({"size": [4, 5], "counts": [20]}, "another size"),
        ({"size": [4, 6], "counts": [20]}, "another number of pixels"),
        ({"size": [4, 6], "counts": [30, -6]}, "another number of pixels"),
        ({"size": [4, 6], "counts": "5a"}, "end too early"),
        ({"size": [4, 6]}, "neither polygons nor runs"),
        ({"counts": [24]}, "neither polygons nor runs"),
        (7, "neither polygons nor runs"),
        (None, "neither polygons nor runs"),
    ],
)
def test_broken_segmentations_are_named_with_their_image(
    segmentation: Any, reason: str, write: Callable[[Any], Path]
) -> None:
    objects = [{"image_id": 7, "category_id": 1, "segmentation": segmentation}]
    with pytest.raises(
        UserError, match=rf"object in image 000000000007 is broken \(.*{reason}.*\): replace"
    ):
        mask_of(write(content(objects)))


def test_an_image_of_another_size_is_refused(write: Callable[[Any], Path]) -> None:
    found = instances(write(content()), NAMES)
    assert isinstance(found, Instances) and set(found.rows) == {"000000000007", "000000000009"}
    with pytest.raises(UserError, match="says that image 000000000007 is 6x4, but it is 4x6"):
        found.mask("000000000007", (6, 4), CLASSES)


def test_random_changes_of_a_file_end_in_one_line_or_in_a_mask(
    write: Callable[[Any], Path],
) -> None:
    draw = np.random.default_rng(0)
    text = json.dumps(content())
    outcomes = set()
    for _ in range(150):
        spoilt = list(text)
        for place in draw.integers(len(text), size=draw.integers(1, 4)):
            spoilt[place] = chr(draw.integers(32, 127))
        file = write("".join(spoilt))
        try:
            found = instances(file, NAMES)
            for id in found.rows:
                assert found.mask(id, (4, 6), CLASSES).shape == (4, 6)
            outcomes.add("mask")
        except UserError as error:
            assert "\n" not in str(error)
            outcomes.add("error")
    assert outcomes == {"mask", "error"}
