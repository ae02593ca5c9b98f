from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2pl.data.opening import open_source
from u2pl.data.sources.folder import Folder
from u2pl.data.tags.tags import read_tags
from u2pl.errors import UserError

MakeFolder = Callable[..., Path]


def test_folder_reads_images_masks_and_lists(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0, 1], "city/b": [2, 255], "c": None}, train="c\na\n", val="city/b\n")
    source = Folder(root)
    assert (source.name, source.classes, source.splits(), source.notes) == (
        "photos",
        ("background", "cat", "dog"),
        ("train", "val"),
        (),
    )
    assert source.split("train") == ["c", "a"]
    assert source.image("c").getpixel((0, 0)) == (12, 12, 12)
    assert source.mask("city/b").tolist() == [[2, 255] * 3] * 4
    assert [source.has_mask(id) for id in ("a", "city/b", "c", "d")] == [True, True, False, False]
    assert source.palette.shape == (3, 3)


def test_without_lists_a_fifth_of_the_masked_images_is_held_out(make_folder: MakeFolder) -> None:
    source = Folder(
        make_folder({f"m{i}": [0, 1] for i in range(7)} | {f"u{i}": None for i in range(5)})
    )
    val, train = source.split("val"), source.split("train")
    assert len(val) == 2 and all(source.has_mask(id) for id in val)
    assert sorted(val + train) == sorted(source.ids())
    assert source.held_out == tuple(val)
    assert source.scoring_notes() == (
        "photos has no val list: 2 masked images are held out to score on",
    )


def test_hold_out_leaves_written_lists_alone(make_folder: MakeFolder) -> None:
    masked = {f"m{i}": [0, 1] for i in range(10)}
    source = Folder(make_folder(masked, labeled="m0\nm1.png\n", test="m2\n"))
    assert len(source.split("val")) == 2
    assert not set(source.split("val")) & {"m0", "m1", "m2"}
    assert set(source.split("train")) == set(masked) - set(source.split("val")) - {"m2"}


def test_every_masked_image_listed_means_no_val(make_folder: MakeFolder) -> None:
    source = Folder(make_folder({"a": [0], "b": [1]}, train="a\nb\n"))
    with pytest.raises(
        UserError,
        match=r"photos has no split 'val': it has train; write the ids, .* into splits/val\.txt",
    ):
        source.split("val")


def test_stray_masks_are_noted(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0], "b": [1]}, train="a\n", val="b\n")
    (root / "masks" / "b.png").rename(root / "masks" / "b_mask.png")
    (note,) = Folder(root).notes
    assert "such as b_mask.png: its image is called b, so leave '_mask' out" in note


def test_a_folder_of_cvat_is_read(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0, 1], "b": [2], "c": None})
    before = Folder(root)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\n")
    assert Folder(root).notes == ()  # classes.txt is there
    (root / "classes.txt").unlink()
    (root / "labelmap.txt").write_text("background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n")
    (root / "images").rename(root / "JPEGImages")
    (root / "masks").rename(root / "SegmentationClass")
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
    for mask in (root / "SegmentationClass").iterdir():
        Image.fromarray(colours[np.asarray(Image.open(mask))]).save(mask)
    found = Folder(root)
    assert (found.classes, found.ids()) == (before.classes, before.ids())
    assert found.palette.tolist() == colours.tolist()
    assert found.mask("a").tolist() == [[0, 1] * 3] * 4
    assert [note.split(":")[0] for note in found.notes] == [
        "classes are read from labelmap.txt",
        "masks are read from SegmentationClass/",
        "the masks are painted in colours",
    ]
    (root / "JPEGImages").rename(root.parent / "elsewhere")
    with pytest.raises(UserError, match=r"without their photos: write 'cvat:\S*\?images=FOLDER'"):
        Folder(root)
    (root.parent / "elsewhere").rename(root / "JPEGImages")
    (root / "labelmap.txt").unlink()
    with pytest.raises(UserError, match="looks like a VOC devkit"):
        Folder(root)


