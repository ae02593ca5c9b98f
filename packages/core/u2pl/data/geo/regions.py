"""A GeoTIFF as an image of which rectangles are read."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from u2pl.data.channels import channels_of
from u2pl.data.geo.rasters import (
    SUFFIXES,
    Box,
    Pixels,
    Raster,
    has_place,
    load_rasterio,
    open_dataset,
    read_pixels,
    read_raster,
    telling_what_is_broken,
)
from u2pl.data.geo.scaling import Scaling, unscaled, usual_bands
from u2pl.data.regions import Regions
from u2pl.errors import UserError


class RasterRegions(Regions):
    """A raster's bands as channels. The file stays open, for neighbouring windows share its blocks.

    Args:
        raster: its header.
        scaling: of its bands.

    Raises UserError if they do not fit.
    """

    by_rows = True  # as validity is asked for

    def __init__(self, raster: Raster, scaling: Scaling) -> None:
        super().__init__(raster.width, raster.height, channels_of(scaling))
        scaling.check(raster)
        self.raster, self.scaling = raster, scaling
        self._found = open_dataset(raster.path)

    def read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        return self.scaling.colours(self._pixels((left, top, right, bottom)))

    def valid_rows(self, top: int, bottom: int) -> np.ndarray:
        return self._pixels((0, top, self.width, bottom)).valid

    def close(self) -> None:
        """Close the file."""
        self._found.close()

    def _pixels(self, box: Box) -> Pixels:
        with telling_what_is_broken(self.raster.path):
            return read_pixels(self._found, self.scaling.bands, box, self.scaling.nodata)


def is_raster(path: Path, scaling: Scaling | None) -> bool:
    """Whether a file is read with rasterio: a TIFF, for a network that was trained on rasters.

    For others a TIFF that says where it lies, if rasterio is there.

    Args:
        path: of the file.
        scaling: that the network was trained with; None if it was trained on photos.

    Raises UserError if rasterio is needed and missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        return False
    if scaling is not None:
        load_rasterio()
        return True
    return find_spec("rasterio") is not None and has_place(path)


def open_raster(path: Path, scaling: Scaling | None) -> RasterRegions:
    """A GeoTIFF as a network sees it.

    Args:
        path: of the file.
        scaling: that the network was trained with; None if it was trained on photos.

    Raises UserError if the file is no GeoTIFF, or holds something else than what was trained on.
    """
    raster = read_raster(path)
    if scaling is not None:
        return RasterRegions(raster, scaling)
    if raster.kind != "uint8":
        raise UserError(
            f"{path} holds {raster.kind}, and the network was trained on photos of 8 bits: scale "
            "it to 8 bits, or train on such rasters"
        )
    return RasterRegions(raster, unscaled(usual_bands(raster)))
