"""Polygons of GeoJSON and GeoPackage files, in the coordinates that the file has."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from u2pl.data.geo.geopackage import read_geopackage
from u2pl.data.geo.rasters import load_rasterio
from u2pl.errors import UserError

#: Endings of files with polygons.
GEOJSON, GEOPACKAGE = (".geojson", ".json"), ".gpkg"
#: The coordinates of GeoJSON that names no others: degrees, the longitude first.
WGS84 = "OGC:CRS84"


class Feature(NamedTuple):
    """An entry of a layer."""

    place: str  # where the file says it
    attributes: dict[str, Any]
    polygons: list[list[np.ndarray]]  # rings of each, the outer one first, float64 [V, 2]


class Layer(NamedTuple):
    """Polygons and where they lie."""

    where: str  # the file, and in it the layer
    crs: Any  # rasterio's
    features: list[Feature]


def read_layer(path: Path, extent: bool = False) -> Layer | None:
    """The polygons of a file; UserError if it is damaged, or holds something else than polygons.

    Args:
        path: of the file.
        extent: whether the layer `extent` of a GeoPackage is wanted, instead of the other one;
            None without it.
    """
    if path.suffix.lower() == GEOPACKAGE:
        found = read_geopackage(path, extent)
        if found is None:
            return None
        where, crs, rows = found
        features = [
            Feature(place, attributes, list(_polygons(geometry, where, place)))
            for place, attributes, geometry in rows
        ]
        return Layer(where, _crs(crs, where), features)
    return _read_geojson(path)


def _read_geojson(path: Path) -> Layer:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: restore the file, or leave it out") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as GeoJSON ({str(error)[:200]}): export it anew"
        ) from None
    kind = content.get("type") if isinstance(content, dict) else None
    listed = content.get("features") if kind == "FeatureCollection" else None
    if not isinstance(listed, list):
        raise UserError(
            f"{path} holds no FeatureCollection: export the layer as GeoJSON, with its attributes"
        )
    features = []
    for number, each in enumerate(listed, 1):
        place = f"feature {number}"
        attributes = each.get("properties") if isinstance(each, dict) else ()
        if not isinstance(attributes, (dict, type(None))):
            raise UserError(f"{path}, {place} is no GeoJSON feature: export the layer anew")
        polygons = list(_polygons(each.get("geometry"), str(path), place))
        features.append(Feature(place, attributes or {}, polygons))
    return Layer(str(path), _crs(_named_crs(content, path), str(path)), features)


def _named_crs(content: dict[str, Any], path: Path) -> str:
    """What GeoJSON from before RFC 7946 may say of its coordinates, as QGIS still writes it."""
    said = content.get("crs")
    if said is None:
        return WGS84
    properties = said.get("properties") if isinstance(said, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    if not isinstance(name, str):
        raise UserError(f"{path}: its crs has no name: export the layer in WGS 84 (EPSG:4326)")
    return name


def _crs(text: str, where: str) -> Any:
    errors, crs = load_rasterio("errors"), load_rasterio("crs").CRS
    try:
        return crs.from_user_input(text)
    except errors.CRSError:
        raise UserError(
            f"{where}: its coordinates {text[:80]!r} are not known: export the layer in WGS 84 "
            "(EPSG:4326)"
        ) from None


def _polygons(geometry: Any, where: str, place: str) -> Iterator[list[np.ndarray]]:
    """The polygons of a GeoJSON geometry; none of an empty one."""
    if geometry is None:
        return
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "GeometryCollection":
        for part in geometry.get("geometries") or ():
            yield from _polygons(part, where, place)
        return
    if kind not in ("Polygon", "MultiPolygon"):
        raise UserError(f"{where}, {place} is a {kind}: only polygons can be filled; remove it")
    parts = geometry.get("coordinates")
    for rings in parts if kind == "MultiPolygon" and parts else [parts]:
        yield [ring for ring in (_ring(each, where, place) for each in rings or ()) if len(ring)]


def _ring(points: Any, where: str, place: str) -> np.ndarray:
    """Corners, float64 [V, 2], closed; heights are dropped."""
    try:
        ring = np.array([(float(point[0]), float(point[1])) for point in points], np.float64)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise UserError(
            f"{where}, {place} has a corner that is no pair of numbers: export the layer anew"
        ) from None
    if not all(map(math.isfinite, ring.ravel().tolist())):
        raise UserError(f"{where}, {place} has a corner that is not finite: export the layer anew")
    if not len(ring):
        return np.empty((0, 2))
    if (ring[0] != ring[-1]).any():
        ring = np.concatenate([ring, ring[:1]])
    if len(ring) < 4:
        raise UserError(f"{where}, {place} has a polygon of fewer than 3 corners: remove it")
    return ring