def roboflow(root: Path) -> Path:
    """As Roboflow writes semantic segmentation masks."""
    for split, name in (("train", "a"), ("train", "b"), ("valid", "c"), ("test", "d")):
        stem = f"{name}_jpg.rf.{ord(name):032x}"
        (root / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(root / split / f"{stem}.jpg")
        Image.new("L", (6, 4), ord(name) % 3).save(root / split / f"{stem}_mask.png")
        listed = "Pixel Value, Class\n0, background\n1, cat\n2, big, dog\n"
        (root / split / "_classes.csv").write_text(listed)
    (root / "README.roboflow.txt").write_text("x\n")
    return root


def test_masks_of_roboflow_are_read(tmp_path: Path) -> None:
    source = open_source(str(roboflow(tmp_path / "set")))
    assert source.classes == ("background", "cat", "big, dog")
    found = {name: [id[:7] for id in source.split(name)] for name in source.splits()}
    assert found == {"train": ["train/a", "train/b"], "val": ["valid/c"], "test": ["test/d_"]}
    assert {id[-1]: int(source.mask(id).max()) for id in source.ids()} == {
        f"{ord(name):x}"[-1]: ord(name) % 3 for name in "abcd"
    }
    assert source.notes[0] == "classes are read from _classes.csv"
    (tmp_path / "set" / "classes.txt").write_text("nothing\ncat\ndog\n")
    assert open_source(str(tmp_path / "set")).classes == ("nothing", "cat", "dog")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Pixel Value, Class\n0, background\n2, cat\n", r"'2, cat' is in the place of class 1"),
        ("Pixel Value, Class\n0, background\n1,\n", r"'1,' is in the place of class 1"),
        ("Pixel Value, Class\n0, background\nzero, a\n", r"'zero, a' is in the place of class 1"),
        ("Pixel Value, Class\n0, a\n1, a\n", "names a more than once"),
        ("Pixel Value, Class\n", "names 0 classes"),
        ("", "names 0 classes"),
        ("Pixel Value, Class\n0, background\n1, dog\n", "names other classes than .*test"),
    ],
)
def test_wrong_lists_of_roboflow_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    root = roboflow(tmp_path / "set")
    (root / "train" / "_classes.csv").write_text(text)
    with pytest.raises(UserError, match=f"_classes.csv.*{said}") as error:
        open_source(str(root))
    assert "\n" not in str(error.value)


def test_brush_labels_that_name_no_photo_are_refused(tmp_path: Path) -> None:
    """As Label Studio writes them as PNG."""
    Image.new("L", (6, 4)).save(tmp_path / "task-1-annotation-1-by-1-tag-Cat-0.png")
    with pytest.raises(UserError, match=r"does not say of which photo.*'Brush labels to COCO'"):
        open_source(str(tmp_path))


def test_files_of_other_kinds_are_counted(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0], "b": [1]})
    images = root / "images"
    for name in ("1.heic", "2.HEIC", "3.dng", "a.json", "notes.txt", "Thumbs.db", "._4.heic"):
        (images / name).write_bytes(b"x")
    for kind in ("jfif", "gif", "jp2", "avif", "ppm"):
        Image.new("RGB", (6, 4), (9, 9, 9)).save(
            images / f"{kind}.{kind}", format="JPEG" if kind == "jfif" else None
        )
    source = Folder(root)
    assert sorted(source.ids()) == ["a", "avif", "b", "gif", "jfif", "jp2", "ppm"]
    assert all(source.image(id).size == (6, 4) for id in source.ids())
    assert source.notes == (
        "images/ holds files that are not read: .heic (2), .dng (1), such as 1.heic; to use "
        "photos among them, save them as JPEG or PNG",
    )
    for file in images.iterdir():
        if file.suffix.lower() != ".heic":
            file.unlink()
    with pytest.raises(
        UserError,
        match=r"holds no images: put \.jpg.* files there: images/ holds files .* .heic .2.,",
    ):
        Folder(root)


def test_lists_written_on_windows_and_hidden_ones(make_folder: MakeFolder) -> None:
    root = make_folder({"day/a": [0], "day/b": [1], "c": None}, val="day\\a\n")
    (root / "splits" / "._val.txt").write_bytes(b"\0\5\x16\7" + b"\xff" * 20)
    source = Folder(root)
    assert source.splits() == ("train", "val")
    assert source.split("val") == ["day/a"] and source.split("train") == ["c", "day/b"]


