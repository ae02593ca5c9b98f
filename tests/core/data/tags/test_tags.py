from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2pl.data.class_counts import class_counts
from u2pl.data.demo.scenes import Scenes
from u2pl.data.source import Source
from u2pl.data.sources.folder import Folder
from u2pl.data.sources.voc import Voc
from u2pl.data.tags.tags import Tags, read_tags, tags_from_masks, tags_of, write_tags
from u2pl.errors import UserError


@pytest.fixture
def source(make_folder: Callable[..., Path]) -> Folder:
    return Folder(make_folder({"a": [0, 1], "b": [0, 255], "sub/c": [2, 1], "d e": None}))


@pytest.fixture
def read(tmp_path: Path, source: Folder) -> Callable[..., Tags]:
    """`read("image,classes\\na,cat\\n")` are the tags in a file of this text."""

    def from_text(text: str, name: str = "tags.csv", of: Source = source) -> Tags:
        path = tmp_path / name
        path.write_text(text)
        return read_tags(path, of)

    return from_text


CAT, DOG, BOTH, NOTHING = frozenset({1}), frozenset({2}), frozenset({1, 2}), frozenset[int]()


def test_a_table_is_read(read: Callable[..., Tags]) -> None:
    assert read("image,classes\na,cat\nb,\nsub/c,cat dog\nd e,2\n") == {
        "a": CAT,
        "b": NOTHING,
        "sub/c": BOTH,
        "d e": DOG,
    }


def test_images_may_be_file_names_and_lines_of_one_image_are_joined(
    read: Callable[..., Tags],
) -> None:
    assert read(
        "image,classes\nimages/a.png,cat\na,dog\nc.jpg,dog\n".replace("c.jpg", "sub/c.jpg")
    ) == {"a": BOTH, "sub/c": DOG}


def test_background_may_be_named_and_says_nothing(read: Callable[..., Tags]) -> None:
    assert read("image,classes\na,background cat\nb,0\n") == {"a": CAT, "b": NOTHING}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ["cat", "dog"], "b": []}',
        '[{"image": "a", "classes": ["dog", "cat"]}, {"image": "b", "classes": []}]',
        '[{"image": "a", "classes": [1, "2"], "size": 3},'
        ' {"image": "b", "classes": ["background"]}]',
        '[{"image": "a.png", "classes": [1]}, {"image": "a", "classes": ["dog"]},'
        ' {"image": "b", "classes": [0]}]',
    ],
)
def test_json_is_read(read: Callable[..., Tags], text: str) -> None:
    assert read(text, "tags.JSON") == {"a": BOTH, "b": NOTHING}


def test_unknown_classes_are_one_error_that_names_the_nearest(read: Callable[..., Tags]) -> None:
    with pytest.raises(UserError) as error:
        read("image,classes\na,dgo cat\nb,cow\nsub/c,dgo pig hen\n")
    assert "unknown classes: 'dgo', 'cow', 'pig', … (4) (did you mean 'dog' by the first?)" in str(
        error.value
    )
    assert str(error.value).endswith("the classes are background, cat, dog") and "\n" not in str(
        error.value
    )
    with pytest.raises(UserError, match=r"'zebra' \(1\): the classes are"):
        read('{"a": ["zebra"]}', "tags.json")
    for number in ("3", "-1", "255", "01"):
        with pytest.raises(UserError, match="names unknown classes"):
            read(f"image,classes\na,{number}\n")
    with pytest.raises(UserError, match=r"'cat dog' \(1\)"):
        read('{"a": ["cat dog"]}', "tags.json")


def test_unknown_images_are_one_error(read: Callable[..., Tags]) -> None:
    with pytest.raises(
        UserError,
        match=r"tags\.csv names images that photos does not have: 'x', 'y', 'z', … \(4\): remove",
    ):
        read("image,classes\nx,cat\na,cat\ny,cat\nz,cat\n../a,cat\nw,\n".replace("../a,cat\n", ""))


@pytest.mark.parametrize(
    ("name", "text"), [("tags.csv", "image,classes\n"), ("tags.json", "{}"), ("tags.json", "[]")]
)
def test_an_empty_file_says_what_is_missing(
    read: Callable[..., Tags], name: str, text: str
) -> None:
    with pytest.raises(UserError, match="holds no tags: write at least one image"):
        read(text, name)


