"""CVAT's XML of images, whole and broken."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from harness.labelled import CAT, CLASSES, DOG, MASK, cvat, cvat_text, photos, polygon
from harness.spoiling import complaints, outcome
from u2pl.data.opening import open_source
from u2pl.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    cvat(tmp_path / "photos")
    return tmp_path / "photos"


def write(root: Path, *shapes: str, more: str = "") -> Path:
    file = root / "annotations.xml"
    file.write_text(cvat_text(*shapes, more=more))
    return file


def mask_of(root: Path, *shapes: str) -> np.ndarray:
    """Of a.png."""
    return open_source(f"cvat:{write(root, *shapes)}").mask("a")


def mask(label: str, runs: str, left: int, top: int, width: int, height: int, z: int = 0) -> str:
    """A mask of CVAT's."""
    place = f'left="{left}" top="{top}" width="{width}" height="{height}"'
    return f'<mask label="{label}" rle="{runs}" {place} z_order="{z}"></mask>'


def slow_decode(runs: list[int], width: int, height: int) -> np.ndarray:
    """Runs along the rows, in turn outside and inside: pixel by pixel."""
    inside, number, left = [], 0, runs[0]
    for _ in range(width * height):
        while not left:
            number += 1
            left = runs[number]
        inside.append(number % 2 == 1)
        left -= 1
    return np.array(inside).reshape(height, width)


def test_masks_are_decoded_as_by_the_loop(root: Path) -> None:
    draw = np.random.default_rng(3)
    for _ in range(20):
        height, width = draw.integers(1, 7), draw.integers(1, 9)
        top, left = draw.integers(0, 7 - height), draw.integers(0, 9 - width)
        inside = draw.random((height, width)) < draw.choice([0.1, 0.5, 0.9])
        flat = inside.ravel()
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
        runs = np.diff(np.concatenate([[0], edges])).tolist()
        np.testing.assert_array_equal(slow_decode(runs, width, height), inside)
        expected = np.zeros((6, 8), bool)
        expected[top : top + height, left : left + width] = inside
        for joint in (", ", ","):
            text = mask("cat", joint.join(map(str, runs)), left, top, width, height)
            np.testing.assert_array_equal(mask_of(root, text), expected)


def test_boxes_and_ellipses_are_filled_and_may_be_turned(root: Path) -> None:
    box = '<box label="cat" xtl="1" ytl="1" xbr="7" ybr="3"{}/>'
    found = mask_of(root, box.format(""))
    assert found.sum() == 12 and found[1:3, 1:7].all()
    found = mask_of(root, box.format(' rotation="90.0"'))  # around its middle, 4 and 2
    assert found.sum() == 10 and found[0:5, 3:5].all()  # one row of it is above the image
    round_one = '<ellipse label="cat" cx="4" cy="3" rx="3" ry="2"/>'
    y, x = np.indices((6, 8)) + 0.5
    expected = ((x - 4) / 3) ** 2 + ((y - 3) / 2) ** 2 <= 1
    np.testing.assert_array_equal(mask_of(root, round_one), expected)


def test_what_is_higher_is_on_top_and_equals_keep_the_order_of_the_file(root: Path) -> None:
    cat_on_top = np.where(np.indices((6, 8))[0] < 0, 0, MASK)
    cat_on_top[1:4, 1:4] = 1
    later = mask_of(root, polygon("dog", DOG), polygon("cat", CAT))
    higher = mask_of(root, polygon("cat", CAT, z_order=1), polygon("dog", DOG, z_order=-2))
    for found in (later, higher):
        np.testing.assert_array_equal(found, cat_on_top)
    np.testing.assert_array_equal(mask_of(root, polygon("cat", CAT), polygon("dog", DOG)), MASK)


def test_what_has_no_area_is_left_out_with_a_note(root: Path) -> None:
    others = ('<polyline label="cat" points="1,1;2,2"/>', '<points label="x" points="1,1"/>')
    skeleton = '<skeleton label="s"><points label="1" points="1,1"></points></skeleton>'
    tag = '<tag label="sunny"></tag>'
    file = write(root, polygon("cat", CAT), polygon("dog", DOG), *others, skeleton, tag)
    source = open_source(f"cvat:{file}")
    assert source.classes == CLASSES
    words = "what has no area is left out: polyline (1), points (1), skeleton (1), tag (1)"
    assert words in source.notes
    np.testing.assert_array_equal(source.mask("a"), MASK)


