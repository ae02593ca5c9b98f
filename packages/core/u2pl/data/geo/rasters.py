"""Rasters with a place on earth: GeoTIFFs, of which windows are read; needs rasterio.

A box is (left, top, right, bottom) in pixels, right and bottom exclusive.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from u2pl.data.reading import open_image
from u2pl.errors import UserError

#: Endings of rasters.
SUFFIXES = (".tif", ".tiff")
#: Megabytes of decoded blocks that GDAL keeps, unless the environment says otherwise.
KEPT = 256
#: Pixels that the corners of two grids may be apart and still be the same.
APART = 0.01

Box = tuple[int, int, int, int]

# The tag that says in which coordinates a TIFF lies.
_GEO_KEYS = 34735


class Raster(NamedTuple):
    """What the header of a raster tells."""

    path: Path
    width: int  # in pixels
    height: int
    bands: int
    kind: str  # NumPy's name of its numbers
    crs: Any  # rasterio's; None if it is not said
    transform: Any  # from columns and rows to coordinates, an affine.Affine
    nodata: float | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


class Pixels(NamedTuple):
    """Some bands of a box."""

    values: np.ndarray  # [bands, h, w]
    valid: np.ndarray  # bool [h, w], False where no band holds data


def load_rasterio(part: str = "") -> Any:
    """The module rasterio, or a part of it; UserError if it is missing or broken."""
    # GDAL reads it once, and would take a twentieth of the memory
    os.environ.setdefault("GDAL_CACHEMAX", str(KEPT))
    try:
        # its errors reach people by exceptions; what it logs besides would be further lines
        logging.getLogger("rasterio").setLevel(logging.CRITICAL)
        errors = import_module("rasterio.errors")
        for said in (errors.NotGeoreferencedWarning, errors.NodataShadowWarning):
            warnings.filterwarnings("ignore", category=said)
        return import_module(f"rasterio.{part}" if part else "rasterio")
    except ModuleNotFoundError as error:
        other = error.name or "a part of it"
        own = other == "rasterio"
        reason = "which is not installed" if own else f"and {other} is not installed"
    except (ImportError, ValueError) as error:  # ValueError: compiled for another numpy
        reason = f"which cannot be loaded ({(str(error).splitlines() or ['no reason given'])[0]})"
    raise UserError(
        f"GeoTIFF needs the optional package rasterio, {reason}: uv sync --extra geo"
    ) from None


def has_place(path: Path) -> bool:
    """Whether a file is a TIFF that says where it lies; from its header, without rasterio."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with open_image(path) as image:
            return isinstance(image, TiffImagePlugin.TiffImageFile) and _GEO_KEYS in image.tag_v2
    except Image.UnidentifiedImageError:  # bands that Pillow has no word for
        return _GEO_KEYS in _tags(path)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, UserError):
        return False


