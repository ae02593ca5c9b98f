"""What a source is understood as is what the folder made of it says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.labelled import PROGRAMS, labelme, photos
from u2pl.counting import OnProgress, silently
from u2pl.data import conversion
from u2pl.data.conversion import convert
from u2pl.data.file_source import FileSource
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.splits import choose_labeled
from u2pl.data.tags.tags import read_tags
from u2pl.errors import DiskError, UserError


def assert_equal(one: Source, other: Source) -> None:
    """The same images, masks, classes, lists and facts."""
    assert other.classes == one.classes
    np.testing.assert_array_equal(other.palette, one.palette)
    assert set(other.ids()) == set(one.ids())
    assert other.splits() == tuple(sorted(one.splits()))
    assert {name: other.split(name) for name in other.splits()} == {
        name: one.split(name) for name in one.splits()
    }
    assert (other.things, other.void_rows, other.exif) == (one.things, one.void_rows, one.exif)
    for id in one.ids():
        np.testing.assert_array_equal(np.asarray(other.image(id)), np.asarray(one.image(id)))
        assert other.has_mask(id) == one.has_mask(id)
        if one.has_mask(id):
            np.testing.assert_array_equal(other.mask(id), one.mask(id))


def converted(source: Source, folder: Path, copy: bool = False) -> Source:
    convert(source, folder, copy, silently)
    return open_source(str(folder))


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_wrote_becomes_a_plain_folder(
    program: str, copy: bool, tmp_path: Path
) -> None:
    text = PROGRAMS[program](tmp_path / "photos")
    source, out = open_source(f"{text}?empty=background"), tmp_path / "new" / "plain"
    assert_equal(source, converted(source, out, copy))
    files = [file for file in (out / "images").rglob("*") if not file.is_dir()]
    assert len(files) == 3 and {file.is_symlink() for file in files} == {not copy}
    assert sorted(path.name for path in out.parent.iterdir()) == ["plain"]
    assert not (out / "meta.toml").exists()


def test_splits_facts_and_tags_are_kept(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    ids = {"day/a": [0, 1], "day/b c": [2, 255], "d.v1": [1], "e": None, "f": [0]}
    root = make_folder(ids, val="f\n", labeled="d.v1\nday/a\n", mine="e\nday/b c\n")
    (root / "classes.txt").write_text("background 9 8 7\ncat,dog 1 2 3\nobject 1 2 3\n")
    (root / "meta.toml").write_text('things = ["object"]\nvoid_top = 0.25\nexif = "stored"\n')
    (root / "tags.csv").write_text('image,classes\nday/a,"object;cat,dog"\ne,\n')
    source = open_source(str(root))
    again = converted(source, tmp_path / "plain")
    assert_equal(source, again)
    assert again.split("labeled") == ["d.v1", "day/a"]
    assert source.tags is not None and again.tags is not None
    assert read_tags(again.tags, again) == read_tags(source.tags, source)
    # a folder of one is the same again
    assert converted(again, tmp_path / "twice").fingerprint() == again.fingerprint()


def test_held_out_images_stay_held_out_and_nothing_is_where_nothing_was(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = open_source(str(make_folder({str(i): [0, 1] for i in range(11)})))
    assert len(source.split("val")) == 3
    assert_equal(source, converted(source, tmp_path / "plain"))
    shutil.rmtree(tmp_path / "photos")
    bare = open_source(str(make_folder({"a": [0, 1], "b": None})))  # too few to hold one out
    assert bare.splits() == ("train",)
    assert_equal(bare, converted(bare, tmp_path / "bare"))
    shutil.rmtree(tmp_path / "photos")
    scored = open_source(str(make_folder({"a": [0, 1], "b": [1]}, val="a\nb\n")))
    again = converted(scored, tmp_path / "scored")
    assert again.split("val") == ["a", "b"] and not list((tmp_path / "scored").rglob("train.txt"))


def test_merged_classes_colours_and_binaries_become_ids(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder({"a": [0, 255], "b": [255, 0]}, classes="sky\ncat\n")
    (root / "meta.toml").write_text('masks = "binary"\n')
    source = open_source(str(root))
    assert_equal(source, converted(source, tmp_path / "binary"))
    labelme(tmp_path / "shapes")
    (tmp_path / "shapes" / "meta.toml").write_text('merge = {animal = ["cat", "dog"]}')
    merged = open_source(str(tmp_path / "shapes"))
    again = converted(merged, tmp_path / "merged")
    assert_equal(merged, again)
    assert again.classes == ("background", "animal")


def test_drawn_scenes_become_files(tmp_path: Path) -> None:
    source = open_source("demo-tags")
    source._lists = {"train": source.split("train")[:4], "val": source.split("val")[:2]}  # type: ignore[attr-defined]
    few = set(source.split("train") + source.split("val"))
    source.ids = lambda: few  # type: ignore[method-assign]
    assert_equal(source, converted(source, tmp_path / "plain"))


@pytest.mark.parametrize("tag", [3, 6])
@pytest.mark.parametrize("rule", ["upright", "stored"])
def test_photos_that_exif_turns_keep_their_masks(
    tag: int, rule: str, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root, draw = make_folder({"a": [0, 1], "b": None}), np.random.default_rng(0)
    (root / "meta.toml").write_text(f'exif = "{rule}"')
    exif = Image.Exif()
    exif[0x0112] = tag
    for name in "ab":
        photo = Image.fromarray(draw.integers(256, size=(4, 6, 3), dtype=np.uint8))
        photo.save(root / "images" / f"{name}.png", exif=exif)
    source = open_source(str(root))
    assert_equal(source, converted(source, tmp_path / "plain"))


def test_a_devkit_is_written_as_it_is_trained_on(tmp_path: Path) -> None:
    """What training may see is `train`, what labelled images are drawn from `labeled`."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        photos(
            root / folder, *(f"{i}.{'jpg' if folder == 'JPEGImages' else 'png'}" for i in "0123")
        )
        for file in (root / folder).glob("*.png"):
            Image.new("L", (8, 6), 5).save(file)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, lines in (("train", "0\n"), ("val", "3\n")):
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(lines)
    source = open_source(f"voc:{root}")
    done = convert(source, tmp_path / "plain", False, silently)
    again = open_source(str(tmp_path / "plain"))
    assert again.split("train") == ["0", "1", "2"] and again.split("val") == ["3"]
    assert choose_labeled(again, None, 0)[:2] == choose_labeled(source, None, 0)[:2]
    assert done.notes == (
        "train is the list train_aug of voc, what training may see; labeled is train, from which "
        "it draws labelled images",
    )


