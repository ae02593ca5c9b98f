from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.rasters import CRS, box, on_map, place, write_geojson, write_geopackage
from u2pl.data.geo.layers import Layer, read_layer
from u2pl.errors import UserError

HOLED = [box(1, 2, 9, 8), box(3, 3, 5, 5)]


def corners(layer: Layer | None) -> list[list[list[Any]]]:
    assert layer is not None
    return [[ring.tolist() for ring in rings] for f in layer.features for rings in f.polygons]


def test_a_geopackage_holds_what_geojson_holds(tmp_path: Path) -> None:
    polygons = [("water", HOLED), ("field", [box(0, 0, 3, 3)])]
    package = write_geopackage(tmp_path / "a.gpkg", {"parcels": polygons, "Extent": [("", HOLED)]})
    text = write_geojson(tmp_path / "a.geojson", polygons, crs=CRS)
    one, other = read_layer(package), read_layer(text)
    assert corners(one) == corners(other)
    assert one is not None and other is not None and one.crs == other.crs
    assert [f.attributes["class"] for f in one.features] == ["water", "field"]
    extent = read_layer(package, extent=True)
    assert corners(extent) == [corners(one)[0]]
    assert not list(tmp_path.glob("*-*"))  # no file beside it


def test_a_geopackage_without_extent_says_so(tmp_path: Path) -> None:
    package = write_geopackage(tmp_path / "a.gpkg", {"parcels": [("water", HOLED)]})
    assert read_layer(package, extent=True) is None


def test_parts_heights_and_missing_geometries_are_read(tmp_path: Path) -> None:
    ring = [(*point, 100.0) for point in on_map(box(0, 0, 2, 2), place())]
    geometries = [
        {"type": "MultiPolygon", "coordinates": [[ring], [ring[:-1]]]},
        {
            "type": "GeometryCollection",
            "geometries": [{"type": "Polygon", "coordinates": [ring]}],
        },
        None,
        {"type": "Polygon", "coordinates": []},
    ]
    features = [{"type": "Feature", "properties": None, "geometry": each} for each in geometries]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    layer = read_layer(path)
    assert layer is not None
    whole = np.array(ring)[:, :2].tolist()
    assert corners(layer) == [[whole], [whole], [whole], []]


def feature(**geometry: Any) -> str:
    return json.dumps(
        {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "properties": {}, "geometry": geometry}],
        }
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as GeoJSON"),
        ("[1]", "holds no FeatureCollection"),
        ('{"type": "FeatureCollection", "features": [3]}', "feature 1 is no GeoJSON feature"),
        (feature(type="Point", coordinates=[1, 2]), "feature 1 is a Point"),
        (feature(type="Polygon", coordinates=[[[1, 2], [3, 4]]]), "fewer than 3 corners"),
        (feature(type="Polygon", coordinates=[[["a", 2], [3, 4]]]), "no pair of numbers"),
        (feature(type="Polygon", coordinates=[[[1], [3, 4]]]), "no pair of numbers"),
        (feature(type="Polygon", coordinates=[[[float("nan"), 1], [3, 4], [1, 1]]]), "not finite"),
        ('{"type": "FeatureCollection", "features": [], "crs": 5}', "its crs has no name"),
        (
            '{"type": "FeatureCollection", "features": [],'
            ' "crs": {"properties": {"name": "EPSG:0"}}}',
            "its coordinates 'EPSG:0' are not known",
        ),
    ],
)
def test_broken_geojson_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.geojson") as error:
        read_layer(path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_broken_geopackages_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    path.write_bytes(b"no database" * 20)
    with pytest.raises(UserError, match="cannot be read as a GeoPackage"):
        read_layer(path)
    path.unlink()
    write_geopackage(path, {"one": [("a", HOLED)], "two": [("a", HOLED)]})
    with pytest.raises(UserError, match="2 layers of polygons: one, two"):
        read_layer(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UserError, match=r"a\.gpkg"):
        read_layer(path)
