"""Small rasters with a place on earth, and layers of polygons on them."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from u2pl.data.geo.rasters import moved_by

#: Where the extra is not installed, whatever needs it is skipped.
rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")

#: Pixels of 10 m in UTM zone 33.
CRS = "EPSG:32633"
CORNER = (412345.678901234, 5432109.87654321)
Ring = Sequence[tuple[float, float]]


def place(turned: float = 0.0, pixel: float = 10.0) -> Any:
    """From columns and rows to coordinates; `turned` in degrees."""
    across, down = np.cos(np.deg2rad(turned)) * pixel, np.sin(np.deg2rad(turned)) * pixel
    x, y = CORNER
    return rasterio.Affine(across, 1.25 * down, x, down, -1.25 * across, y)


def write_raster(path: Path, values: np.ndarray, **options: Any) -> Path:
    """Write [bands, H, W] or [H, W]."""
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {
        "crs": CRS,
        "transform": place(),
        "tiled": True,
        "blockxsize": 16,
        "blockysize": 16,
        **options,
    }
    how = {name: value for name, value in how.items() if value is not None}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(values),
        height=values.shape[1],
        width=values.shape[2],
        dtype=values.dtype,
        **how,
    ) as file:
        file.write(values)
    return path


def on_map(ring: Ring, transform: Any, crs: str = "OGC:CRS84") -> list[tuple[float, float]]:
    """Columns and rows as coordinates."""
    from rasterio.warp import transform as warp

    x, y = moved_by(transform, *np.array(ring, np.float64).T)
    return list(zip(*warp(CRS, crs, x, y), strict=True))


def write_geojson(
    path: Path,
    polygons: Sequence[tuple[Any, Sequence[Ring]]],
    transform: Any = None,
    field: str = "class",
    crs: str | None = None,
) -> Path:
    """Write polygons, each a class and rings in columns and rows."""
    transform = place() if transform is None else transform
    content: dict[str, Any] = {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {"id": number, **({} if value is None else {field: value})},
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [on_map(ring, transform, crs or "OGC:CRS84") for ring in rings],
                },
            }
            for number, (value, rings) in enumerate(polygons)
        ],
    }
    if crs is not None:
        content["crs"] = {"type": "name", "properties": {"name": crs}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_geopackage(path: Path, layers: dict[str, Sequence[tuple[Any, Sequence[Ring]]]]) -> Path:
    """Write layers of polygons, as multipolygons with heights, in the coordinates of the raster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as file, file:
        file.executescript(
            """
            CREATE TABLE gpkg_contents (table_name TEXT, data_type TEXT);
            CREATE TABLE gpkg_geometry_columns (table_name TEXT, column_name TEXT, srs_id INTEGER);
            CREATE TABLE gpkg_spatial_ref_sys (
                srs_id INTEGER, organization TEXT, organization_coordsys_id INTEGER, definition TEXT
            );
            INSERT INTO gpkg_spatial_ref_sys VALUES (7, 'EPSG', 32633, '');
            """
        )
        for name, polygons in layers.items():
            file.execute(f'CREATE TABLE "{name}" (fid INTEGER, geom BLOB, class TEXT)')
            file.execute("INSERT INTO gpkg_contents VALUES (?, 'features')", (name,))
            file.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 7)", (name,))
            for number, (value, rings) in enumerate(polygons):
                row = (number, _blob([on_map(ring, place(), CRS) for ring in rings]), value)
                file.execute(f'INSERT INTO "{name}" VALUES (?, ?, ?)', row)
    return path


def _blob(rings: Sequence[Ring]) -> bytes:
    # an envelope of x and y, whose numbers nobody reads; then a multipolygon of one polygon, with z
    head = b"GP\0" + bytes([0b0000_0011]) + struct.pack("<i4d", 7, 0, 0, 0, 0)
    polygon = struct.pack("<BII", 1, 1003, len(rings))
    for ring in rings:
        polygon += struct.pack("<I", len(ring))
        polygon += b"".join(struct.pack("<3d", *point, 42.0) for point in ring)
    return head + struct.pack("<BII", 1, 1006, 1) + polygon


def box(left: float, top: float, right: float, bottom: float) -> Ring:
    """A rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def inside(rings: Sequence[Ring], x: float, y: float) -> bool:
    """Whether a point lies in a polygon: the slow way, edge by edge."""
    crossed = 0
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
                crossed += 1
    return crossed % 2 == 1


def painted(
    height: int, width: int, polygons: Sequence[tuple[int, Sequence[Ring]]], outside: int = 0
) -> np.ndarray:
    """Pixels by their centres, one by one; a later polygon covers an earlier one."""
    ids = np.full((height, width), outside, np.uint8)
    for y in range(height):
        for x in range(width):
            for value, rings in polygons:
                if inside(rings, x + 0.5, y + 0.5):
                    ids[y, x] = value
    return ids