def test_what_lies_in_the_cache_folder_or_in_a_file_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import base64
    import json

    monkeypatch.setenv("U2PL_CACHE", str(tmp_path / "cache"))
    labelme(tmp_path / "photos")
    file = tmp_path / "photos" / "a.json"
    data = base64.b64encode((tmp_path / "photos" / "a.png").read_bytes()).decode()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"imageData": data}))
    (tmp_path / "photos" / "a.png").unlink()
    source = open_source(str(tmp_path / "photos"))
    assert convert(source, tmp_path / "one", False, silently).links == 2
    assert_equal(source, open_source(str(tmp_path / "one")))
    shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "photos")
    packed = open_source(str(tmp_path / "export.zip"))
    assert convert(packed, tmp_path / "two", False, silently).links == 0
    shutil.rmtree(tmp_path / "cache")
    assert_equal(source, open_source(str(tmp_path / "two")))


def test_where_there_are_no_links_images_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    source = open_source(PROGRAMS["coco"](tmp_path / "photos"))
    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert convert(source, tmp_path / "plain", False, silently).links == 0
    assert_equal(source, open_source(str(tmp_path / "plain")))


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    source = open_source(PROGRAMS["coco"](tmp_path / "photos"))
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("photos", "photos/a.png", "link"):
        with pytest.raises(UserError, match=r"exists: choose another folder, or move it away"):
            convert(source, tmp_path / name, False, silently)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "link"])


def test_nothing_half_written_is_left(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"a": [0, 1], "b": [7], "c": [1]})
    source = open_source(str(root))
    with pytest.raises(UserError, match=r"b\.png holds ids 7, but there are 3 classes"):
        convert(source, tmp_path / "deep" / "plain", False, silently)
    assert not list((tmp_path / "deep").iterdir())

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion.shutil, "copyfile", full)
    with pytest.raises(DiskError, match=r"cannot write \S*plain: No space left on device; free"):
        convert(source, tmp_path / "deep" / "plain", True, silently)
    assert not list((tmp_path / "deep").iterdir())


def test_names_that_a_folder_would_read_otherwise_are_refused(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A line of a list has no blanks at its ends; without any mask a_mask is that of a."""
    for name in ("b ", "a_mask"):
        source = open_source(str(make_folder({"0": None})))
        assert isinstance(source, FileSource)
        source.images = dict.fromkeys(["a", name], source.images["0"])
        source.lists["train"] = source.lists["train"]._replace(lines=["a", name])
        with pytest.raises(
            UserError,
            match=r"^photos cannot be written as a folder: \S*/plain/splits/train\.txt names "
            rf"images that are not there: '{name.strip()}' \(1\) of 2",
        ):
            convert(source, tmp_path / "plain", False, silently)
    source = open_source(str(make_folder({"0": None})))
    source.classes = ("sky ", "cat", "dog")
    with pytest.raises(UserError, match=r"as a folder, where its classes would be read otherwise"):
        convert(source, tmp_path / "plain", False, silently)
    assert os.listdir(tmp_path) == ["photos"]


def test_it_says_how_far_it_is(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    said: list[Any] = []

    @contextmanager
    def counting(what: str) -> Iterator[OnProgress]:
        said.append(what)
        yield lambda done, total: said.append((done, total))

    convert(open_source(str(make_folder({"a": [0], "b": None}))), tmp_path / "p", False, counting)
    assert said == ["writing p", (1, 2), (2, 2)]