def test_folders_that_are_linked_are_read(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"day/a": [0, 1], "b": [1], "c": None})
    expected = Folder(root).fingerprint()
    for kind in ("images", "masks"):
        (root / kind / "day").rename(tmp_path / f"{kind}-of-day")
        (root / kind / "day").symlink_to(tmp_path / f"{kind}-of-day")
    assert Folder(root).fingerprint() == expected
    assert Folder(root).mask("day/a").tolist() == [[0, 1] * 3] * 4


@pytest.mark.parametrize("name", ["masks", "splits", "splits/val.txt", "meta.toml", "tags.csv"])
def test_what_is_there_and_cannot_be_read_is_not_absent(
    name: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder({"a": [0, 1], "b": [2]}, other="a\n")
    place = root / name
    if place.is_dir():
        shutil.rmtree(place)
    place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=re.escape(str(place))):
        source = Folder(root)
        assert source.tags is not None
        read_tags(source.tags, source)


@pytest.mark.parametrize("name", ["masks", "splits"])
def test_a_folder_without_rights_is_not_absent(
    name: str, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scandir = make_folder({"a": [0, 1], "b": [2]}, other="a\n"), os.scandir

    def refuse(path: str) -> object:
        if Path(path) == root / name:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # for root everything is readable
    with pytest.raises(UserError, match=rf"{name} cannot be read \(Permission denied\)"):
        Folder(root)


@pytest.mark.parametrize("name", ["masks", "splits"])
def test_a_file_in_the_place_of_a_folder_is_not_absent(name: str, make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0, 1], "b": [2]}, other="a\n")
    shutil.rmtree(root / name)
    (root / name).write_text("")
    with pytest.raises(UserError, match=f"{name} is no folder"):
        Folder(root)


def test_accents_may_be_written_in_two_ways(make_folder: MakeFolder) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    root = make_folder({composed: [0, 1], "b": [1]}, val=f"{apart}\n")
    (root / "masks" / f"{composed}.png").rename(root / "masks" / f"{apart}.png")
    source = Folder(root)
    assert source.split("val") == [composed] and source.has_mask(composed)
    assert not source.notes


def test_without_classes_the_colours_of_the_masks_propose_some(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0, 1], "b": [2]})
    (root / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes\.txt does not exist") as caught:
        Folder(root)
    assert caught.value.proposal == (
        "the masks hold the ids 0, 1, 2: classes.txt needs 3 lines, line 1 for id 0 and line 3 "
        "for id 2"
    )
    paint = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], np.uint8)
    for name, id in (("a", 0), ("b", 2)):
        ids = np.full((40, 60), id, np.uint8)
        ids[:10] = 1
        Image.fromarray(paint[ids]).save(root / "masks" / f"{name}.png")
    with pytest.raises(UserError, match=r"classes\.txt does not exist") as caught:
        Folder(root)
    assert caught.value.proposal == (
        "the masks are painted in 3 colours:\n"
        "  0 0 0: 37.5 % of the pixels, in 1 of the masks looked at, most of it in a.png\n"
        "  0 0 200: 37.5 % of the pixels, in 1 of the masks looked at, most of it in b.png\n"
        "  200 0 0: 25.0 % of the pixels, in 2 of the masks looked at, most of it in a.png\n"
        "to have them read, write them into classes.txt (put the names of the classes for class-0 "
        "and so on):\n"
        f"cat > {root}/classes.txt <<'END'\n"
        "class-0 0 0 0\nclass-1 0 0 200\nclass-2 200 0 0\nEND"
    )


