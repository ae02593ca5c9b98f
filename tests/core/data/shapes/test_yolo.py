"""YOLO's text files and data.yaml, whole and broken."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.labelled import CAT, CLASSES, DOG, MASK, photos, yolo, yolo_line
from harness.spoiling import complaints, outcome
from u2pl.data.opening import open_source
from u2pl.errors import UserError

NAMES = "names:\n  0: cat\n  1: dog\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    yolo(tmp_path / "photos")
    return tmp_path / "photos"


def label(root: Path, text: str) -> Path:
    """Write the labels of a.png."""
    file = root / "labels" / "train" / "a.txt"
    file.write_text(text)
    return file


def test_later_polygons_are_on_top(root: Path) -> None:
    label(root, yolo_line(1, DOG) + "\n" + yolo_line(0, CAT))
    expected = MASK.copy()
    expected[1:4, 1:4] = 1
    np.testing.assert_array_equal(open_source(str(root)).mask("train/a"), expected)


def test_boxes_are_filled_with_a_note(root: Path) -> None:
    label(root, "1 0.5 0.5 0.25 0.333333\n")  # the middle, width and height
    source = open_source(str(root))
    assert "1 shapes are boxes, filled as rectangles: outlines would say more" in source.notes
    found = source.mask("train/a")
    assert found[2:4, 3:5].all() and found.sum() == 8


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("names: [cat, dog]", ("background", "cat", "dog")),
        ("names: {1: dog, 0: cat}", ("background", "cat", "dog")),
        ("names: [background, dog]", ("background", "dog")),
        ("names: ['', dog]", None),
        ("names: [7, 2.5]", ("background", "7", "2.5")),
    ],
)
def test_names_may_be_a_list_or_numbered(
    names: str, classes: tuple[str, ...] | None, root: Path
) -> None:
    (root / "data.yaml").write_text(f"train: images/train\nnc: 2\n{names}\n")
    if classes is None:
        assert "data.yaml: names[0] is '': it must be a text" in outcome(str(root))
    else:
        assert open_source(str(root)).classes == classes


def test_splits_are_those_of_data_yaml(tmp_path: Path) -> None:
    """As Roboflow writes them: a folder for each, and `../` in front of it."""
    root = tmp_path / "set"
    for split, name in (("train", "a"), ("valid", "b"), ("test", "c")):
        photos(root / split / "images", f"{name}.png")
        (root / split / "labels").mkdir()
        (root / split / "labels" / f"{name}.txt").write_text(yolo_line(0, CAT) + yolo_line(1, DOG))
    (root / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n{NAMES}"
    )
    source = open_source(str(root))
    assert source.classes == CLASSES
    assert {name: source.split(name) for name in source.splits()} == {
        "train": ["train/images/a"], "val": ["valid/images/b"], "test": ["test/images/c"]
    }  # fmt: skip
    np.testing.assert_array_equal(source.mask("valid/images/b"), MASK)
    shutil.rmtree(root / "test")  # which they name even if there is none
    assert "test" not in open_source(str(root)).splits()


def label_studio(root: Path, names: str = "cat\ndog\n") -> Path:
    """As Label Studio writes it: no data.yaml, and a list of classes that looks like COCO's."""
    photos(root / "images")
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text(yolo_line(0, CAT) + yolo_line(1, DOG))
    (root / "labels" / "b.txt").write_text("")
    (root / "classes.txt").write_text(names)
    notes = {"categories": [{"id": 0, "name": "cat"}], "info": {"contributor": "Label Studio"}}
    (root / "notes.json").write_text(json.dumps(notes))
    return root


