"""Polygons on the grid of a raster, filled in one box after the other.

A pixel belongs to a polygon if its centre lies inside; a later polygon covers an earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from u2pl.data.geo.layers import Feature, Layer
from u2pl.data.geo.rasters import Box, Raster, gdal_errors, load_rasterio, moved_by, reason_of
from u2pl.data.ids import first_three
from u2pl.errors import UserError, did_you_mean
from u2pl.notation import IGNORE


class Drawing(NamedTuple):
    """Polygons in pixels of a raster, in the order in which they are filled."""

    values: np.ndarray  # uint8 [P]
    polygons: list[list[np.ndarray]]  # rings of each, float64 [V, 2], columns and rows
    bounds: np.ndarray  # float64 [P, 4], left, top, right, bottom

    def paint(self, box: Box, outside: int) -> np.ndarray:
        """The values of the pixels of a box, uint8 [h, w], `outside` where no polygon is."""
        left, top, right, bottom = box
        ids = np.full((bottom - top, right - left), outside, np.uint8)
        near = np.flatnonzero(
            (self.bounds[:, 0] < right)
            & (self.bounds[:, 2] > left)
            & (self.bounds[:, 1] < bottom)
            & (self.bounds[:, 3] > top)
        )
        if len(near):
            shapes = [
                (
                    {
                        "type": "Polygon",
                        "coordinates": [(ring - (left, top)).tolist() for ring in self.polygons[i]],
                    },
                    int(self.values[i]),
                )
                for i in near
            ]
            load_rasterio("features").rasterize(shapes, out=ids)
        return ids


def draw(layer: Layer, raster: Raster, values: Sequence[int]) -> Drawing:
    """The polygons of a layer on the grid of a raster.

    Args:
        layer: its polygons.
        raster: whose pixels are meant.
        values: one for each feature; 255 leaves pixels ignored.

    Raises UserError if the raster does not say where it lies, cannot hold the coordinates, or no
    polygon touches it.
    """
    if raster.crs is None:
        raise UserError(
            f"{raster.path} does not say in which coordinates it lies, so {layer.where} cannot be "
            "put on it: set them with gdal_edit.py -a_srs"
        )
    owners = [
        (value, rings)
        for value, feature in zip(values, layer.features, strict=True)
        for rings in feature.polygons
        if rings
    ]
    rings = [ring for _, polygon in owners for ring in polygon]
    placed = iter(_on_grid(rings, layer, raster))
    polygons = [[next(placed) for _ in polygon] for _, polygon in owners]
    bounds = np.array([(*rings[0].min(0), *rings[0].max(0)) for rings in polygons], np.float64)
    bounds = bounds.reshape(-1, 4)
    touching = (bounds[:, :2] < raster.size).all(1) & (bounds[:, 2:] > 0).all(1)
    if owners and not touching.any():
        raise UserError(
            f"none of the {len(owners)} polygons of {layer.where} lies on {raster.path}: check the "
            "coordinates of both; a layer without polygons says that nothing is there"
        )
    return Drawing(np.array([value for value, _ in owners], np.uint8), polygons, bounds)


def class_values(
    layer: Layer, field: str, classes: Sequence[str], listed: str, advice: str
) -> list[int]:
    """The class of each feature, by its name or id.

    Args:
        layer: the features.
        field: the attribute that says it.
        classes: names by id.
        listed: the file that names them.
        advice: how another attribute is chosen.

    Raises UserError if a feature has no such attribute, or names no class.
    """
    ids: Mapping[str, int] = {name: id for id, name in enumerate(classes)}
    found, unknown = [], dict[str, str]()
    for feature in layer.features:
        value = _value(feature, field, layer, advice)
        name = " ".join(value.split()) if isinstance(value, str) else value
        number = _number(name)
        if isinstance(name, str) and name in ids:
            found.append(ids[name])
        elif number is not None and (number < len(classes) or number == IGNORE):
            found.append(number)
        else:
            unknown.setdefault(str(value), feature.place)
    if unknown:
        near = did_you_mean(next(iter(unknown)), classes)
        raise UserError(
            f"{layer.where}, {next(iter(unknown.values()))}: {field} names classes that {listed} "
            f"does not have: {first_three(list(unknown))}{near}: add them, or correct the attribute"
        )
    return found


def _value(feature: Feature, field: str, layer: Layer, advice: str) -> Any:
    value = feature.attributes.get(field)
    if value is None:
        has = [name for name, value in feature.attributes.items() if value is not None]
        raise UserError(
            f"{layer.where}, {feature.place} has no attribute {field!r} (it has "
            f"{', '.join(map(str, has[:8])) or 'none'}): {advice}"
        )
    return value


def _number(value: Any) -> int | None:
    """An id that is written as a number."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 4:
        return int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return int(value) if value == value // 1 and value <= IGNORE else None
    return None


def _on_grid(rings: list[np.ndarray], layer: Layer, raster: Raster) -> list[np.ndarray]:
    """Rings in columns and rows of a raster."""
    if not rings:
        return []
    x, y = np.concatenate(rings).T
    if layer.crs != raster.crs:
        warp = load_rasterio("warp")
        try:
            x, y = (np.array(each) for each in warp.transform(layer.crs, raster.crs, x, y))
        except gdal_errors() as error:
            raise _outside(layer, raster, reason_of(error)) from None
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise _outside(layer, raster, "a corner has no place there")
    ends = np.cumsum([len(ring) for ring in rings])[:-1]
    return np.split(moved_by(~raster.transform, x, y).T, ends)


def _outside(layer: Layer, raster: Raster, reason: str) -> UserError:
    return UserError(
        f"{layer.where} cannot be put on {raster.path} ({reason}): export "
        "the layer in WGS 84, or as GeoPackage"
    )
