from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from harness.rasters import place, rasterio, write_raster
from u2pl.data.geo.rasters import read_raster
from u2pl.data.geo.scaling import Scaling
from u2pl.data.opening import open_source
from u2pl.errors import DiskError, UserError
from u2pl.model import model as model_module
from u2pl.model import predict_files as predict_module
from u2pl.model.card import Card
from u2pl.model.model import Model
from u2pl.model.predict_files import Output, predict_files
from u2pl.model.raster_files import write_grey_raster
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import SegOutput

SCALING = Scaling(kind="uint16", bands=(4, 2, 2), low=(1000, 0, 0), high=(3000, 100, 100))
CARD = Card(
    network=NetworkConfig(), classes=("background", "low", "high"), scaling=SCALING, crop=32
)


class Levels(nn.Module):
    """The class of the red of each fourth pixel: 0, half or 1."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.tensor(20.0))

    def forward(self, image: Tensor, embed: bool = True) -> SegOutput:
        level = (image[:, 0, ::4, ::4] * 2).round().long()
        return SegOutput(nn.functional.one_hot(level, 3).permute(0, 3, 1, 2).float() * self.one)


MODEL = Model(Levels(), CARD)
#: Classes in squares of 8 pixels.
SQUARES = np.kron(np.random.default_rng(3).integers(0, 3, (9, 12)), np.ones((8, 8), int))


def scene(path: Path, **options: object) -> Path:
    """Four bands of 16 bits, the last of which holds the classes; a corner holds no data."""
    values = np.stack([np.full(SQUARES.shape, 50)] * 3 + [1000 * SQUARES + 1000])
    values[:, :16, :24] = 0
    return write_raster(path, values.astype(np.uint16), **{"nodata": 0, **options})


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        values: np.ndarray = file.read(1)
    return values


@pytest.mark.parametrize("turned", [0.0, 33.3])
def test_what_is_predicted_lies_where_the_raster_lies(tmp_path: Path, turned: float) -> None:
    path = scene(tmp_path / "in/sub/a.tif", transform=place(turned))
    done = predict_files(MODEL, [tmp_path / "in"], tmp_path / "out")
    assert not done.failures
    for name in ("ids/sub/a.tif", "confidence/sub/a.tif"):
        with rasterio.open(path) as given, rasterio.open(tmp_path / "out" / name) as found:
            assert (found.transform, found.crs) == (given.transform, given.crs)
            assert (found.count, found.dtypes, found.shape) == (1, ("uint8",), given.shape)
            assert found.profile["tiled"] and found.profile["compress"] == "deflate"
    with rasterio.open(tmp_path / "out/ids/sub/a.tif") as found:
        ids, colours = found.read(1), found.colormap(1)
        assert found.nodata == 255
    assert [colours[id][:3] for id in range(3)] == [tuple(row) for row in MODEL.palette.tolist()]
    assert (ids[:16, :24] == 255).all()
    assert (ids == SQUARES)[ids != 255].mean() > 0.8 and set(np.unique(ids[16:])) == {0, 1, 2}
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/ids/sub/a.tif")), ids)
    (each,) = done.found
    held = np.isin(ids, (0, 1, 2))
    assert each.shares == {
        name: pytest.approx((ids == id).mean(), abs=1e-6) for id, name in enumerate(CARD.classes)
    }
    confidence = read(tmp_path / "out/confidence/sub/a.tif")
    assert not confidence[~held].any()
    assert each.confidence == pytest.approx(confidence[held].mean() / 255, abs=0.005)
    assert each.ignored == pytest.approx((~held).mean(), abs=1e-6)


def test_windows_and_files_on_disk_give_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scene(tmp_path / "a.tif")
    predict_files(MODEL, [path], tmp_path / "whole")
    for module in (model_module, predict_module):
        monkeypatch.setattr(module, "LARGE", 1000)
    predict_files(MODEL, [path], tmp_path / "parts", window=96)
    predict_files(MODEL, [path], tmp_path / "small")
    whole, parts, small = (
        read(tmp_path / name / "ids/a.tif") for name in ("whole", "parts", "small")
    )
    # at their edges windows are enlarged by themselves; small ones also begin between squares
    assert (whole == parts).mean() > 0.99 and (whole == small).mean() > 0.85
    assert (whole == 255).sum() == 16 * 24
    left = sorted(file.name for file in (tmp_path / "small").iterdir())
    assert left == [
        *("classes.png", "confidence", "ids", "overlay", "predictions.csv", "predictions.jsonl"),
    ]


def test_unsure_pixels_become_nodata_too(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif")
    predict_files(MODEL, [path], tmp_path / "all")
    predict_files(MODEL, [path], tmp_path / "sure", output=Output(ignore_below=0.9))
    sure = read(tmp_path / "sure/ids/a.tif")
    confidence = read(tmp_path / "sure/confidence/a.tif")
    expected = np.where(confidence < np.ceil(0.9 * 255), 255, read(tmp_path / "all/ids/a.tif"))
    np.testing.assert_array_equal(sure, expected)
    assert 16 * 24 < (sure == 255).sum() < sure.size / 2


def test_polygons_are_read_back_as_the_mask(tmp_path: Path) -> None:
    path = scene(tmp_path / "data/images/a.tif")
    output = Output(formats=("geojson", "coco"), min_area=0, tolerance=0)
    predict_files(MODEL, [path], tmp_path / "out", output=output)
    ids = read(tmp_path / "out/ids/a.tif")
    layer = tmp_path / "out/geojson/a.geojson"
    (tmp_path / "data/labels").mkdir()
    shutil.copy(layer, tmp_path / "data/labels")
    (tmp_path / "data/classes.txt").write_text("\n".join(CARD.classes))
    source = open_source(f"geotiff:{tmp_path / 'data'}?tile=128")
    np.testing.assert_array_equal(source.mask("a@0,0"), ids)
    content = json.loads(layer.read_text())
    assert "crs" not in content  # RFC 7946: degrees, outer rings turn left
    for feature in content["features"]:
        outer, *holes = feature["geometry"]["coordinates"]
        for number, ring in enumerate((outer, *holes)):
            (x, y), (longitude, latitude) = np.array(ring).T, ring[0]
            assert ring[0] == ring[-1] and 13 < longitude < 15 and 48 < latitude < 50
            turn = (x[:-1] - x[0]) @ (y[1:] - y[0]) - (x[1:] - x[0]) @ (y[:-1] - y[0])
            assert (turn > 0) == (number == 0)
    assert sum(each["properties"]["pixels"] for each in content["features"]) == (
        np.isin(ids, (1, 2)).sum()
    )


def test_a_network_of_photos_keeps_the_place_of_8_bits(tmp_path: Path) -> None:
    model = Model(Levels(), CARD.model_copy(update={"scaling": None}))
    grey = (SQUARES * 127.5).astype(np.uint8)
    write_raster(tmp_path / "in/a.tif", grey)
    Image.fromarray(grey).save(tmp_path / "in/plain.tif")
    scene(tmp_path / "in/deep.tif")
    done = predict_files(model, [tmp_path / "in"], tmp_path / "out")
    assert [each.reason for each in done.failures] == [
        f"{tmp_path / 'in/deep.tif'} holds uint16, and the network was trained on photos of 8 "
        "bits: scale it to 8 bits, or train on such rasters"
    ]
    placed, plain = read(tmp_path / "out/ids/a.tif"), Image.open(tmp_path / "out/ids/plain.png")
    np.testing.assert_array_equal(placed, np.asarray(plain))
    assert set(np.unique(placed)) == {0, 1, 2}


def test_what_cannot_be_predicted_is_said(tmp_path: Path) -> None:
    write_raster(tmp_path / "in/one.tif", np.ones((20, 20), np.uint16))
    broken = scene(tmp_path / "in/broken.tif")
    broken.write_bytes(broken.read_bytes()[:-9000])
    Image.new("RGB", (20, 20)).save(tmp_path / "in/photo.png")
    scene(tmp_path / "in/good.tif")
    done = predict_files(MODEL, [tmp_path / "in"], tmp_path / "out")
    assert [each.name for each in done.found] == ["good"]
    said = {each.path.name: each.reason for each in done.failures}
    assert "has 1 bands, and band 4 is wanted" in said["one.tif"]
    assert "cannot be read as a GeoTIFF" in said["broken.tif"]
    assert "is a photo, and the network was trained on rasters" in said["photo.png"]
    assert not any("\n" in reason for reason in said.values())


def test_geojson_needs_a_place(tmp_path: Path) -> None:
    output = Output(formats=("geojson",))
    plain = scene(tmp_path / "a.tif", crs=None)
    with pytest.raises(UserError, match="does not say in which coordinates it lies"):
        predict_files(MODEL, [plain], tmp_path / "out", output=output)
    far = scene(tmp_path / "far.tif", transform=place(pixel=1e30))
    with pytest.raises(UserError, match=r"far\.tif (cannot be put on the map|has corners without)"):
        predict_files(MODEL, [far], tmp_path / "far", output=output)
    broken = scene(tmp_path / "broken.tif")
    broken.write_bytes(b"II*\0 and no more")
    assert len(predict_files(MODEL, [broken], tmp_path / "far", output=output).failures) == 1
    Image.new("RGB", (20, 20)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.png is no GeoTIFF"):
        predict_files(MODEL, [tmp_path / "b.png"], tmp_path / "out", output=output)
    assert not (tmp_path / "out").exists()


def test_a_raster_of_nodata_is_predicted_as_such(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((4, 40, 40), np.uint16), nodata=0)
    (each,) = predict_files(MODEL, [path], tmp_path / "out").found
    assert (read(tmp_path / "out/ids/a.tif") == 255).all()
    assert (each.confidence, each.entropy, each.shares, each.ignored) == (0, 0, {}, 1)


def test_what_is_done_is_skipped_and_files_of_others_are_kept(tmp_path: Path) -> None:
    path, out = scene(tmp_path / "a.tif"), tmp_path / "out"
    predict_files(MODEL, [path], out, output=Output(gallery=True))
    again = Output(resume=True, gallery=True, formats=("geojson",))
    assert predict_files(MODEL, [path], out, output=again).skipped == 1
    assert (out / "geojson/a.geojson").is_file() and (out / "thumbnails/a.png").is_file()
    (out / "ids/a.tif").write_bytes(b"corrected by hand")
    with pytest.raises(UserError, match=r"ids/a\.tif was not written by predict"):
        predict_files(MODEL, [path], out)


def test_python_and_the_command_predict_alike(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif")
    predict_files(MODEL, [path], tmp_path / "out")
    found = MODEL.predict(path)
    np.testing.assert_array_equal(found.ids, read(tmp_path / "out/ids/a.tif"))
    assert sum(found.shares().values()) == pytest.approx((found.ids != 255).mean())


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "no").mkdir()
    path = scene(tmp_path / "a.tif")
    (tmp_path / "no/b.tif").mkdir()

    values = np.zeros(SQUARES.shape, np.uint8)
    with pytest.raises(DiskError, match="cannot write"):
        write_grey_raster(values, read_raster(path), tmp_path / "no/b.tif")
    assert [file.name for file in (tmp_path / "no").iterdir()] == ["b.tif"]


def test_memory_does_not_grow_with_the_raster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "LARGE", 1000)
    monkeypatch.setattr(predict_module, "LARGE", 1000)
    monkeypatch.setattr(predict_module, "OVERLAY", 64)
    values = np.zeros((4, 2048, 128), np.uint16)
    path = write_raster(tmp_path / "a.tif", values, compress="deflate")
    peaks = []
    for rows in (256, 2048):
        with rasterio.open(path) as file:
            write_raster(tmp_path / "b.tif", file.read()[:, :rows])
        tracemalloc.start()
        predict_files(MODEL, [tmp_path / "b.tif"], tmp_path / "out")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
