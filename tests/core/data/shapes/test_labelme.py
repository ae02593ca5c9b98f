"""labelme's files, whole and broken."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.labelled import CAT, CLASSES, DOG, MASK, labelme, page, photos, shape
from harness.spoiling import complaints, outcome
from u2pl.data.opening import open_source
from u2pl.data.shapes.labelme import read_page
from u2pl.errors import UserError


def write(root: Path, name: str, content: Any) -> Path:
    """One file of labelme's."""
    file = root / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def encoded(pixels: Any) -> str:
    """A picture of a shape, as labelme keeps it."""
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    labelme(tmp_path / "photos")
    return tmp_path / "photos"


def mask_of(root: Path, *shapes: dict[str, Any]) -> list[list[int]]:
    write(root, "a", page("a", *shapes, shape("dog", [[7, 5], [8, 5], [8, 6], [7, 6]])))
    found = open_source(f"labelme:{root}").mask("a")
    assert found[5, 7] == found.max()
    return found[:4, :5].tolist()


def test_each_kind_of_shape_with_an_area_is_painted(root: Path) -> None:
    square = [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    corners = [[1, 1], [3, 1], [3, 3], [1, 3]]
    assert mask_of(root, shape("cat", corners)) == square
    assert mask_of(root, shape("cat", corners, kind="")) == square  # as old versions wrote it
    for two in ([[1, 1], [3, 3]], [[3, 1], [1, 3]], [[3, 3], [1, 1]]):
        assert mask_of(root, shape("cat", two, "rectangle")) == square
    assert mask_of(root, shape("cat", corners, "rectangle")) == square  # labelme 5.5
    assert mask_of(root, shape("cat", corners, "oriented_rectangle")) == square
    drawn = mask_of(
        root, shape("cat", [[1, 1], [3, 2]], "mask", mask=encoded([[0, 1, 1], [1] * 3]))
    )
    assert drawn == [[0] * 5, [0, 0, 1, 1, 0], [0, 1, 1, 1, 0], [0] * 5]


def test_a_circle_is_round(root: Path) -> None:
    Image.new("RGB", (80, 60)).save(root / "a.png")
    circle = shape("cat", [[40, 30], [40, 10]], "circle")
    content = page("a", circle, shape("dog", [[0, 0], [1, 0], [1, 1]]), imageWidth=80)
    write(root, "a", content | {"imageHeight": 60})
    y, x = np.indices((60, 80)) + 0.5
    expected = np.hypot(x - 40, y - 30) <= 20
    found = open_source(f"labelme:{root}").mask("a") == 1
    assert (found != expected).sum() <= 4


def test_what_has_no_area_is_left_out_with_a_note(root: Path) -> None:
    lines = [shape("cat", CAT[:2], "line"), shape("tail", CAT, "linestrip")]
    lines += [shape("eye", CAT[:1], "point"), shape("eye", CAT[:1], "point")]
    write(root, "a", page("a", shape("cat", CAT), shape("dog", DOG), *lines))
    source = open_source(f"labelme:{root}")
    assert source.classes == CLASSES
    assert "what has no area is left out: line (1), linestrip (1), point (2)" in source.notes
    np.testing.assert_array_equal(source.mask("a"), MASK)


def test_labels_that_differ_in_case_alone_are_told(root: Path) -> None:
    write(root, "a", page("a", shape("cat", CAT), shape("dog", DOG), shape("Dog", DOG)))
    (note,) = (note for note in open_source(f"labelme:{root}").notes if "case" in note)
    assert note.startswith("Dog, dog differ in upper and lower case alone, and each is a class")


def test_labels_txt_of_labelme_names_the_classes(root: Path) -> None:
    """Which begins with what is ignored."""
    (root / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    write(root, "b", page("b", shape("__ignore__", CAT), shape("cat", DOG)))
    source = open_source(f"labelme:{root}")
    assert source.classes == ("_background_", "dog", "cat")
    np.testing.assert_array_equal(source.mask("a"), np.array([0, 2, 1])[MASK])
    expected = np.array([0, 255, 2])[MASK]
    np.testing.assert_array_equal(source.mask("b"), expected)


@pytest.mark.parametrize(
    "said",
    [
        "a.png",
        "./a.png",
        "C:\\photos\\a.png",
        "/elsewhere/photos/a.png",
        "../photos/a.png",
        "x.png",
    ],
)
def test_the_image_is_found_however_its_path_was_written(said: str, root: Path) -> None:
    write(root, "a", page("a", shape("cat", CAT), shape("dog", DOG), imagePath=said))
    np.testing.assert_array_equal(open_source(str(root)).mask("a"), MASK)


def test_files_may_be_in_a_folder_of_their_own(tmp_path: Path) -> None:
    photos(tmp_path / "set" / "images")
    content = page("a", shape("cat", CAT), shape("dog", DOG), imagePath="../images/a.png")
    write(tmp_path / "set" / "json", "a", content)
    source = open_source(str(tmp_path / "set"))
    assert sorted(source.ids()) == ["a", "b", "c"]
    np.testing.assert_array_equal(source.mask("a"), MASK)
    alone = f"labelme:{tmp_path / 'set' / 'json'}"
    assert "imagePath is '../images/a.png', and there is no such image in" in outcome(alone)
    elsewhere = open_source(f"{alone}?images={tmp_path / 'set' / 'images'}")
    np.testing.assert_array_equal(elsewhere.mask("a"), MASK)


def test_an_image_in_its_file_is_taken_out_of_it(root: Path) -> None:
    data = base64.b64encode((root / "a.png").read_bytes()).decode()
    (root / "a.png").unlink()
    content = page("a", shape("cat", CAT), shape("dog", DOG), imageData=data)
    write(root, "a", content)
    source = open_source(f"labelme:{root}")
    assert source.image("a").getpixel((0, 0)) == (0, 90, 60)
    np.testing.assert_array_equal(source.mask("a"), MASK)
    write(root, "a", content | {"imageData": "%%%"})
    broken = f"{root / 'a.json'} cannot be decoded (no known image format)"
    assert outcome(f"labelme:{root}").startswith(broken)
    write(root, "a", content | {"imageData": 7})
    assert outcome(f"labelme:{root}").startswith(f"{root / 'a.json'}: imageData is no base64 text")


def test_json_of_other_programs_is_no_page(root: Path) -> None:
    assert read_page(write(root, "other", {"a": 1})) is None
    assert read_page(write(root, "list", [1])) is None
    np.testing.assert_array_equal(open_source(str(root)).mask("a"), MASK)


def test_two_files_of_one_image_are_refused(root: Path) -> None:
    write(root, "z", page("a", shape("cat", CAT)))
    assert "z.json and" in outcome(f"labelme:{root}")
    assert "are of the same image 'a': keep one of the two" in outcome(f"labelme:{root}")


def cat(**changes: Any) -> dict[str, Any]:
    return page("a", shape("cat", CAT) | changes, shape("dog", DOG))


#: What a file holds, and the complaint behind its name.
BROKEN: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", " cannot be read as JSON (Expecting property name"),
    "half": (json.dumps(cat())[:150], " cannot be read as JSON ("),
    "no text": (b'{"shapes": "\xff"}', " cannot be read as JSON ("),
    "nested": ('{"shapes": ' + "[" * 100_000, " cannot be read as JSON (it is nested too deep)"),
    "a number of many digits": (
        '{"shapes": ' + "1" * 9999 + "}",
        " cannot be read as JSON (Exceeds the limit",
    ),
    "shapes that are a number": (page("a") | {"shapes": 3}, ": shapes is 3: it must be a list"),
    "shapes that are fields": (page("a") | {"shapes": {}}, ": shapes is an object: it must be a"),
    "a shape that is a text": (
        page("a") | {"shapes": ["cat"]},
        ": shapes[0] is 'cat': it must be an object with fields",
    ),
    "no label": (cat(label=None), ": shapes[0].label is None: it must be a text"),
    "a label that is a number": (cat(label=3), ": shapes[0].label is 3: it must be a text"),
    "a blank label": (cat(label="  "), ": shapes[0].label is '  ': it must be a text"),
    "another kind": (
        cat(shape_type="star"),
        ": shapes[0].shape_type is 'star': it must be polygon",
    ),
    "a kind that is a list": (cat(shape_type=[1]), ": shapes[0].shape_type is a list of 1"),
    "no points": (cat(points=None), ": shapes[0].points is None: it must be a list"),
    "points that are a text": (cat(points="1,2"), ": shapes[0].points is '1,2': it must be a list"),
    "a point of three": (
        cat(points=[[1, 2, 3]]),
        ": shapes[0].points is a list of 1: it must be the x and y of corners",
    ),
    "points of many sizes": (
        cat(points=[[1, 2], [3]]),
        ": shapes[0].points is a list of 2: it must",
    ),
    "a point of words": (cat(points=[["a", "b"]]), ": shapes[0].points is a list of 1: it must be"),
    "a point that is not": (
        cat(points=[[1, 1], [4, float("nan")], [4, 4]]),
        ": shapes[0].points has a corner, number 2, that is not finite",
    ),
    "a huge number": (
        cat(points=[[1, 1], [4, 10**400], [4, 4]]),
        ": shapes[0].points is a list of",
    ),
    "a corner far away": (
        cat(points=[[1, 1], [4, 1e12], [4, 4]]),
        ": shapes[0] (cat): a corner is far from any image: correct it, or take it out",
    ),
    "two corners": (cat(points=CAT[:2]), ": shapes[0] (cat): a polygon needs 3 corners, not 2"),
    "beside the image": (
        cat(points=[[20, 20], [30, 20], [30, 30]]),
        ": shapes[0] (cat): it lies outside of the image of 8x6, from x=20, y=20 to x=30, y=30",
    ),
    "a circle of three": (
        cat(shape_type="circle", points=CAT[:3]),
        ": shapes[0].points has 3 points, and a circle needs 2",
    ),
    "a mask without a picture": (
        cat(shape_type="mask", points=CAT[:2]),
        ": shapes[0].mask is None: it must be a text",
    ),
    "a mask that is no base64": (
        cat(shape_type="mask", points=CAT[:2], mask="%"),
        ": shapes[0].mask is no base64 text",
    ),
    "a mask that is no picture": (
        cat(shape_type="mask", points=CAT[:2], mask="aGFsbG8="),
        ": shapes[0] (cat): its mask cannot be decoded (no known image format)",
    ),
    "a mask beside the image": (
        cat(shape_type="mask", points=[[7, 5], [8, 6]], mask=encoded(np.ones((2, 2)))),
        ": shapes[0] (cat): its mask of 2x2 pixels at x=7, y=5 leaves the image of 8x6",
    ),
    "a mask far away": (
        cat(shape_type="mask", points=[[1e300, 5], [1e300, 6]], mask=encoded(np.ones((2, 2)))),
        ": shapes[0] (cat): its mask of 2x2 pixels at x=1e+300, y=5 leaves the image of 8x6",
    ),
    "a path that is a number": (page("a", imagePath=7), ": imagePath is 7: it must be a text"),
    "no such image": (
        page("a", imagePath="q.png"),
        ": imagePath is 'q.png', and there is no such image in",
    ),
    "control characters in a path": (
        page("a", imagePath="q\n\x1b[31m.png"),
        ": imagePath is 'q\\n\\x1b[31m.png', and there is no such image in",
    ),
    "a width that is a text": (
        cat() | {"imageWidth": "8"},
        ": imageWidth is '8': it must be a pos",
    ),
    "no height": (cat() | {"imageHeight": 0}, ": imageHeight is 0: it must be a positive whole"),
    "half of the size": (cat() | {"imageHeight": None}, ": imageHeight is None: it must be a pos"),
    "a width beyond all": (cat() | {"imageWidth": 1e400}, ": imageWidth is inf: it must be a pos"),
    "another size": (cat() | {"imageWidth": 9}, " is of an image of 9x6, but"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files_end_in_a_line_that_names_file_and_field(what: str, root: Path) -> None:
    content, complaint = BROKEN[what]
    name = "q" if "no such image" in complaint else "a"
    (root / "a.json").unlink()
    file = write(root, name, content)
    assert outcome(f"labelme:{root}").startswith(f"{file}{complaint}")


def test_control_characters_in_a_label_are_refused(root: Path) -> None:
    write(root, "a", cat(label="c\x1b[2Jat"))
    found = outcome(f"labelme:{root}")
    assert re.search(r"label 2 holds a control character: 'c\\x1b\[2Jat': remove it", found)


def test_several_broken_files_are_counted(root: Path) -> None:
    for name in ("b", "d", "e"):
        write(root, name, "{")
    assert outcome(str(root)).endswith("(and 2 more of these files are broken)")


def test_a_folder_without_pages_is_none(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    with pytest.raises(UserError, match="holds no JSON files of labelme: give the folder in which"):
        open_source(f"labelme:{tmp_path / 'photos'}")


def test_random_changes_end_in_one_line_or_in_masks(root: Path) -> None:
    file = root / "a.json"
    assert complaints(f"labelme:{root}", file, file.read_text()) == {"masks", "error"}
