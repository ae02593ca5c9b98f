"""GeoJSON: the polygons of each GeoTIFF on the map, in WGS 84 as RFC 7946 has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from u2pl.data.geo.layers import WGS84
from u2pl.data.geo.rasters import (
    SUFFIXES,
    gdal_errors,
    load_rasterio,
    moved_by,
    read_raster,
    reason_of,
)
from u2pl.errors import UserError
from u2pl.files import make_folder, write_text
from u2pl.model.formats import Image, Shape

PLACE = "geojson"
#: Digits behind the point of a degree: a tenth of a millimetre.
DIGITS = 9


def files(image: Image | None) -> Iterable[str]:
    """A file for each raster."""
    return [] if image is None else [f"{PLACE}/{image.name}.geojson"]


def check(image: Image) -> None:
    """UserError if an image does not say where it lies; broken ones are left to the prediction."""
    if image.file.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--format geojson: {image.file} is no GeoTIFF, so its polygons have no place on the "
            "map: leave it out, or write --format coco"
        )
    load_rasterio()
    try:
        crs = read_raster(image.file).crs
    except UserError:
        return
    if crs is None:
        raise UserError(
            f"--format geojson: {image.file} does not say in which coordinates it lies: set them "
            "with gdal_edit.py -a_srs"
        )


def write(
    out: Path,
    classes: Sequence[str],
    images: Sequence[Image],
    shapes: Callable[[Image], list[Shape]],
) -> None:
    """Write geojson/NAME.geojson, in which each part of a class is a feature, with its holes.

    Raises UserError if a corner has no place in WGS 84.
    """
    for image in images:
        found = shapes(image)
        placed = iter(_on_map([ring for shape in found for ring in shape.rings], image.file))
        features = [
            {
                "type": "Feature",
                "properties": {"class": shape.label, "pixels": shape.area},
                "geometry": {
                    "type": "Polygon",
                    # RFC 7946: the outer ring turns left, holes turn right
                    "coordinates": [
                        _turning(next(placed), left=number == 0)
                        for number in range(len(shape.rings))
                    ],
                },
            }
            for shape in found
        ]
        lines = ",\n".join(json.dumps(feature) for feature in features)
        path = out / PLACE / f"{image.name}.geojson"
        make_folder(path.parent)
        write_text(path, f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n')


def _on_map(rings: Sequence[np.ndarray], file: Path) -> list[np.ndarray]:
    """Rings of pixel corners as longitudes and latitudes, float64 [V, 2]."""
    if not rings:
        return []
    raster = read_raster(file)
    x, y = moved_by(raster.transform, *np.concatenate(rings).T.astype(np.float64))
    try:
        degrees = np.stack(load_rasterio("warp").transform(raster.crs, WGS84, x, y), 1)
    except gdal_errors() as error:
        raise UserError(
            f"--format geojson: {file} cannot be put on the map ({reason_of(error)}): "
            "write --format coco"
        ) from None
    if not np.isfinite(degrees).all():
        raise UserError(
            f"--format geojson: {file} has corners without longitude and latitude: write --format "
            "coco"
        )
    return np.split(np.round(degrees, DIGITS), np.cumsum([len(ring) for ring in rings])[:-1])


def _turning(ring: np.ndarray, left: bool) -> list[list[float]]:
    """A ring, closed, that turns left or right."""
    closed = np.concatenate([ring, ring[:1]])
    x, y = (closed - closed[0]).T
    turns_left = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0
    found: list[list[float]] = (closed if turns_left == left else closed[::-1]).tolist()
    return found
