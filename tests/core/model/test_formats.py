"""Polygons of each format, read as its program reads them, give the predicted masks back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from harness.filling import filled
from u2pl.data.opening import open_source
from u2pl.data.shapes.coco import region_of
from u2pl.data.source import Source
from u2pl.model.card import Card
from u2pl.model.formats import format_names
from u2pl.model.formats.labelme import place_of
from u2pl.model.model import Model
from u2pl.model.predict_files import Output, predict_files
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import SegOutput

#: A name that has to be escaped.
CLASSES = ("background", 'big "<cat>" & co', "dog")
CARD = Card(network=NetworkConfig(), classes=CLASSES)


class Painted(nn.Module):
    """The class that an image is painted in: its red divided by 100."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.tensor(1.0))

    def forward(self, image: Tensor, embed: bool = True) -> SegOutput:
        painted = (image[:, 0, ::4, ::4] * 2.55).round().long()
        return SegOutput(nn.functional.one_hot(painted, 3).permute(0, 3, 1, 2).float() * self.one)


MODEL = Model(Painted(), CARD)


@pytest.fixture(params=[False, True], ids=["background", "no background"])
def model(request: pytest.FixtureRequest) -> Model:
    if request.param:
        return Model(Painted(), CARD.model_copy(update={"classes": ("sky", *CLASSES[1:])}))
    return MODEL


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Blocks of colours of which some lie inside of others."""
    rng = np.random.default_rng(0)
    for name, size in (("a b.png", (5, 7)), ("sub/c.jpeg", (4, 4)), ("empty.png", (3, 3))):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 3, size) if name != "empty.png" else np.zeros(size)
        pixels = np.kron(blocks, np.ones((8, 8))).astype(np.uint8) * 100
        if name == "a b.png":
            pixels[8:32, 8:32] = 100
            pixels[16:24, 16:24] = 200
        Image.fromarray(np.stack([pixels] * 3, -1)).save(path, quality=95)
    return tmp_path / "photos"


Shapes = dict[str, list[tuple[str, np.ndarray]]]


def coco(out: Path) -> Shapes:
    found = json.loads((out / "coco.json").read_text())
    names = {each["id"]: each["name"] for each in found["categories"]}
    files = {each["id"]: each["file_name"] for each in found["images"]}
    assert min(names) == 1 and len({each["id"] for each in found["annotations"]}) == len(
        found["annotations"]
    )
    shapes: Shapes = {name: [] for name in files.values()}
    for each in found["annotations"]:
        (ring,) = (np.array(flat).reshape(-1, 2) for flat in each["segmentation"])
        assert each["iscrowd"] == 0
        assert each["bbox"] == [*ring.min(0), *(ring.max(0) - ring.min(0))]
        size = next(i for i in found["images"] if i["id"] == each["image_id"])
        inside = filled((size["height"], size["width"]), [ring])
        assert abs(each["area"] - inside.sum()) <= 2  # of polygons that may be simplified
        # our own reader of COCO sees the same
        (patch,) = region_of(each["segmentation"], "").patches(inside.shape)
        seen = np.zeros(inside.shape, bool)
        patch.paint(seen, True)
        np.testing.assert_array_equal(seen, inside)
        shapes[files[each["image_id"]]].append((names[each["category_id"]], ring))
    return shapes


def labelme(out: Path) -> Shapes:
    shapes: Shapes = {}
    for path in (out / "labelme").rglob("*.json"):
        found = json.loads(path.read_text())
        image = path.parent / found["imagePath"]
        with Image.open(image) as opened:
            assert opened.size == (found["imageWidth"], found["imageHeight"])
        assert found["imageData"] is None and found["version"]
        assert all(each["shape_type"] == "polygon" for each in found["shapes"])
        name = os.path.relpath(image, out.parent / "photos")
        shapes[name] = [(each["label"], np.array(each["points"])) for each in found["shapes"]]
    return shapes


def yolo(out: Path) -> Shapes:
    lines = (out / "yolo" / "data.yaml").read_text().splitlines()
    start = lines.index("names:")
    names = [json.loads(line.partition(":")[2]) for line in lines[start + 1 :]]
    assert [line.partition(":")[0].strip() for line in lines[start + 1 :]] == [
        str(number) for number in range(len(names))
    ]
    folder = out / "yolo" / lines[0].removeprefix("train: ")
    shapes: Shapes = {}
    for image in (path for path in folder.rglob("*.*")):
        with Image.open(image) as opened:
            size = opened.size
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        rows = [line.split() for line in label.read_text().splitlines()]
        shapes[image.relative_to(folder).as_posix()] = [
            (names[int(row[0])], np.array(row[1:], float).reshape(-1, 2) * size) for row in rows
        ]
    return shapes


def cvat(out: Path) -> Shapes:
    root = ElementTree.parse(out / "cvat.xml").getroot()
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    labels = [each.findtext("name") for each in root.findall("meta/task/labels/label")]
    shapes: Shapes = {}
    for image in root.findall("image"):
        found = []
        for each in image.findall("polygon"):
            assert each.get("label") in labels and each.get("occluded") == "0"
            points = [point.split(",") for point in each.attrib["points"].split(";")]
            found.append((each.attrib["label"], np.array(points, float)))
        shapes[image.attrib["name"]] = found
    return shapes


READERS: dict[str, Callable[[Path], Shapes]] = {
    "coco": coco, "cvat": cvat, "labelme": labelme, "yolo": yolo
}  # fmt: skip


def test_every_format_is_read_here() -> None:
    # that one is of rasters: tests/core/model/test_raster_files.py
    assert sorted([*READERS, "geojson"]) == format_names()


@pytest.mark.parametrize("name", READERS)
def test_polygons_give_the_masks_back(name: str, model: Model, photos: Path) -> None:
    out = photos.parent / "out"
    output = Output(formats=(name,), min_area=0, tolerance=0)
    assert not predict_files(model, [photos], out, output=output).failures
    found = READERS[name](out)
    assert sorted(found) == ["a b.png", "empty.png", "sub/c.jpeg"]
    for file, shapes in found.items():
        ids = np.array(Image.open(out / "ids" / Path(file).with_suffix(".png")))
        again = np.zeros_like(ids)
        for label, ring in shapes:
            again[filled(ids.shape, [ring])] = model.classes.index(label)
        np.testing.assert_array_equal(again, ids)
    written = {label for shapes in found.values() for label, _ in shapes}
    assert written == set(model.classes) - {"background"}


#: What is typed to open the polygons of `out`, of the images in `photos`.
OPENED = {
    "coco": "coco:{out}/coco.json?images={photos}&empty=background",
    "cvat": "cvat:{out}/cvat.xml?images={photos}&empty=background",
    "labelme": "labelme:{out}/labelme?images={photos}",
    "yolo": "yolo:{out}/yolo",
}


def opened_again(name: str, photos: Path, out: Path) -> Source:
    """Polygons as a source."""
    return open_source(OPENED[name].format(out=out, photos=photos))


def share_changed(source: Source, out: Path) -> float:
    """Share of the predicted pixels that are of another class in a source of their polygons."""
    changed = total = 0
    for file in (out / "ids").rglob("*.png"):
        ids, id = np.array(Image.open(file)), file.relative_to(out / "ids").with_suffix("")
        again = source.mask(f"train/{id}" if source.name == "yolo" else str(id))
        changed, total = changed + int((again != ids).sum()), total + ids.size
    return changed / total


@pytest.mark.parametrize("name", READERS)
def test_our_own_sources_give_the_masks_back(name: str, photos: Path) -> None:
    out = photos.parent / "out"
    output = Output(formats=(name,), min_area=0, tolerance=0)
    assert not predict_files(MODEL, [photos], out, output=output).failures
    source = opened_again(name, photos, out)
    assert source.classes == CLASSES
    assert share_changed(source, out) == 0


class Scene(nn.Module):
    """The class that an image is painted in: its red divided by 30."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.tensor(1.0))

    def forward(self, image: Tensor, embed: bool = True) -> SegOutput:
        painted = (image[:, 0, ::4, ::4] * 255 / 30).round().long()
        return SegOutput(nn.functional.one_hot(painted, 7).permute(0, 3, 1, 2).float() * self.one)


