"""What sources of all labelling programs have in common."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.labelled import CLASSES, MASK, PROGRAMS
from u2pl.data.opening import open_source
from u2pl.data.shapes.source import Drawn
from u2pl.data.source import Source
from u2pl.data.splits import choose_labeled
from u2pl.errors import UserError


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def text(program: str, tmp_path: Path) -> str:
    """What is typed for three photos that the program labelled."""
    return PROGRAMS[program](tmp_path / "photos")


@pytest.fixture
def root(text: str, tmp_path: Path) -> Path:
    return tmp_path / "photos"


def names_of(source: Source) -> dict[str, str]:
    """The id of each image."""
    return {id.rpartition("/")[2]: id for id in source.ids()}


def test_shapes_become_masks(program: str, text: str) -> None:
    source = open_source(text)
    assert isinstance(source, Drawn) and source.name == "photos" and source.classes == CLASSES
    ids = names_of(source)
    assert set(ids) == {"a", "b", "c"}
    assert source.image(ids["a"]).size == (8, 6)
    mask = source.mask(ids["a"])
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK)
    assert not source.has_mask(ids["c"])
    with pytest.raises(UserError, match=f"photos: image '{ids['c']}' has no mask: add one"):
        source.mask(ids["c"])


def test_a_folder_is_recognised_by_what_lies_in_it(program: str, text: str, root: Path) -> None:
    by_path, forced = open_source(str(root)), open_source(text)
    assert by_path.notes == forced.notes and by_path.fingerprint() == forced.fingerprint()
    begin = {"coco": "COCO's", "cvat": "CVAT's", "labelme": "labelme's", "yolo": "YOLO's"}
    note = by_path.notes[0]
    assert note.startswith(f"photos is read as {begin[program]}")
    assert "1 of 3 images have shapes, 1 have no annotation" in note
    assert "pixels in no shape are background, class 0" in by_path.notes


def test_which_images_without_shapes_are_background_can_be_said(
    program: str, text: str, root: Path
) -> None:
    """Programs that list all images, labelled or not, do not tell; others write a file for each."""
    b = names_of(open_source(text))["b"]
    usual = program in ("labelme", "yolo")
    for said, expected in (("", usual), ("background", True), ("unlabelled", False)):
        (root / "meta.toml").write_text(f'empty = "{said}"' if said else "")
        source = open_source(text)
        assert source.has_mask(b) == expected
        words = "background alone" if expected else "unlabelled"
        assert any(
            f"1 annotated images have no shapes: they are read as {words};" in note
            for note in source.notes
        )
        assert not expected or not source.mask(b).any()
        other = open_source(f"{text}?empty={'unlabelled' if expected else 'background'}")
        assert other.has_mask(b) != expected


def test_pixels_in_no_shape_can_be_ignored(text: str, root: Path) -> None:
    expected = np.where(MASK == 0, 255, MASK - 1)
    before = open_source(text)
    source = open_source(f"{text}?outside=ignored")
    a, b = (names_of(source)[name] for name in "ab")
    assert source.classes == CLASSES[1:]
    np.testing.assert_array_equal(source.mask(a), expected)
    assert "pixels in no shape are ignored" in source.notes
    assert not source.has_mask(b)  # nothing is said of it
    assert source.fingerprint() != before.fingerprint()
    (root / "meta.toml").write_text('outside = "ignored"')
    np.testing.assert_array_equal(open_source(text).mask(a), expected)


def test_classes_txt_gives_names_order_and_colours(text: str, root: Path) -> None:
    (root / "classes.txt").write_text("background\ndog 1 2 3\nbird\ncat\n")
    source = open_source(text)
    assert source.classes == ("background", "dog", "bird", "cat")
    assert source.palette[1].tolist() == [1, 2, 3]
    a = names_of(source)["a"]
    np.testing.assert_array_equal(source.mask(a), np.array([0, 3, 1])[MASK])
    (root / "classes.txt").write_text("dog\ncat\n")
    source = open_source(text)
    assert "pixels in no shape are ignored, since the first class is no background" in source.notes
    np.testing.assert_array_equal(source.mask(a), np.array([255, 1, 0])[MASK])
    (root / "classes.txt").write_text("background\ndog\ncats\n")
    with pytest.raises(
        UserError,
        match=r"has shapes of 'cat', which \S*classes\.txt does not have "
        r"\(did you mean cats\?\): name the class there",
    ):
        open_source(text)


def test_meta_toml_merges_and_ignores_classes(text: str, root: Path) -> None:
    (root / "meta.toml").write_text('merge = {animal = ["cat", "dog"]}\nthings = ["animal"]')
    source = open_source(text)
    assert (source.classes, source.things) == (("background", "animal"), ("animal",))
    a = names_of(source)["a"]
    np.testing.assert_array_equal(source.mask(a), MASK > 0)
    (root / "meta.toml").write_text('ignore = ["cat"]')
    source = open_source(text)
    assert source.classes == ("background", "dog")
    np.testing.assert_array_equal(source.mask(a), np.array([0, 255, 1])[MASK])
    (root / "meta.toml").write_text('masks = "ids"')
    with pytest.raises(UserError, match="masks is about mask files, and here shapes are read"):
        open_source(text)


def test_lists_and_tags_are_those_of_the_folder(text: str, root: Path) -> None:
    ids = names_of(open_source(text))
    (root / "splits").mkdir()
    (root / "splits" / "val.txt").write_text(f"{ids['a']}\n")
    (root / "tags.csv").write_text("image,classes\n")
    source = open_source(f"{text}?empty=background")
    assert source.split("val") == [ids["a"]] and source.tags == root / "tags.csv"
    assert sorted(source.split("train")) == sorted([ids["b"], ids["c"]])
    labeled, unlabeled, _ = choose_labeled(source, None, 0)
    assert (labeled, unlabeled) == ([ids["b"]], [ids["c"]])


def test_the_fingerprint_follows_what_is_drawn(program: str, text: str, root: Path) -> None:
    """Also if a moved corner leaves a file as large as it was."""
    first = open_source(text).fingerprint()
    assert open_source(text).fingerprint() == first
    name = {"coco": "instances.json", "cvat": "annotations.xml", "labelme": "a.json"}
    file = root / name.get(program, "labels/train/a.txt")
    before = file.read_text()
    changes = {"coco": ("1, 1, 4", "1, 2, 4"), "labelme": ("[1, 1]", "[1, 2]")}
    old, new = changes.get(program, ("1.00,1.00", "1.00,2.00"))
    file.write_text(
        before.replace("0.125000", "0.126000") if program == "yolo" else before.replace(old, new)
    )
    assert file.read_text() != before
    assert open_source(text).fingerprint() != first


def test_a_source_can_be_sent_to_another_process(text: str) -> None:
    source = open_source(text)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.mask(names_of(source)["a"]), MASK)


@pytest.mark.parametrize("size", [(9, 6), (6, 8), (800, 600)])
def test_shapes_of_another_image_are_refused(
    size: tuple[int, int], program: str, text: str, root: Path
) -> None:
    if program == "yolo":
        pytest.skip("YOLO does not say of which size an image is")
    a = names_of(open_source(text))["a"]
    (file,) = root.rglob("a.png")
    Image.new("RGB", size).save(file)
    with pytest.raises(
        UserError, match=rf"is of an image of 8x6, but \S*a\.png is {size[0]}x{size[1]}: restore"
    ):
        open_source(text).mask(a)


def test_shapes_on_a_photo_that_exif_turns_lie_on_what_is_seen(
    program: str, text: str, root: Path
) -> None:
    """A photo that is stored on its side, with shapes on what viewers show."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (file,) = root.rglob("a.png")
    shown = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    shown.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    source = open_source(text)
    a = names_of(source)["a"]
    np.testing.assert_array_equal(source.mask(a), MASK)
    np.testing.assert_array_equal(np.asarray(source.image(a))[..., 0], np.asarray(shown))
    if program != "yolo":
        assert source.mask_size(a) == (8, 6)


def test_a_wrong_option_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"empty=none is unknown: write \?empty=background or \?em"):
        open_source(f"{text}?empty=none")
    with pytest.raises(UserError, match=r"unknown option 'out'; write \w+:PATH, \?.*images=…&out"):
        open_source(f"{text}?out=1")


def test_reading_says_how_far_it_is(program: str, text: str) -> None:
    said: list[str] = []

    class Counting:
        def __init__(self, what: str) -> None:
            said.append(what)

        def __enter__(self) -> Callable[[float, int], object]:
            return lambda done, total: None

        def __exit__(self, *_: object) -> None:
            pass

    open_source(text, Counting)
    assert len(said) == 1 and said[0].startswith("reading ")