def test_labels_of_points_and_skeletons_are_no_classes(root: Path) -> None:
    file = write(root, polygon("cat", CAT))
    labels = "".join(
        f"<label><name>{name}</name><type>{kind}</type>{more}</label>"
        for name, kind, more in (
            ("cat", "any", "<attributes><attribute><name>age</name></attribute></attributes>"),
            ("eye", "points", ""),
            ("bones", "skeleton", ""),
            ("1", "points", "<parent>bones</parent>"),
            ("tree", "mask", ""),
        )
    )
    file.write_text(re.sub("<labels>.*</labels>", f"<labels>{labels}</labels>", file.read_text()))
    assert open_source(f"cvat:{file}").classes == ("background", "cat", "tree")


def test_a_project_has_subsets(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in ("Train", "Validation"):
        photos(root / "images" / name, f"{name[0].lower()}.png", "same.png")
    shapes = (polygon("cat", CAT), polygon("dog", DOG))
    images = "".join(
        f'<image id="{number}" name="{name}" subset="{subset}" width="8" height="6">'
        f"{''.join(shapes)}</image>"
        for number, (subset, name) in enumerate(
            [("Train", "t.png"), ("Train", "same.png"), ("Validation", "same.png")]
        )
    )
    text = re.sub("<image .*</image>", images, cvat_text(), flags=re.DOTALL)
    (root / "annotations.xml").write_text(text)
    source = open_source(str(root))
    assert source.split("val") == ["Validation/same"]
    assert sorted(source.split("train")) == ["Train/same", "Train/t", "Validation/v"]
    np.testing.assert_array_equal(source.mask("Validation/same"), MASK)


SQUARE = '<polygon label="cat" points="1,1;4,1;4,4"/>'
#: What is changed in the file, by what, and the complaint behind its name and the line.
BROKEN: dict[str, tuple[str, str, str]] = {
    "no points": ('points="1,1;4,1;4,4"', "", "polygon.points is None: it must be a text"),
    "blank points": ("1,1;4,1;4,4", " ", "polygon.points is ' ': it must be a text"),
    "half a point": ("4,4", "4", "polygon.points is a list of 5: it must be the x and y of"),
    "a word": ("4,4", "4,four", "polygon.points is a list of 6: it must be the x and y of"),
    "no number": ("4,4", "4,nan", "polygon.points has a corner, number 3, that is not finite"),
    "beyond all": ("4,4", "4,1e400", "polygon.points has a corner, number 3, that is not finite"),
    "no label": ('label="cat" ', "", "polygon.label is None: it must be a text"),
    "a blank label": ('"cat"', '" "', "polygon.label is ' ': it must be a text"),
    "a height that is a word": ('4,4"', '4,4" z_order="up"', "polygon: z_order is 'up': it must"),
    "half a height": ('4,4"', '4,4" z_order="0.5"', "polygon: z_order is 0.5: it must be a whole"),
    "a huge height": ('4,4"', '4,4" z_order="1e300"', "polygon: z_order is '1e300': it must"),
    "another kind": ("polygon", "star", "star is no shape of CVAT's: export the task anew"),
    "a box without edges": (
        SQUARE, '<box label="cat" xtl="1"/>', "box.ytl is None: it must be a finite number"
    ),
    "an ellipse of words": (
        SQUARE, '<ellipse label="cat" cx="a"/>', "ellipse.cx is 'a': it must be a finite number"
    ),
    "a mask of words": (
        SQUARE, mask("cat", "one", 0, 0, 1, 1), "mask.rle must be lengths of runs, such as 3, 4, 5"
    ),
    "a mask of fractions": (SQUARE, mask("cat", "1.5", 0, 0, 1, 1), "mask.rle must be lengths of"),
    "a mask beyond all": (SQUARE, mask("cat", "9" * 30, 0, 0, 1, 1), "mask.rle must be lengths"),
    "a mask without runs": (SQUARE, mask("cat", "", 0, 0, 1, 1), "mask.rle is '': it must be a"),
    "a mask without width": (
        SQUARE,
        '<mask label="cat" rle="1" left="0" top="0"/>',
        "mask: width is None: it must be a finite number",
    ),
    "a mask left of the image": (
        SQUARE, mask("cat", "0, 1", -1, 0, 1, 1), "mask: left is -1: it must be a whole number"
    ),
    "an image without name": ('name="a.png" ', "", "the name of an image is None: it must be a"),
    "a width that is a word": ('width="8"', 'width="w"', "width is 'w': it must be a finite"),
    "a width of 0": ('width="8"', 'width="0"', "width is 0: it must be a positive whole number"),
    "no height": (' height="6"', "", "height is None: it must be a finite number"),
    "a label without name": ("<name>cat</name>", "<name> </name>", "the name of a label is '': it"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_fields_end_in_a_line_that_names_file_line_and_field(what: str, root: Path) -> None:
    old, new, complaint = BROKEN[what]
    file = write(root, SQUARE)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    line = next(i for i, row in enumerate(text.splitlines(), 1) if old in row)
    found = outcome(f"cvat:{file}")
    assert re.match(rf"{re.escape(str(file))}, line {line}:? {re.escape(complaint)}", found), found


#: A shape, and the complaint behind the file and its image.
MISFITS = {
    "two corners": ('<polygon label="cat" points="1,1;2,2"/>', "a polygon needs 3 corners, not 2"),
    "far away": ('<polygon label="cat" points="1,1;2,2;9e9,1"/>', "a corner is far from any image"),
    "beside the image": (
        '<polygon label="cat" points="20,1;22,2;25,1"/>',
        "it lies outside of the image of 8x6, from x=20, y=1 to x=25, y=2",
    ),
    "a mask beside the image": (
        mask("cat", "0, 4", 7, 5, 2, 2),
        "its mask of 2x2 pixels at x=7, y=5 leaves the image of 8x6",
    ),
    "a mask of no pixels": (mask("cat", "0", 0, 0, 0, 1), "its mask of 0x1 pixels at x=0"),
    "a mask of fewer pixels": (mask("cat", "1, 2", 0, 0, 2, 2), "runs of another number of pixels"),
    "a mask of negative runs": (mask("cat", "5, -1", 0, 0, 2, 2), "runs of another number of pixe"),
    "a mask of huge runs": (
        mask("cat", f"{2**62}, {2**62}, {2**62}, {2**62}", 0, 0, 2, 2),
        "runs of another number of pixels",
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_shapes_that_do_not_fit_are_named_with_image_and_line(what: str, root: Path) -> None:
    shape, reason = MISFITS[what]
    file = write(root, shape)
    kind = re.match(r"<(\w+)", shape)
    assert kind is not None
    found = outcome(f"cvat:{file}")
    assert found.startswith(f"{file}: image a.png: {kind[1]} in line 6 (cat): {reason}"), found


LAUGHS = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]><annotations>&c;</annotations>'
#: What is in the file, and the complaint behind its name.
FILES: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", " cannot be read as XML (no element found"),
    "no XML": ("{}", " cannot be read as XML (not well-formed"),
    "half": (cvat_text(SQUARE)[:330], " cannot be read as XML (unclosed token"),
    "no text": (b"<annotations>\xff</annotations>", " cannot be read as XML (not well-formed"),
    "a control character": ("<annotations>\x01</annotations>", " cannot be read as XML (not well"),
    "an unknown encoding": (
        "<?xml version='1.0' encoding='klingon'?><annotations/>",
        " cannot be read as XML (unknown encoding",
    ),
    "entities": (LAUGHS, " declares a document type, which CVAT does not"),
    "nested": ("<annotations>" + "<meta>" * 99, " is nested too deep: export it anew"),
    "VOC's": ("<annotation><object/></annotation>", " begins with <annotation>, and CVAT's files"),
    "a video": ("<annotations><track id='0'/></annotations>", " holds tracks of a video: export"),
    "no image": ("<annotations></annotations>", " names no image: export the task from CVAT as"),
    "a foreign label": (
        cvat_text(polygon("bird", CAT)),
        " has shapes of 'bird', which is none of its labels: correct the label, or add it",
    ),
    "an image twice": (
        cvat_text(more='<image id="7" name="a.png" width="8" height="6"/>'),
        " names the image 'a.png' twice: keep one of the two",
    ),
    "what is no path": (
        cvat_text(more=f'<image id="7" name="{"a" * 5000}.png" width="8" height="6"/>'),
        " names images that are not in ",
    ),
    "no such image": (
        cvat_text(more='<image id="7" name="q&#10;.png" width="8" height="6"/>'),
        " names images that are not in ",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_broken_files_end_in_a_line_that_names_them(what: str, root: Path) -> None:
    content, complaint = FILES[what]
    file = root / "annotations.xml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    found = outcome(f"cvat:{file}")
    assert found.startswith(f"{file}{complaint}"), found


def test_control_characters_in_a_label_are_refused(root: Path) -> None:
    file = write(root, polygon("cat", CAT))
    file.write_text(file.read_text().replace("cat", "c&#127;t"))
    assert "holds a control character: 'c\\x7ft': remove it" in outcome(f"cvat:{file}")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"none\.xml cannot be read \(No such file"):
        open_source("cvat:none.xml")


def test_random_changes_end_in_one_line_or_in_masks(root: Path) -> None:
    runs = mask("dog", "1, 3, 2", 2, 3, 3, 2)
    file = write(root, polygon("cat", CAT), runs)
    assert complaints(f"cvat:{file}", file, file.read_text()) == {"masks", "error"}