@pytest.mark.parametrize("name", READERS)
def test_few_pixels_change_with_the_usual_options(name: str, tmp_path: Path) -> None:
    """The share that docs/predict.md states."""
    demo = open_source("demo")
    (tmp_path / "photos").mkdir()
    for id in demo.split("val")[:20]:
        pixels = np.zeros((96, 96, 3), np.uint8)
        pixels[..., 0] = 30 * demo.mask(id)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{id}.png")
    model = Model(Scene(), Card(network=NetworkConfig(), classes=demo.classes))
    out = tmp_path / "out"
    done = predict_files(model, [tmp_path / "photos"], out, output=Output(formats=(name,)))
    assert not done.failures
    source = opened_again(name, tmp_path / "photos", out)
    assert 0 < share_changed(source, out) < 0.01


def test_formats_can_be_had_later_without_predicting_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = photos.parent / "out"
    assert not predict_files(MODEL, [photos], out).failures

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it was predicted again")

    monkeypatch.setattr(Model, "segment", refuse)
    output = Output(formats=tuple(READERS), resume=True, gallery=True)
    done = predict_files(MODEL, [photos], out, output=output)
    assert done.skipped == 3 and all(len(read(out)) == 3 for read in READERS.values())
    assert (out / "gallery.html").is_file() and (out / "thumbnails" / "sub" / "c.png").is_file()
    # links to photos are no photos
    monkeypatch.undo()
    again = predict_files(MODEL, [photos.parent], out, output=Output())
    assert sorted(each.name for each in again.found) == [
        "photos/a b", "photos/empty", "photos/sub/c"
    ]  # fmt: skip


def test_ignored_pixels_have_no_polygon(photos: Path) -> None:
    out = photos.parent / "out"
    output = Output(formats=("coco",), ignore_below=0.99, min_area=0, tolerance=0)
    assert not predict_files(MODEL, [photos], out, output=output).failures
    assert json.loads((out / "coco.json").read_text())["annotations"] == []


def test_an_image_on_another_drive_is_named_by_its_whole_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert place_of(tmp_path / "a.png", tmp_path / "out" / "labelme") == "../../a.png"

    def other_drive(*_: str) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("os.path.relpath", other_drive)
    assert place_of(tmp_path / "a.png", tmp_path) == (tmp_path / "a.png").as_posix()


def test_without_links_images_are_copied(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    out = photos.parent / "out"
    assert not predict_files(MODEL, [photos], out, output=Output(formats=("yolo",))).failures
    copy = out / "yolo" / "images" / "train" / "sub" / "c.jpeg"
    assert not copy.is_symlink() and copy.read_bytes() == (photos / "sub" / "c.jpeg").read_bytes()