def test_other_files_are_refused(read: Callable[..., Tags], source: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv does not exist: give a \.csv or \.json file"):
        read_tags(tmp_path / "none.csv", source)
    with pytest.raises(UserError, match=r"tags\.npy is no file of tags"):
        read("", "tags.npy")


def test_names_with_spaces_are_told_apart(read: Callable[..., Tags]) -> None:
    demo = Scenes()
    tags = read(
        "image,classes\ntrain_0000,striped fish dotted ring\ntrain_0001,speckled moon\n", of=demo
    )
    assert tags == {"train_0000": frozenset({1, 5}), "train_0001": frozenset({6})}
    with pytest.raises(
        UserError, match=r"'striped fsh' \(1\) \(did you mean 'striped fish' by the first\?\)"
    ):
        read("image,classes\ntrain_0000,dotted ring; striped fsh\n", of=demo)


def test_masks_give_tags_and_stay_closed_the_second_time(
    source: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("U2PL_CACHE", str(tmp_path / "cache"))
    calls: list[tuple[int, int]] = []
    ids = ["sub/c", "a", "b"]
    expected = {"sub/c": BOTH, "a": CAT, "b": NOTHING}
    assert tags_from_masks(source, ids, lambda done, to_do: calls.append((done, to_do))) == expected
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert np.array_equal(
        class_counts(source, ids)[:, 1:] > 0, [[True, True], [True, False], [False, False]]
    )
    monkeypatch.setattr(source, "mask", lambda id: pytest.fail("opened"))
    assert list(tags_from_masks(source, ids).items()) == list(expected.items())
    with pytest.raises(
        UserError, match=r"photos: 1 of 2 images have no mask: 'd e' \(1\): tag these by hand"
    ):
        tags_from_masks(source, ["a", "d e"])


def test_what_is_written_is_read(source: Folder, tmp_path: Path) -> None:
    tags = {"a": BOTH, "b": NOTHING, "d e": DOG}
    write_tags(tmp_path / "out.csv", tags, source.classes)
    assert (tmp_path / "out.csv").read_text() == "image,classes\na,cat;dog\nb,\nd e,dog\n"
    assert read_tags(tmp_path / "out.csv", source) == tags
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["out.csv"]
    with pytest.raises(UserError, match="cannot write"):
        write_tags(tmp_path / "none" / "out.csv", tags, source.classes)


def test_awkward_names_survive_the_file(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    classes = 'background\ncar, truck\n"quoted"\nx;y\ncar\n7\na  b\n'
    source = Folder(make_folder({'im, "1"': None, "2": None}, classes))
    tags = {'im, "1"': frozenset(range(1, 7)), "2": frozenset({4, 5})}
    write_tags(tmp_path / "out.csv", tags, source.classes)
    assert read_tags(tmp_path / "out.csv", source) == tags


def test_a_training_list_needs_tags(source: Folder) -> None:
    tags = {"a": CAT, "b": NOTHING, "d e": DOG}
    assert list(tags_of(["b", "a"], tags, "tags.csv").items()) == [("b", NOTHING), ("a", CAT)]
    with pytest.raises(
        UserError,
        match=r"tags\.csv has no tags of 2 of the 3 training images: 'x', 'y' \(2\): add a line",
    ):
        tags_of(["x", "a", "y"], tags, "tags.csv")


def _annotation(*names: str, root: str = "annotation") -> str:
    parts = "<part><name>head</name></part>"
    objects = "".join(
        f"<object><name>{name}</name><difficult>1</difficult>{parts}</object>" for name in names
    )
    return f"<{root}><filename>cat.jpg</filename><owner><name>dog</name></owner>{objects}</{root}>"


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    folder = tmp_path / "Annotations"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.xml").write_text(_annotation("cat", "cat"))
    (folder / "b.xml").write_text(_annotation())
    (folder / "sub" / "c.xml").write_text(_annotation("dog", " cat "))
    (folder / "other.xml").write_text("of another image, and broken")
    return folder


def test_annotations_are_read(source: Folder, annotations: Path) -> None:
    assert read_tags(annotations, source) == {"a": CAT, "b": NOTHING, "sub/c": BOTH}


def test_wrong_annotations_are_refused(source: Folder, annotations: Path, tmp_path: Path) -> None:
    (annotations / "a.xml").write_text(_annotation("kat"))
    with pytest.raises(
        UserError,
        match=r"Annotations names unknown classes: 'kat' \(1\) \(did you mean 'cat'",
    ):
        read_tags(annotations, source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no \.xml file: give VOC's folder"):
        read_tags(tmp_path / "empty", source)
    (tmp_path / "empty" / "other.xml").write_text(_annotation())
    with pytest.raises(
        UserError, match=r"empty annotates no image of photos: 'other' \(1\): name the files"
    ):
        read_tags(tmp_path / "empty", source)


def test_sources_say_where_their_tags_are(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    assert Scenes().tags is None
    root = make_folder({"a": None})
    assert Folder(root).tags is None
    before = Folder(root).fingerprint()
    (root / "tags.json").write_text(json.dumps({"a": ["cat"]}))
    assert Folder(root).tags == root / "tags.json"
    (root / "tags.csv").write_text("image,classes\na,dog\n")
    source = Folder(root)
    assert source.tags == root / "tags.csv" and read_tags(source.tags, source) == {"a": DOG}
    assert source.fingerprint() == before
    devkit = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (devkit / folder).mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(devkit / "JPEGImages" / "1.jpg")
    for name in ("train", "val"):
        (devkit / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("1\n")
    assert Voc(devkit).tags is None
    (devkit / "Annotations").mkdir()
    (devkit / "Annotations" / "1.xml").write_text(_annotation("tvmonitor", "person"))
    voc = Voc(devkit)
    assert voc.tags == devkit / "Annotations" and read_tags(voc.tags, voc) == {
        "1": frozenset({15, 20})
    }


def test_the_tags_of_the_animals_are_those_of_their_masks(shared: Callable[[str], Path]) -> None:
    source = Folder(shared("data/voc-animals"))
    assert source.tags is not None
    tags, ids = read_tags(source.tags, source), source.split("val")[:20]
    assert tags_of(ids, tags, "tags.csv") == tags_from_masks(source, ids)
    assert len(tags) == 3576