@pytest.mark.parametrize("text", ["{}", "yolo:{}"])
def test_classes_txt_of_label_studio_stands_for_data_yaml(tmp_path: Path, text: str) -> None:
    root = label_studio(tmp_path / "set")
    source = open_source(text.format(root))
    assert source.classes == CLASSES  # it names no background
    np.testing.assert_array_equal(source.mask("a"), MASK)
    assert source.has_mask("b") and not source.has_mask("c")
    (root / "meta.toml").write_text('outside = "ignored"\n')
    alone = open_source(text.format(root))
    assert alone.classes == CLASSES[1:]
    assert alone.mask("a")[0, 0] == 255
    # beside data.yaml it is a list of classes as in any folder
    (root / "data.yaml").write_text(f"train: images\n{NAMES}")
    (root / "classes.txt").write_text("background\ndog\ncat\n")
    assert open_source(text.format(root)).classes == ("background", "dog", "cat")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "classes.txt").write_text(""), "classes.txt: names is empty"),
        (
            lambda root: (root / "classes.txt").write_text("cat\n"),
            "a.txt, line 2: the class is 1, and there are 0 to 0: name it in data.yaml (or",
        ),
        (lambda root: shutil.rmtree(root / "images"), "there is no such folder or list"),
        (
            lambda root: (root / "images" / "a.png").unlink(),
            "labels/a.txt has no image of its name",
        ),
    ],
    ids=["empty", "too few", "no images", "no image"],
)
def test_what_is_wrong_in_label_studio_s_is_one_line(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    root = label_studio(tmp_path / "set")
    spoil(root)
    with pytest.raises(UserError) as error:
        open_source(str(root))
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "said",
    [
        "train: images/train",
        "path: .\ntrain: images/train",
        "path: ../photos\ntrain: images/train",  # seen from the folder of all data sets
        "path: /content/drive/photos\ntrain: images/train",
        "train: /content/drive/photos/images/train",
        "train: ..\\photos\\images\\train",
        "train: [images/train]",
        "train: train.txt",
    ],
)
def test_images_are_found_wherever_the_folder_was(said: str, root: Path) -> None:
    lines = ("./images/train/a.png", "data/images/train/b.png", "/x/photos/images/train/c.png")
    (root / "train.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(f"{said}\n{NAMES}")
    source = open_source(str(root))
    assert len(source.ids()) == 3
    np.testing.assert_array_equal(source.mask("train/a"), MASK)


def test_labels_may_lie_beside_the_images_or_elsewhere(root: Path, tmp_path: Path) -> None:
    for file in (root / "labels" / "train").iterdir():
        file.rename(root / "images" / "train" / file.name)
    np.testing.assert_array_equal(open_source(str(root)).mask("train/a"), MASK)
    for file in (root / "images" / "train").glob("*.txt"):
        file.rename(root / "labels" / "train" / file.name)
    (root / "images").rename(tmp_path / "elsewhere")
    source = open_source(f"yolo:{root}?images={tmp_path / 'elsewhere'}")
    np.testing.assert_array_equal(source.mask("train/a"), MASK)
    assert not source.has_mask("train/c")


#: The text file of a.png, and the complaint behind its name.
LINES: dict[str, tuple[str | bytes, str]] = {
    "a word": ("0 a 0.1 0.5 0.1 0.5 0.5", ", line 1: value 2 is 'a': it must be a finite number"),
    "no number": ("0 nan 0 1 0 1 1", ", line 1: value 2 is 'nan': it must be a finite number"),
    "beyond all": ("0 1e999 0 1 0 1 1", ", line 1: value 2 is '1e999': it must be a finite number"),
    "two corners": ("0 0 0 1 1 0", ", line 1 holds 6 numbers: a polygon is a class, then x and y"),
    "half a corner": ("0 0 0 1 0 1 1 0", ", line 1 holds 8 numbers: a polygon is a class, then x"),
    "a class alone": ("0", ", line 1 holds 1 numbers: a polygon is a class"),
    "a line below": ("0 0 0 1 0 1 1\n\n0 1", ", line 3 holds 2 numbers: a polygon is a class"),
    "another class": (
        "7 0 0 1 0 1 1",
        ", line 1: the class is 7, and there are 0 to 1: name it in",
    ),
    "half a class": ("0.5 0 0 1 0 1 1", ", line 1: the class is 0.5, and there are 0 to 1"),
    "a negative class": ("-1 0 0 1 0 1 1", ", line 1: the class is -1, and there are 0 to 1"),
    "a huge class": ("1e300 0 0 1 0 1 1", ", line 1: the class is 1e300, and there are 0 to 1"),
    "pixels": ("0 100 20 100 40 50 60", ", line 1 holds a corner at 100: x and y are shares of"),
    "control characters": (
        "0\x00 0 0 1 0 1 1",
        ", line 1: value 1 is '0\\x00': it must be a finite",
    ),
    "no text": (b"0 \xff 0 1 0 1 1", " cannot be read as text ("),
}


@pytest.mark.parametrize("what", LINES)
def test_broken_lines_end_in_one_that_names_file_and_line(what: str, root: Path) -> None:
    content, complaint = LINES[what]
    file = root / "labels" / "train" / "a.txt"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    found = outcome(f"yolo:{root}")
    assert found.startswith(f"{file}{complaint}"), found


#: data.yaml, and the complaint behind its name.
FILES: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", " is None: it must be an object with fields"),
    "a list": ("[1, 2]", " is a list of 2: it must be an object with fields"),
    "no YAML": ("names: [cat", " cannot be read as YAML (while parsing a flow sequence"),
    "tabs": ("names:\n\t0: cat", " cannot be read as YAML (while scanning for the next token"),
    "another kind": (
        "names: !!python/object:a.b {}",
        " cannot be read as YAML (could not determine",
    ),
    "no text": (b"names: \xff", " cannot be read as YAML ("),
    "a control character": ("names: [\x01]", " cannot be read as YAML (unacceptable character"),
    "nested": ("names: " + "[" * 5000, " cannot be read as YAML (it is nested too deep)"),
    "no names": ("train: images/train", ": names is None: it must be an object with fields"),
    "empty names": ("train: images/train\nnames: []", ": names is empty: name the classes"),
    "a name that is a list": ("names: [[1], [2]]", ": names[0] is a list of 1: it must be a text"),
    "a number of a name": (
        "names: {one: cat, two: dog}",
        ": names: a number is 'one': it must be a whole number",
    ),
    "half a number": ("names: {0.5: cat}", ": names: a number is 0.5: it must be a whole number"),
    "no train": (NAMES, " does not say where the images are: write train: images/train"),
    "a number for train": (f"train: 5\n{NAMES}", ": train is 5: it must be a list"),
    "fields for train": (f"train: {{a: b}}\n{NAMES}", ": train is an object: it must be a list"),
    "a list of numbers": (f"train: [5]\n{NAMES}", ": train is 5: it must be a text"),
    "no such folder": (
        f"train: here\n{NAMES}",
        ": train is 'here', and there is no such folder or",
    ),
    "no such val": (
        f"train: images/train\nval: images/val\n{NAMES}",
        ": val is 'images/val', and there is no such folder or list in",
    ),
    "a folder without images": (f"train: labels\n{NAMES}", ": there are no images in"),
    "what is no path": (
        f'train: ["a\\0b", "{"a" * 5000}"]\n{NAMES}',
        ": train is 'a\\x00b', and there is no such folder or list in",
    ),
    "a long path": (f"train: {'a' * 5000}\n{NAMES}", ": train is 'aaa"),
    "control characters": (
        f'train: "a\\x1b[2J\\n"\n{NAMES}',
        ": train is 'a\\x1b[2J\\n', and there is no such folder",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_broken_data_files_end_in_a_line_that_names_the_field(what: str, root: Path) -> None:
    content, complaint = FILES[what]
    file = root / "data.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    found = outcome(f"yolo:{root}")
    assert found.startswith(f"{file}{complaint}"), found


def test_control_characters_in_a_name_are_refused(root: Path) -> None:
    (root / "data.yaml").write_text('train: images/train\nnames: ["c\\x1b[2Jt", dog]')
    assert "label 2 holds a control character: 'c\\x1b[2Jt': remove it" in outcome(str(root))


def test_what_does_not_belong_together_is_named(root: Path) -> None:
    stray = root / "labels" / "train" / "q.txt"
    stray.write_text(yolo_line(0, CAT))
    found = f"{stray} has no image of its name: put it back, or take the text file out"
    assert outcome(str(root)) == found
    stray.unlink()
    (root / "images" / "train" / "a.txt").write_text("")  # beside it too, which is not looked at
    assert outcome(str(root)) == "masks"
    shutil.rmtree(root / "labels")
    (root / "images" / "train" / "a.txt").unlink()
    assert "no image has a text file of its labels" in outcome(str(root))


def test_a_list_that_names_unknown_images_is_refused(root: Path) -> None:
    (root / "train.txt").write_text("images/train/a.png\nimages/train/q.png\n")
    (root / "data.yaml").write_text(f"train: train.txt\n{NAMES}")
    assert re.search(
        r"train\.txt names images that are not in \S*photos: 'images/train/q\.png' \(1\) of 2",
        outcome(str(root)),
    )


def test_a_folder_without_data_yaml_is_named(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    found = outcome(f"yolo:{tmp_path / 'photos'}")
    assert found.endswith("holds no data.yaml, which names the classes of YOLO's labels")


def test_random_changes_end_in_one_line_or_in_masks(root: Path) -> None:
    for file in (root / "data.yaml", root / "labels" / "train" / "a.txt"):
        before = file.read_text()
        assert complaints(f"yolo:{root}", file, before) == {"masks", "error"}
        file.write_text(before)
