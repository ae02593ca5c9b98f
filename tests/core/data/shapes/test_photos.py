"""Names of images, as they were written on other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.labelled import photos
from u2pl.data.shapes.photos import Photos, base_of, inside, root_of
from u2pl.errors import UserError


@pytest.fixture
def found(tmp_path: Path) -> Photos:
    """a.png and b.v1.png in two folders, c.png in one."""
    photos(tmp_path / "day", "a.png", "b.v1.png", "c.png")
    photos(tmp_path / "night", "a.png", "b.v1.png")
    return Photos(tmp_path)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("day/a.png", "day/a.png"),
        ("./day//a.png", "day/a.png"),
        ("day\\a.png", "day/a.png"),
        ("C:\\Users\\me\\day\\a.png", "Users/me/day/a.png"),
        ("/data/day/a.png", "data/day/a.png"),
        ("/data/local-files/?d=day/a.png", "day/a.png"),
        ("//server/day/a.png", "server/day/a.png"),
        ("../../day/a.png", "day/a.png"),
        ("day/../../a.png", "a.png"),
        ("..", ""),
        ("../..", ""),
        ("..a/b.png", "..a/b.png"),
        ("e\u0301.png", "\u00e9.png"),
    ],
)
def test_a_path_leads_out_of_no_folder(name: str, path: str) -> None:
    assert inside(name) == path


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("day/a.png", "day/a"),
        ("day/a.JPG", "day/a"),  # converted since
        ("night/b.v1.png", "night/b.v1"),
        ("night/b.v1", "night/b.v1"),
        ("/media/upload/3/night/a.png", "night/a"),
        ("D:\\sets\\night\\a.png", "night/a"),
        ("../night/a.png", "night/a"),
        ("c.png", "day/c"),
        ("elsewhere/c.png", "day/c"),
        ("a.png", None),  # which of the two?
        ("q.png", None),
        ("day", None),
        ("", None),
        ("a\0.png", None),
        ("day/a.png/", "day/a"),
    ],
)
def test_an_image_is_found_by_the_end_of_its_path(name: str, id: str | None, found: Photos) -> None:
    assert found.find(name) == id


def test_an_image_is_found_by_where_it_is(found: Photos, tmp_path: Path) -> None:
    assert found.at(tmp_path / "day" / ".." / "night" / "a.png") == "night/a"
    assert found.at(tmp_path.parent / "a.png") is None
    assert found.at(tmp_path / "q\0.png") is None


def test_images_that_are_not_there_or_meant_twice_are_named(found: Photos) -> None:
    assert found.all_of(["night/a.png", "c.png"], "x.json", "put them there") == [
        "night/a",
        "day/c",
    ]
    with pytest.raises(
        UserError, match=r"^x\.json names images that are not in \S+: 'q\.png' \(1\) of 2: put them"
    ):
        found.all_of(["c.png", "q.png"], "x.json", "put them there")
    with pytest.raises(
        UserError,
        match=r"^x\.json names the image 'day/c\.png' and 'c\.png', which is the same: keep one",
    ):
        found.all_of(["c.png", "day/c.png"], "x.json", "")
    with pytest.raises(UserError, match=r"^x\.json names the image 'c\.png' twice: keep one of"):
        found.all_of(["c.png", "c.png"], "x.json", "")


def test_two_endings_of_one_name_are_refused(tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "a.bmp")
    with pytest.raises(UserError, match="have the same id 'a': rename one of them"):
        Photos(tmp_path)


def test_the_folder_is_the_one_with_most_of_the_names(tmp_path: Path) -> None:
    images = photos(tmp_path / "images", "a.png", "b.png")
    assert base_of(["a.png", "b.png"], (images, tmp_path)) == images
    assert base_of(["images/a.png"], (tmp_path, images)) == tmp_path
    assert base_of(["/elsewhere/images/a.png"], (tmp_path, images)) == tmp_path
    for strange in ("q.png", "../images/a.png", "a\0.png", "a" * 5000, "", "/"):
        assert base_of([strange], (images, tmp_path)) == tmp_path


def test_annotations_may_have_a_folder_beside_the_images() -> None:
    assert root_of(Path("set/annotations/a.json")) == Path("set")
    assert root_of(Path("set/Labels/a.json")) == Path("set")
    assert root_of(Path("set/a.json")) == Path("set")