def _tags(path: Path) -> set[int]:
    """The tags of a TIFF's first image; none if it is damaged."""
    try:
        with open(path, "rb") as file:
            header = file.read(8)
            if header[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                return set()
            order, big = ("<" if header[:2] == b"II" else ">"), header[2:4].strip(b"\0") == b"+"
            size, count, entry = (8, 8, 20) if big else (4, 2, 12)
            start = file.read(8) if big else header[4:]
            file.seek(int(np.frombuffer(start, f"{order}u{size}")[0]))
            entries = int(np.frombuffer(file.read(count), f"{order}u{count}")[0])
            content = file.read(entry * min(entries, 2**12))
    except (OSError, ValueError, IndexError):
        return set()
    return {
        int(np.frombuffer(content[place : place + 2], f"{order}u2")[0])
        for place in range(0, len(content) - 1, entry)
    }


def open_dataset(path: Path) -> Any:
    """rasterio's data set of a GeoTIFF; UserError if it is none."""
    rasterio = load_rasterio()
    if not path.is_file():
        raise UserError(f"{path} does not exist: restore the file, or leave it out")
    with telling_what_is_broken(path):
        # no other driver: some of them read further files, or ask other machines
        return rasterio.open(path, driver="GTiff", sharing=False)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The data set of a GeoTIFF; UserError if it is none, or what is read of it is broken.

    It is opened anew each time, so that worker processes share nothing.
    """
    with open_dataset(path) as found, telling_what_is_broken(path):
        yield found


def gdal_errors() -> tuple[type[Exception], ...]:
    """What reading and writing raises: rasterio passes some of it on as GDAL says it."""
    errors, raw = load_rasterio("errors"), load_rasterio("_err")
    return errors.RasterioError, raw.CPLE_BaseError, OSError


def reason_of(error: BaseException) -> str:
    """What GDAL says, in one line; rasterio may only refer to it."""
    said = error.__cause__ if error.__cause__ is not None else error
    return " ".join(str(said).split())[:200] or type(error).__name__


@contextmanager
def telling_what_is_broken(path: Path) -> Iterator[None]:
    """Make a UserError of what GDAL says of a file."""
    try:
        yield
    except gdal_errors() as error:
        raise UserError(
            f"{path} cannot be read as a GeoTIFF ({reason_of(error)}): replace the file, or leave "
            "it out"
        ) from None


def read_raster(path: Path) -> Raster:
    """The header of a GeoTIFF; UserError if it is none, or its numbers are complex or differ."""
    with opened(path) as found:
        kinds = sorted(set(found.dtypes))
        if len(kinds) > 1 or np.dtype(kinds[0]).kind not in "uif":
            raise UserError(
                f"{path} holds {' and '.join(kinds)}: all bands must hold the same kind of real "
                "numbers; convert it with gdal_translate -ot"
            )
        crs = found.crs if found.crs else None
        return Raster(
            path,
            found.width,
            found.height,
            found.count,
            kinds[0],
            crs,
            found.transform,
            found.nodata,
        )


def read_pixels(
    found: Any,
    bands: Sequence[int],
    box: Box,
    nodata: float | None = None,
    shape: tuple[int, int] | None = None,
) -> Pixels:
    """Some bands of a box.

    Args:
        found: rasterio's data set.
        bands: from 1; one may be named several times.
        box: inside of the raster.
        nodata: the value of pixels that hold no data; None: as the file says, by such a value, by
            an alpha band or by a mask.
        shape: (h, w) to which the box is thinned out; its own if left out.
    """
    left, top, right, bottom = box
    window = load_rasterio("windows").Window(left, top, right - left, bottom - top)
    distinct = sorted(set(bands))
    how = {"window": window, "out_shape": (len(distinct), *(shape or (bottom - top, right - left)))}
    values = found.read(distinct, **how)
    if nodata is None:
        valid = (found.read_masks(distinct, **how) > 0).any(0)
    else:
        valid = (values != nodata).any(0)
    if values.dtype.kind == "f":
        valid &= np.isfinite(values).all(0)
    return Pixels(values[[distinct.index(band) for band in bands]], valid)


def check_grid(raster: Raster, other: Raster) -> None:
    """UserError if the pixels of a mask are not those of its raster."""
    if (raster.width, raster.height) != (other.width, other.height):
        raise UserError(
            f"{other.path} is {other.width}x{other.height}, but its raster {raster.path} is "
            f"{raster.width}x{raster.height}: warp the mask to the grid of the raster"
        )
    if raster.crs is not None and other.crs is not None and raster.crs != other.crs:
        raise UserError(
            f"{other.path} is in {crs_name(other.crs)}, but its raster {raster.path} in "
            f"{crs_name(raster.crs)}: warp the mask to the grid of the raster"
        )
    if raster.crs is None or other.crs is None:  # without a place, pixels lie on pixels
        return
    corners = np.array([(0, 0), (raster.width, 0), (0, raster.height)], np.float64).T
    moved = moved_by(~raster.transform, *moved_by(other.transform, *corners))
    apart = float(np.abs(moved - corners).max())
    if apart > APART:
        raise UserError(
            f"{other.path} lies {apart:.4g} pixels off its raster {raster.path}: warp the mask to "
            "the grid of the raster"
        )


def moved_by(transform: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points after an affine.Affine, float64 [2, N]."""
    return np.stack(
        [
            transform.a * x + transform.b * y + transform.c,
            transform.d * x + transform.e * y + transform.f,
        ]
    )


def crs_name(crs: Any) -> str:
    """Coordinates in words."""
    authority = crs.to_authority()
    return ":".join(authority) if authority else "coordinates of its own"
