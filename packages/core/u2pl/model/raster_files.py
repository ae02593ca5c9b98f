"""Predictions of rasters: GeoTIFFs on the same grid, written a few rows after the other."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from u2pl.data.geo.rasters import Raster, gdal_errors, load_rasterio, reason_of
from u2pl.errors import DiskError
from u2pl.evaluate.bands import Room
from u2pl.files import PART, make_folder
from u2pl.notation import IGNORE
from u2pl.report.overlays import with_ignored

#: Side of the tiles that a file is written in.
BLOCK = 256


def raster_files(name: str) -> list[str]:
    """The files of a raster's prediction, by their path below the folder of all."""
    return [f"ids/{name}.tif", f"overlay/{name}.jpg", f"confidence/{name}.tif"]


def on_disk(folder: Path) -> Room:
    """Makes arrays that need no memory but the disk's, in files without a name.

    Raises DiskError if the disk has no room for one.
    """

    def make(shape: tuple[int, int]) -> np.ndarray:
        try:
            make_folder(folder)
            with TemporaryFile(dir=folder) as file:
                if hasattr(os, "posix_fallocate"):  # a full disk would end the process later
                    os.posix_fallocate(file.fileno(), 0, shape[0] * shape[1])
                return np.memmap(file, np.uint8, "w+", shape=shape)
        except OSError as error:
            raise DiskError(
                f"cannot write into {folder}: {error.strerror or error}; free some space or choose "
                "another folder"
            ) from error

    return make


def write_class_raster(ids_HW: np.ndarray, palette: np.ndarray, raster: Raster, path: Path) -> None:
    """Write class ids with a palette, 255 as nodata, on the grid of a raster.

    Args:
        ids_HW: uint8, 255 = ignore.
        palette: uint8 [C, 3].
        raster: that was predicted.
        path: of the file.

    Raises DiskError if the disk is full or the folder not writable; the old file is untouched then.
    """
    colours = {id: (*map(int, colour), 255) for id, colour in enumerate(with_ignored(palette))}

    def prepare(file: Any) -> None:
        file.write_colormap(1, colours)

    _write(ids_HW, raster, path, prepare, nodata=IGNORE, photometric="palette")


def write_grey_raster(values_HW: np.ndarray, raster: Raster, path: Path) -> None:
    """Write uint8 values on the grid of a raster; as `write_class_raster`."""
    _write(values_HW, raster, path, lambda file: None)


def _write(
    values_HW: np.ndarray,
    raster: Raster,
    path: Path,
    prepare: Callable[[Any], None],
    **options: object,
) -> None:
    rasterio = load_rasterio()
    window = load_rasterio("windows").Window
    place = {} if raster.transform.is_identity else {"transform": raster.transform}
    make_folder(path.parent)
    # named as what a kill leaves, which the next process removes; see u2pl.files
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        with rasterio.open(
            beside,
            "w",
            driver="GTiff",
            width=raster.width,
            height=raster.height,
            count=1,
            dtype="uint8",
            crs=raster.crs,
            tiled=True,
            blockxsize=BLOCK,
            blockysize=BLOCK,
            compress="deflate",
            BIGTIFF="IF_SAFER",
            **place,
            **options,
        ) as file:
            prepare(file)
            for top in range(0, raster.height, BLOCK):
                rows = np.ascontiguousarray(values_HW[top : top + BLOCK])
                file.write(rows, 1, window=window(0, top, raster.width, len(rows)))
        os.replace(beside, path)
    except gdal_errors() as error:
        raise DiskError(
            f"cannot write {path}: {reason_of(error)}; free some space or choose another folder"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def every_row(values_HW: np.ndarray, rows: int = BLOCK) -> Sequence[np.ndarray]:
    """Views of some rows after the other."""
    return [values_HW[top : top + rows] for top in range(0, len(values_HW), rows)]
