from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.rasters import CRS, Ring, painted, place, write_geojson, write_raster
from u2pl.data.geo.drawing import class_values, draw
from u2pl.data.geo.layers import read_layer
from u2pl.data.geo.rasters import read_raster

CLASSES = ("background", "field", "water")


def stars(seed: int, count: int = 12) -> list[tuple[int, list[Ring]]]:
    """Polygons with corners anywhere, some outside of 40 x 30 pixels, every third with a hole."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        centre, reach = rng.uniform((-5, -5), (45, 35)), rng.uniform(2, 12)
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))

        def ring(scale: float, centre: np.ndarray = centre, angles: np.ndarray = angles) -> Ring:
            away = scale * np.stack([np.cos(angles), np.sin(angles)], 1)
            return [tuple(point) for point in (centre + away)[[*range(7), 0]].tolist()]

        rings = [ring(reach)] + ([ring(reach / 3)] if number % 3 == 0 else [])
        found.append((int(rng.integers(1, 3)), rings))
    return found


@pytest.mark.parametrize("turned", [0.0, 30.0, 180.0])
@pytest.mark.parametrize("crs", [None, CRS, "EPSG:3857"])
def test_pixels_are_those_whose_centres_lie_inside(
    tmp_path: Path, turned: float, crs: str | None
) -> None:
    transform, polygons = place(turned), stars(seed=int(turned))
    raster = read_raster(
        write_raster(tmp_path / "a.tif", np.zeros((30, 40), np.uint8), transform=transform)
    )
    named = [(CLASSES[value], rings) for value, rings in polygons]
    layer = read_layer(write_geojson(tmp_path / "a.geojson", named, transform, crs=crs))
    assert layer is not None
    drawing = draw(layer, raster, class_values(layer, "class", CLASSES, "classes.txt", ""))
    expected = painted(30, 40, polygons)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(drawing.paint((0, 0, 40, 30), 0), expected)
    for left, top, right, bottom in [(0, 0, 16, 16), (7, 11, 40, 30), (39, 29, 40, 30)]:
        np.testing.assert_array_equal(
            drawing.paint((left, top, right, bottom), 0), expected[top:bottom, left:right]
        )


def test_outside_of_polygons_is_what_is_asked_for(tmp_path: Path) -> None:
    polygons = stars(1, 2)
    raster = read_raster(write_raster(tmp_path / "a.tif", np.zeros((30, 40), np.uint8)))
    layer = read_layer(write_geojson(tmp_path / "a.geojson", polygons))
    assert layer is not None
    found = draw(layer, raster, [2, 1]).paint((0, 0, 40, 30), 255)
    expected = painted(30, 40, [(2, polygons[0][1]), (1, polygons[1][1])], 255)
    np.testing.assert_array_equal(found, expected)


def test_a_class_is_named_or_numbered(tmp_path: Path) -> None:
    ring = stars(1, 1)[0][1]
    values = ["water", " water ", "1", 1, 2.0, 255, "0"]
    path = write_geojson(tmp_path / "a.geojson", [(value, ring) for value in values])
    layer = read_layer(path)
    assert layer is not None
    assert class_values(layer, "class", CLASSES, "", "") == [2, 2, 1, 1, 2, 255, 0]
