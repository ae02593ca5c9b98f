from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from u2pl.data.meta import Meta, read_meta
from u2pl.data.sources.folder import Folder
from u2pl.errors import UserError

CLASSES = ("road", "car", "person")


def test_a_folder_without_it_has_nothing_to_say(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = Folder(make_folder({"a": [0, 1]}))
    assert (source.things, source.void_rows, dict(source.subsets)) == ((), (0.0, 0.0), {})
    assert read_meta(tmp_path / "meta.toml", CLASSES) == Meta((), (0.0, 0.0))


def test_it_is_read_and_leaves_the_fingerprint_alone(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"a": [0, 1]})
    before = Folder(root).fingerprint()
    (root / "meta.toml").write_text(
        'things = ["dog", "cat", "dog"]\nvoid_top = 0.03\nvoid_bottom = 0.2\n'
    )
    source = Folder(root)
    assert (source.things, source.void_rows) == (("dog", "cat"), (0.03, 0.2))
    assert source.fingerprint() == before


def test_parts_may_be_left_out_and_shares_be_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "meta.toml").write_text("void_top = 0\n")
    assert read_meta(tmp_path / "meta.toml", CLASSES) == Meta()
    (tmp_path / "meta.toml").write_bytes("\ufeffvoid_bottom = 0.5".encode())
    assert read_meta(tmp_path / "meta.toml", CLASSES) == Meta((), (0.0, 0.5))


def test_how_masks_are_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "meta.toml").write_text(
        'masks = "colours"\nexif = "stored"\nignore = ["road", "road"]\n'
    )
    meta = read_meta(tmp_path / "meta.toml", CLASSES)
    assert (meta.masks, meta.exif, meta.ignore) == ("colours", "stored", ("road",))
    (tmp_path / "meta.toml").write_text("reduce_zero_label = true\n")
    assert read_meta(tmp_path / "meta.toml", CLASSES).reduce_zero_label


def test_a_merged_class_stands_where_its_first_part_stood() -> None:
    classes = ("road", "bus", "tree", "car", "sky", "truck")
    vehicle = Meta(merge={"vehicle": ("truck", "car", "bus")}, ignore=("tree",))
    assert vehicle.remaining(classes) == (("road", "vehicle", "sky"), (0, 1, -1, 1, 2, 1))
    assert Meta().remaining(classes) == (classes, (0, 1, 2, 3, 4, 5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"things = [", r"cannot be read as TOML \(.*\): write lines such as"),
        (b"things = ['\xff']", "cannot be read as TOML"),
        (
            b"void_rows = 1",
            r"unknown key 'void_rows' .*: it may hold things, void_top, void_bottom, masks, "
            "reduce_zero_label, merge, ignore and exif",
        ),
        (b"outside = 'ignored'", "outside is about shapes, and here are none: leave it out"),
        (b"empty = 'background'", "empty is about shapes, and here are none: leave it out"),
        (b"mask = 'ids'", r"unknown key 'mask' \(did you mean masks\?\)"),
        (b"masks = 'rgb'", 'masks is \'rgb\': write masks = "ids" or masks = "colours" or masks'),
        (b"masks = ['ids']", r"masks is \['ids'\]: write masks = \"ids\""),
        (b"exif = true", 'exif is True: write exif = "upright" or exif = "stored"'),
        (b"reduce_zero_label = 1", "reduce_zero_label is 1: write true or false"),
        (
            b"reduce_zero_label = true\nmasks = 'binary'",
            'reduce_zero_label is about ids, but masks = "binary": leave one of them out',
        ),
        (b"merge = ['car']", r"merge must be a table of new names .* merge = \{vehicle = \["),
        (b"merge = {moving = 'car'}", r"merge\.moving must be a list of class names"),
        (b"merge = {moving = []}", r"merge\.moving must name a class and list what it is made of"),
        (b"merge = {'' = ['car']}", r"merge\. must name a class and list what it is made of"),
        (
            b"merge = {moving = ['car', 'bike']}",
            r"merge\.moving names classes that classes\.txt does not have: 'bike' \(1\)",
        ),
        (
            b"merge = {a = ['car', 'road'], b = ['person', 'car']}",
            r"merge puts 'car' \(1\) into two classes: keep each class in one",
        ),
        (b"merge = {car = ['road'], b = ['car']}", r"merge puts 'car' \(1\) into two classes"),
        (
            b"merge = {a = ['car', 'road']}\nignore = ['road']",
            r"merge and ignore both name 'road' \(1\): keep each class in one",
        ),
        (b"ignore = 'road'", "ignore must be a list of class names"),
        (b"ignore = ['sky']", r"ignore names classes that classes\.txt does not have: 'sky' \(1\)"),
        (b"ignore = ['road', 'car']", "merge and ignore leave 1 class, and at least 2 are needed"),
        (b"merge = {all = ['road', 'car', 'person']}", "merge and ignore leave 1 class"),
        (b"ignore = ['road']\nthings = ['road']", r"things names classes that do not remain: 'r"),
        (b"things = 'car'", "things must be a list of class names"),
        (b"things = [1]", "things must be a list of class names"),
        (b"things = ['car', 'cart']", r"classes that classes\.txt does not have: 'cart' \(1\)"),
        (
            b"void_top = 1.0",
            r"void_top is 1\.0: write a share of the image's height, from 0 to below 1",
        ),
        (b"void_bottom = -0.1", r"void_bottom is -0\.1"),
        (b"void_bottom = nan", "void_bottom is nan"),
        (b"void_top = true", "void_top is True"),
        (b"void_top = '3%'", "void_top is '3%'"),
        (
            b"void_top = 0.5\nvoid_bottom = 0.5",
            r"void_top 0\.5 and void_bottom 0\.5 leave nothing of the image",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "meta.toml").write_bytes(text)
    with pytest.raises(UserError, match=message) as error:
        read_meta(tmp_path / "meta.toml", CLASSES)
    assert "\n" not in str(error.value) and "meta.toml" in str(error.value)


def test_what_shapes_leave_open_is_said(tmp_path: Path) -> None:
    file = tmp_path / "meta.toml"
    file.write_text('outside = "ignored"\nempty = "unlabelled"\nthings = ["car"]\n')
    meta = read_meta(file, CLASSES, drawn=True)
    assert (meta.outside, meta.empty, meta.things) == ("ignored", "unlabelled", ("car",))
    file.write_text("void_top = 0.1\n")
    meta = read_meta(file, CLASSES, drawn=True)
    assert (meta.outside, meta.empty) == ("", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("masks = 'ids'", "masks is about mask files, and here shapes are read: leave it out"),
        ("reduce_zero_label = true", "reduce_zero_label is about mask files, and here shapes are"),
        ("outside = 'void'", 'outside is \'void\': write outside = "background" or outside = "ig'),
        ("empty = false", 'empty is False: write empty = "background" or empty = "unlabelled"'),
        (
            "emtpy = 'background'",
            r"unknown key 'emtpy' \(did you mean empty\?\): it may hold",
        ),
    ],
)
def test_mistakes_about_shapes_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "meta.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_meta(tmp_path / "meta.toml", CLASSES, drawn=True)
