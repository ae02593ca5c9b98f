"""What a path holds is told by what lies in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.labelled import MASK, PROGRAMS, coco_content, page, photos
from u2pl.data.opening import open_source
from u2pl.data.recognition import recognise
from u2pl.errors import UserError


@pytest.mark.parametrize("program", PROGRAMS)
def test_folders_and_files_of_each_program_are_recognised(program: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    scheme, _, place = PROGRAMS[program](root).partition(":")
    assert recognise(root) == recognise(Path(place)) == scheme == program
    np.testing.assert_array_equal(
        next(each for each in map(open_source(place).mask, masked(place)) if each.any()), MASK
    )


@pytest.mark.parametrize("place", ["a.parquet", "data/train-00000-of-00001.parquet", "state.json"])
def test_datasets_of_hugging_face_have_a_scheme_of_their_own(tmp_path: Path, place: str) -> None:
    file = tmp_path / "set" / place
    file.parent.mkdir(parents=True)
    file.touch()
    given = file if place == "a.parquet" else tmp_path / "set"
    with pytest.raises(UserError, match=rf"a Hugging Face dataset: write hf:{given}$"):
        open_source(str(given))
    (tmp_path / "set" / "images").mkdir()
    assert recognise(tmp_path / "set") is None  # photos, whatever lies beside them


def masked(place: str) -> list[str]:
    source = open_source(place)
    return [id for id in source.ids() if source.has_mask(id)]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_folder_that_holds_masks_is_one_of_photos(program: str, tmp_path: Path) -> None:
    """Whatever was exported beside them."""
    root = tmp_path / "photos"
    PROGRAMS[program](root)
    (root / "masks").mkdir()
    assert recognise(root) == program  # it holds none
    Image.fromarray(MASK).save(root / "masks" / "a.png")
    assert recognise(root) is None


def test_photos_alone_are_no_program_s(tmp_path: Path) -> None:
    photos(tmp_path / "images")
    for name in ("tags", "notes", "a"):
        (tmp_path / f"{name}.json").write_text('{"a": ["cat"]}')
    (tmp_path / "images" / "a.xml").write_text("<annotation><object/></annotation>")
    (tmp_path / "data.yaml").write_text("owner: me\n")
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "nowhere") is None


def test_what_several_programs_wrote_has_to_be_named(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    PROGRAMS["yolo"](root)
    (root / "instances.json").write_text(json.dumps(coco_content()))
    with pytest.raises(UserError) as caught:
        recognise(root)
    data, instances = root / "data.yaml", root / "instances.json"
    assert str(caught.value) == (
        f"{root} holds data.yaml and instances.json, and either could be it: write yolo:{data} or "
        f"coco:{instances}"
    )
    assert recognise(instances) == "coco"
    beside = tmp_path / "drawn"
    PROGRAMS["labelme"](beside)
    instances = instances.replace(beside / "instances.json")
    with pytest.raises(UserError, match="either could be it") as caught:
        recognise(beside)
    assert str(caught.value).endswith(f": write coco:{instances} or labelme:{beside}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "[1, 2]"),
        ("a.json", ""),
        ("a.xml", "<annotation/>"),
        ("a.yaml", "train: here"),
        ("a.txt", "0 0 0 1 0 1 1"),
        ("a.png", "\x00\xff"),
    ],
)
def test_a_file_of_another_kind_is_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="is no file of a labelling program that is known: give"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("place", ["", "annotations", "labels"])
def test_files_of_coco_may_be_in_a_folder_of_their_own(place: str, tmp_path: Path) -> None:
    photos(tmp_path / "images")
    file = tmp_path / place / "result.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(coco_content()))
    assert recognise(tmp_path) == "coco"
    np.testing.assert_array_equal(open_source(str(tmp_path)).mask("a"), MASK)


def test_files_of_coco_that_hold_something_else_are_left_out(tmp_path: Path) -> None:
    PROGRAMS["coco"](tmp_path)
    for other in ("captions", "person_keypoints", "panoptic"):
        shutil.copy(tmp_path / "instances.json", tmp_path / f"{other}_train.json")
    np.testing.assert_array_equal(open_source(str(tmp_path)).mask("a"), MASK)


def test_roboflow_s_file_lies_beside_the_images_of_each_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        photos(tmp_path / split)
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(coco_content()))
    assert recognise(tmp_path) == "coco"
    source = open_source(str(tmp_path))
    assert source.split("val") == ["valid/a", "valid/b"]
    np.testing.assert_array_equal(source.mask("valid/a"), MASK)


def test_files_of_labelme_are_found_among_others(tmp_path: Path) -> None:
    photos(tmp_path / "deep" / "down")
    for number in range(30):
        (tmp_path / f"{number:02d}.json").write_text("{}")
    (tmp_path / "deep" / "down" / "a.json").write_text(json.dumps(page("a")))
    assert recognise(tmp_path / "deep") == "labelme"


def test_the_beginning_of_a_large_file_tells(tmp_path: Path) -> None:
    """An embedded image may come first."""
    photos(tmp_path)
    content = {"version": "5", "flags": {}, "imageData": "A" * 200_000, **page("a")}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert recognise(tmp_path) == "labelme"
