from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2pl.data.sources.folder import Folder
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
