"""Masks are found under the habit that they share; those of no image are counted and shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from u2pl.data.mask_files import find_masks, split_beside
from u2pl.data.sources.folder import Folder
from u2pl.data.splits import choose_labeled
from u2pl.errors import UserError

MakeFolder = Callable[..., Path]


@pytest.fixture
def lay(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Path]]]:
    """`lay(images, files)`: a folder with empty files, and its images by id."""

    def make(images: list[str], files: list[str]) -> tuple[Path, dict[str, Path]]:
        root = tmp_path / "photos"
        root.mkdir()
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"")
        return root, {id: root / "images" / f"{id}.jpg" for id in images}

    return make


#: Images, files where masks belong, the masks that are found (by the image), and the note.
FOLLOWED = {
    "ending": (
        ["a1", "a2", "day/b"],
        ["masks/a1_mask.png", "masks/a2_mask.png", "masks/day/b_mask.png"],
        {"a1": "masks/a1_mask.png", "a2": "masks/a2_mask.png", "day/b": "masks/day/b_mask.png"},
        "masks are read from masks/, as NAME_mask.png",
    ),
    "beginning": (
        ["a1", "a2"],
        ["masks/gt-a1.png", "masks/gt-a2.png"],
        {"a1": "masks/gt-a1.png", "a2": "masks/gt-a2.png"},
        "masks are read from masks/, as gt-NAME.png",
    ),
    "doubled ending": (
        ["a", "b"],
        ["masks/a.jpg.png", "masks/b.JPG.png"],
        {"a": "masks/a.jpg.png", "b": "masks/b.JPG.png"},
        "masks are read from masks/, as NAME.jpg.png",
    ),
    "case, beside equal names": (
        ["IMG_1", "IMG_2"],
        ["masks/img_1.png", "masks/IMG_2.PNG"],
        {"IMG_1": "masks/img_1.png", "IMG_2": "masks/IMG_2.PNG"},
        "masks are read from masks/, taking upper and lower case as equal",
    ),
    "flat masks": (
        ["day/1", "night/2"],
        ["masks/1.png", "masks/2.png"],
        {"day/1": "masks/1.png", "night/2": "masks/2.png"},
        "masks are read from masks/, by the files' names alone, since the sub-folders differ",
    ),
    "another folder": (
        ["a", "b"],
        ["Labels/a.png", "depth/a.png", "SegmentationObject/b.png"],
        {"a": "Labels/a.png"},
        "masks are read from Labels/",
    ),
    "another folder and an ending": (
        ["a", "b"],
        ["SegmentationClass/a_gt.tif", "SegmentationClass/b_gt.tif"],
        {"a": "SegmentationClass/a_gt.tif", "b": "SegmentationClass/b_gt.tif"},
        "masks are read from SegmentationClass/, as NAME_gt.png",
    ),
    "other formats": (
        ["a", "b", "c"],
        ["masks/a.tif", "masks/b.bmp", "masks/c.gif"],
        {"a": "masks/a.tif", "b": "masks/b.bmp", "c": "masks/c.gif"},
        "",
    ),
    "accents of macOS": (["caf\u00e9"], ["masks/cafe\u0301.png"], {"caf\u00e9": ""}, ""),
    "all is well": (
        ["a", "day/b"],
        ["masks/a.png", "masks/day/b.png", "labels/a.txt", "labels/a.png"],
        {"a": "masks/a.png", "day/b": "masks/day/b.png"},
        "",
    ),
    "nothing": (["a"], ["depth/a.png"], {}, ""),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_a_habit_that_all_masks_share_is_followed(case: str, lay: Callable[..., object]) -> None:
    names, files, expected, note = FOLLOWED[case]
    root, images = lay(names, files)  # type: ignore[misc]
    found = find_masks(root, images)
    assert found.masks == {id: root / (file or files[0]) for id, file in expected.items()}
    assert (found.note, found.strays) == (note, "")


#: Images, files where masks belong, those that are used all the same, and what is said.
STRAYS = {
    "the most usual habit": (
        ["1", "10", "11", "12"],
        ["masks/10_m.png", "masks/11_m.png", "masks/13.png"],
        ["10", "11"],
        "1 of the 3 files in photos/masks/ were left out, such as 13.png: give each mask the name",
    ),
    "others beside masks": (
        ["1", "2", "3"],
        ["masks/1.png", "masks/2_new.png", "masks/3_new.png"],
        ["1"],
        "2 of the 3 files in photos/masks/ were left out, such as 2_new.png: its image is called "
        "2, so leave '_new' out of the masks' names",
    ),
    "instances": (
        ["a", "b"],
        ["masks/a_mask.png", "masks/a_instanceIds.png", "masks/b_mask.png", "masks/b_vis.png"],
        ["a", "b"],
        "2 of the 4 files in photos/masks/ were left out, such as a_instanceIds.png: "
        "'_instanceIds' in its name says that it holds no classes",
    ),
    "predictions alone": (
        ["a"],
        ["masks/pred-a.png"],
        [],
        "such as pred-a.png: 'pred-' in its name says that it holds no classes",
    ),
    "two masks of one image": (
        ["a", "b"],
        ["masks/a_mask.png", "masks/a_mask2.png", "masks/b_mask.png"],
        [],
        "none of the 3 files in photos/masks/ has the name of an image, such as a_mask.png: its "
        "image is called a, so leave '_mask' out",
    ),
    "two images of one mask": (
        ["day/1", "night/1"],
        ["masks/1.png"],
        [],
        "such as 1.png: its image is day/1; put the masks into the same sub-folders as the images",
    ),
    "images that differ in case alone": (["a", "A"], ["masks/a.png"], ["a"], ""),
    "other numbers": (["1", "2"], ["masks/11.png"], [], "such as 11.png: give each mask the name"),
    "other words": (["car"], ["masks/carpet.png"], [], "such as carpet.png: give each mask the"),
    "two folders": (
        ["a"],
        ["gt/a.png", "labels/a.png"],
        [],
        "there is no photos/masks/, and gt/ and labels/ could be it: rename the right one",
    ),
    "another folder that does not fit": (
        ["a"],
        ["labels/x.png", "labels/y.png"],
        [],
        "there is no photos/masks/, but labels/ holds 2 files, such as x.png: if these are the",
    ),
    "two formats of one mask": (
        ["a"],
        ["masks/a.png", "masks/a.tif"],
        ["a"],
        "1 of the 2 files in photos/masks/ were left out, such as a.tif: a.png is the mask of a",
    ),
    "webp": (["a"], ["masks/a.webp"], [], "none of the 1 files in photos/masks/ can be used, such"),
    "nobody knows": (
        ["a"],
        ["masks/xyz.png", "masks/.hidden.png", "masks/notes.txt"],
        [],
        "none of the 1 files in photos/masks/ has the name of an image, such as xyz.png: give each",
    ),
}


@pytest.mark.parametrize("case", STRAYS)
def test_what_is_not_clear_is_left_out_and_said(case: str, lay: Callable[..., object]) -> None:
    names, files, used, says = STRAYS[case]
    root, images = lay(names, files)  # type: ignore[misc]
    found = find_masks(root, images)
    assert sorted(found.masks) == used
    assert says in found.strays and bool(says) == bool(found.strays) and "\n" not in found.strays


def test_two_equal_masks_of_an_image_are_refused(lay: Callable[..., object]) -> None:
    root, images = lay(["a"], ["masks/a.tif", "masks/a.TIF"])  # type: ignore[misc]
    with pytest.raises(UserError, match=r"a\.TIF and .*a\.tif have the same id 'a'"):
        find_masks(root, images)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_files_are_masks_only_if_they_hold_colours(mode: str, make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0], "b": None, "c": None})
    for id in "bc":
        Image.new(mode, (6, 4)).save(root / "masks" / f"{id}.jpg")
    images = {id: root / "images" / f"{id}.png" for id in "abc"}
    found = find_masks(root, images)
    if mode == "RGB":
        assert sorted(found.masks) == ["a", "b", "c"] and not found.strays
        return
    assert sorted(found.masks) == ["a"]
    assert found.strays == (
        "2 of the 3 files in photos/masks/ were left out, such as b.jpg: masks are read from PNG "
        "files; convert .jpg, which changes class ids, from the originals"
    )
    assert sorted(find_masks(root, images, lossy=True).masks) == ["a", "b", "c"]


def test_masks_beside_the_images_are_told_from_them(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [1], "day/b": [2], "c_mask": None, "d": None})
    for id in ("a", "day/b"):
        (root / "masks" / f"{id}.png").rename(root / "images" / f"{id}_mask.png")
    source = Folder(root)
    assert sorted(source.ids()) == ["a", "c_mask", "d", "day/b"]
    assert [source.has_mask(id) for id in ("a", "c_mask", "d", "day/b")] == [1, 0, 0, 1]
    assert source.mask("day/b").tolist() == [[2] * 6] * 4
    assert source.notes == (
        "masks are read from images/, where they lie beside the images as NAME_mask.png",
    )


def test_photos_with_several_such_endings_stay_photos() -> None:
    names = ["a", "a_seg", "a_gt", "b"]
    images = {name: Path(f"{name}.png") for name in names}
    photos, found = split_beside(images, "images")
    assert sorted(photos) == sorted(names) and not found.masks


def test_misnamed_masks_are_never_missing_ones(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0, 1], "b": [0, 1], "c": None})
    for id in "ab":
        mask = root / "masks" / f"{id}.png"
        (root / "masks" / f"{id}_other.png").write_bytes(mask.read_bytes())
        mask.rename(root / "masks" / f"{id}_mask.png")
    source = Folder(root)
    assert source.notes == (source.strays,)
    says = r"no image of photos's split 'train' has a mask: none of the 4 files .*leave '_.*' out"
    with pytest.raises(UserError, match=says):
        choose_labeled(source, None, 0)
    with pytest.raises(UserError, match=r"'a' has no mask: none of the 4 files in photos/masks/"):
        source.mask("a")


def test_masks_that_fit_are_used_and_the_others_counted(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0, 1], "b": [0, 1], "c": None})
    (root / "masks" / "b.png").rename(root / "masks" / "b_mask.png")
    source = Folder(root)
    assert source.has_mask("a") and not source.has_mask("b")
    assert "1 of the 2 files" in source.notes[0]


def test_masks_found_by_a_habit_are_labels_like_others(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0, 1], "b": [2], "c": None})
    before = Folder(root).fingerprint()
    (root / "masks").rename(root / "labels")
    for id in "ab":
        (root / "labels" / f"{id}.png").rename(root / "labels" / f"{id}-mask.png")
    found = Folder(root)
    assert found.notes == ("masks are read from labels/, as NAME-mask.png",)
    assert found.mask("a").tolist() == [[0, 1] * 3] * 4
    assert found.fingerprint() == before
