"""GeoJSON: the polygons of each GeoTIFF on the map, in WGS 84 as RFC 7946 has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from u2pl.data.geo.layers import WGS84
from u2pl.data.geo.rasters import SUFFIXES, Raster, load_rasterio, moved_by, read_raster
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
    """UserError if an image does not say where it lies."""
    if image.file.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--format geojson: {image.file} is no GeoTIFF, so its polygons have no place on the "
            "map: leave it out, or write --format coco"
        )
    if read_raster(image.file).crs is None:
        raise UserError(
            f"--format geojson: {image.file} does not say in which coordinates it lies: set them "
            "with gdal_edit.py -a_srs"
        )


def write(
    out: Path,
    labels: Sequence[str],
    images: Sequence[Image],
    shapes: Callable[[Image], list[Shape]],
) -> None:
    """Write geojson/NAME.geojson, in which each part of a class is a feature, with its holes."""
    for image in images:
        raster = read_raster(image.file)
        features = [
            {
                "type": "Feature",
                "properties": {"class": shape.label, "pixels": shape.area},
                "geometry": {"type": "Polygon", "coordinates": _on_map(shape.rings, raster)},
            }
            for shape in shapes(image)
        ]
        lines = ",\n".join(json.dumps(feature) for feature in features)
        path = out / PLACE / f"{image.name}.geojson"
        make_folder(path.parent)
        write_text(
            path,
            f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n',
        )


def _on_map(rings: Sequence[np.ndarray], raster: Raster) -> list[Any]:
    """Rings of pixel corners as longitudes and latitudes, closed: outer ones turn left."""
    x, y = moved_by(raster.transform, *np.concatenate(rings).T.astype(np.float64))
    east, north = load_rasterio("warp").transform(raster.crs, WGS84, x, y)
    degrees = np.round(np.stack([east, north], 1), DIGITS)
    ends = np.cumsum([len(ring) for ring in rings])[:-1]
    found = []
    for number, ring in enumerate(np.split(degrees, ends)):
        closed = np.concatenate([ring, ring[:1]])
        found.append((closed if _turns_left(closed) == (number == 0) else closed[::-1]).tolist())
    return found


def _turns_left(closed: np.ndarray) -> bool:
    x, y = (closed - closed[0]).T
    return bool((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0)