def test_incomplete_folders_say_what_to_do(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": [0]})
    (root / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes\.txt does not exist: write it"):
        Folder(root)
    shutil.rmtree(root / "images")
    with pytest.raises(UserError, match="has no images/ folder: put photos into images/"):
        Folder(root)
    (root / "images").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        Folder(root)
    with pytest.raises(UserError, match="does not exist"):
        Folder(tmp_path / "nowhere")


def test_photos_without_images_folder_are_found_and_how_to_move_them(
    make_folder: MakeFolder,
) -> None:
    root = make_folder({"a": [0], "b": [0]})
    (root / "images").rename(root / "my photos")
    with pytest.raises(UserError) as caught:
        Folder(root)
    assert str(caught.value).endswith(
        f"; 2 images lie in {root}/my photos: if they are the photos, mv '{root}/my photos' "
        f"{root}/images"
    )
    for photo in list((root / "my photos").iterdir()):
        photo.rename(root / photo.name)
    with pytest.raises(UserError, match=r"; 2 images lie in .* itself: make .*/images and move"):
        Folder(root)


@pytest.mark.parametrize(
    ("folder", "scheme"),
    [
        ("JPEGImages", "voc"),
        ("VOCdevkit/VOC2012", "voc"),
        ("leftImg8bit", "cityscapes"),
        ("images/training", "ade20k"),
        ("ADEChallengeData2016", "ade20k"),
        ("train2017", "coco"),
        ("images/train2017", "coco"),
    ],
)
def test_known_data_sets_are_recognised(folder: str, scheme: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"looks like .*: write {scheme}:{tmp_path}\)"):
        Folder(tmp_path)


def test_two_images_of_one_name_are_refused(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0]})
    Image.new("RGB", (6, 4)).save(root / "images" / "a.jpg")
    with pytest.raises(UserError, match="have the same id 'a'"):
        Folder(root)


def test_wrong_masks_name_their_file(make_folder: MakeFolder) -> None:
    source = Folder(make_folder({"a": [0, 7], "b": [1], "c": None}))
    with pytest.raises(UserError, match=r"masks/a\.png holds ids 7, but there are 3 classes"):
        source.mask("a")
    Image.new("L", (6, 5)).save(source.masks["b"])
    with pytest.raises(
        UserError, match=r"masks/b\.png is 6x5, but its image .*images/b\.png is 6x4"
    ):
        source.mask("b")
    with pytest.raises(UserError, match="image 'c' has no mask"):
        source.mask("c")
    with pytest.raises(UserError, match="no image 'z'"):
        source.image("z")


def test_wrong_lists_fail_only_when_they_are_used(make_folder: MakeFolder) -> None:
    source = Folder(
        make_folder(
            {"a": [0], "b": [1]}, val="b\n", train="a\n", odd="../a\n", none="\n", wrong="q\n"
        )
    )
    assert source.split("train") == ["a"]
    with pytest.raises(UserError, match=r"odd\.txt leads out"):
        source.split("odd")
    with pytest.raises(UserError, match=r"none\.txt is empty"):
        source.split("none")
    with pytest.raises(
        UserError, match=r"wrong\.txt names images that are not there: 'q' \(1\) of 1"
    ):
        source.split("wrong")


def test_fingerprint_follows_the_data_and_not_its_place(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder({"a": [0, 1], "b": [1]}, val="b\n", train="a\n")
    before = Folder(root).fingerprint()
    assert len(before) == 12 and int(before, 16) >= 0
    assert Folder(shutil.copytree(root, tmp_path / "copy")).fingerprint() == before
    (root / "splits" / "train.txt").write_text("b\n")
    assert Folder(root).fingerprint() != before
    (root / "splits" / "train.txt").write_text("a\n")
    assert Folder(root).fingerprint() == before
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (4, 6), np.uint8)).save(
        root / "masks" / "a.png"
    )
    assert Folder(root).fingerprint() != before


def test_voc_animals_is_read_as_it_lies(shared: Callable[[str], Path]) -> None:
    source = Folder(shared("data/voc-animals"))
    assert source.classes == ("background", "cat", "cow", "dog", "horse", "sheep", "person")
    assert (
        len(source.split("train")),
        len(source.split("val")),
        len(source.split("labeled_65")),
    ) == (3131, 445, 65)
    for id in source.split("labeled_31")[:3]:
        mask = source.mask(id)
        assert mask.shape == source.image(id).size[::-1]
        assert set(np.unique(mask)) <= {*range(7), 255}
