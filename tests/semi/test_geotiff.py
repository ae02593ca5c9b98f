"""A raster with polygons, from the command line: trained on, scored, predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.rasters import CRS, box, rasterio, write_geojson, write_raster
from harness.tiny import Tiny

SQUARES = np.kron(np.random.default_rng(0).integers(0, 2, (8, 8)), np.ones((16, 16), int))


def fields(root: Path) -> Path:
    bands = [100 + number * (SQUARES + 1) for number in range(4)]
    write_raster(root / "images/a.tif", np.stack(bands).astype(np.uint16))
    squares = [
        ("field", [box(16 * x, 16 * y, 16 * x + 16, 16 * y + 16)])
        for y, x in np.argwhere(SQUARES[::16, ::16]).tolist()
    ]
    write_geojson(root / "labels/a.geojson", squares)
    (root / "classes.txt").write_text("background\nfield\n")
    (root / "meta.toml").write_text("tile = 32\nbands = [4, 3, 2, 1]\n")
    return root


def photos(root: Path) -> Path:
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (root / kind).mkdir(parents=True)
        Image.new(mode, (32, 32)).save(root / kind / "a.png")
    (root / "classes.txt").write_text("background\nfield\n")
    return root


def test_a_raster_is_trained_on_scored_and_predicted(
    command: Callable[..., Any], refused: Callable[..., str], tiny: Tiny, tmp_path: Path
) -> None:
    data, run, out = fields(tmp_path / "fields"), tmp_path / "run", tmp_path / "out"
    words = ["--data", f"geotiff:{data}", "--labeled", 4, "--steps", 2, "--out", run, "--cpu"]
    done = command("train u2plplus --preset demo", *words, *tiny("u2plplus"))
    assert done.exit_code == 0, done.output
    card = json.loads((run / "last/config.json").read_text())
    assert card["scaling"]["bands"] == [4, 3, 2, 1] and card["scaling"]["kind"] == "uint16"
    scored = command("evaluate", run, "--cpu")
    assert scored.exit_code == 0, scored.output
    words = ["--out", out, "--format", "geojson", "--gallery", "--cpu"]
    done = command("predict", run, data, *words)
    assert done.exit_code == 0, done.output
    assert "1 image in" in done.stdout and "colour/" not in done.stdout
    assert "1 of them are GeoTIFFs: ids/ and confidence/ lie on their grid" in done.stdout
    with rasterio.open(data / "images/a.tif") as given, rasterio.open(out / "ids/a.tif") as found:
        assert (found.transform, found.crs.to_string()) == (given.transform, CRS)
    assert json.loads((out / "geojson/a.geojson").read_text())["type"] == "FeatureCollection"
    line = refused("evaluate", run, "--data", f"folder:{photos(tmp_path / 'photos')}", "--cpu")
    assert "has images of 3 channels, and the network takes 4" in line
    line = refused("detector train --data", f"geotiff:{data}", "--out", tmp_path / "no", "--cpu")
    assert "has 4 channels, and a detector sees photos" in line
