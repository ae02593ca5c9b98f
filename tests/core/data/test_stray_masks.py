"""Masks that belong to no image are counted and shown with the likely habit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from u2pl.data.sources.folder import Folder
from u2pl.data.splits import choose_labeled
from u2pl.data.stray_masks import stray_words
from u2pl.errors import UserError

#: Images, files where masks belong, and what is said about them.
HABITS = {
    "ending": (
        ["a1", "a2", "day/b"],
        ["masks/a1_mask.png", "masks/a2_mask.png", "masks/day/b_mask.png"],
        "none of the 3 files in photos/masks/ has the name of an image, such as a1_mask.png: its "
        "image is called a1, so leave '_mask' out of the masks' names",
    ),
    "beginning": (
        ["a1", "a2"],
        ["masks/gt-a1.png", "masks/gt-a2.png"],
        "such as gt-a1.png: its image is called a1, so leave 'gt-' out of the masks' names",
    ),
    "the most usual habit": (
        ["1", "10", "11", "12"],
        ["masks/10_m.png", "masks/11_m.png", "masks/13.png"],
        "such as 10_m.png: its image is called 10, so leave '_m' out of the masks' names",
    ),
    "jpg": (
        ["a", "b"],
        ["masks/a.jpg", "masks/b.JPG"],
        "none of the 2 files in photos/masks/ has the name of an image, such as a.jpg: masks are "
        "read from PNG files; convert .jpg, which changes class ids, from the originals",
    ),
    "tif": (["a"], ["masks/a.tif"], "such as a.tif: masks are read from PNG files; convert .tif f"),
    "case": (
        ["IMG_1", "IMG_2"],
        ["masks/img_1.png", "masks/IMG_2.PNG"],
        "1 of the 2 files in photos/masks/ have no image's name, such as img_1.png: its image is "
        "called IMG_1; upper and lower case must be the same",
    ),
    "flat masks": (
        ["day/1", "night/2"],
        ["masks/1.png", "masks/2.png"],
        "such as 1.png: its image is day/1; put the masks into the same sub-folders as the images",
    ),
    "flat images": (["1"], ["masks/day/1.png"], "such as day/1.png: its image is 1; put the masks"),
    "another folder": (
        ["a", "b"],
        ["Labels/a.png", "Labels/b.png", "depth/a.png"],
        "there is no photos/masks/, but Labels/ holds 2 files, such as a.png: if these are the "
        "masks, rename the folder to masks",
    ),
    "nobody knows": (
        ["a"],
        ["masks/xyz.png", "masks/.hidden.png", "masks/notes.txt"],
        "none of the 1 files in photos/masks/ has the name of an image, such as xyz.png: give each",
    ),
    "all is well": (["a", "day/b"], ["masks/a.png", "masks/day/b.png", "labels/a.txt"], ""),
    "nothing": (["a"], ["depth/a.png"], ""),
}


@pytest.mark.parametrize("case", HABITS)
def test_the_likely_habit_is_named(case: str, tmp_path: Path) -> None:
    images, files, says = HABITS[case]
    root = tmp_path / "photos"
    root.mkdir()
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    words = stray_words(root, images)
    assert says in words and bool(says) == bool(words) and "\n" not in words


def test_misnamed_masks_are_never_missing_ones(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"a": [0, 1], "b": [0, 1], "c": None})
    for id in "ab":
        (root / "masks" / f"{id}.png").rename(root / "masks" / f"{id}_mask.png")
    source = Folder(root)
    assert source.notes == (source.strays,)
    says = r"no image of photos's split 'train' has a mask: none of the 2 files .*leave '_mask' out"
    with pytest.raises(UserError, match=says):
        choose_labeled(source, None, 0)
    with pytest.raises(UserError, match=r"'a' has no mask: none of the 2 files in photos/masks/"):
        source.mask("a")


def test_masks_that_fit_are_used_and_the_others_counted(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"a": [0, 1], "b": [0, 1], "c": None})
    (root / "masks" / "b.png").rename(root / "masks" / "b_mask.png")
    source = Folder(root)
    assert source.has_mask("a") and not source.has_mask("b")
    assert "1 of the 2 files" in source.notes[0]
