"""Where the files of rasters and their labels lie."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from u2pl.data.file_source import index_files
from u2pl.data.geo.layers import GEOJSON, GEOPACKAGE
from u2pl.data.geo.rasters import SUFFIXES
from u2pl.data.ids import first_three
from u2pl.data.walking import files_below
from u2pl.errors import UserError

IMAGES, MASKS, LABELS = "images", "masks", "labels"
#: What follows a raster's name in files beside it.
MASK_ENDING, EXTENT_ENDING = "_mask", ".extent"
# Layers of polygons of other kinds.
_FOREIGN = (".shp", ".kml", ".kmz", ".gml")


class Layout(NamedTuple):
    """Files by the name of their raster."""

    root: Path  # of classes.txt, meta.toml and splits/
    images: dict[str, Path]
    masks: dict[str, Path]
    labels: dict[str, Path]  # polygons
    extents: dict[str, Path]  # GeoJSON of where somebody has looked
    strays: str = ""  # labels that belong to no raster, in words

    @property
    def files(self) -> dict[str, Path]:
        """All of them, by what they are."""
        parts = (("image", self.images), ("mask", self.masks))
        more = (("labels", self.labels), ("extent", self.extents))
        return {f"{what} {name}": file for what, own in parts + more for name, file in own.items()}


def find_layout(place: Path) -> Layout:
    """The files at a place.

    Args:
        place: a folder with images/, and labels of the same names in masks/ or labels/; or one
            raster, with its labels beside it: NAME_mask.tif, NAME.geojson or NAME.gpkg.

    Raises UserError if there is no raster, one has two kinds of labels, or all labels belong to
    other names.
    """
    found = _beside(place) if place.is_file() else _below(place)
    for name in sorted(found.masks.keys() & found.labels.keys()):
        raise UserError(
            f"{found.masks[name]} and {found.labels[name]} both label {found.images[name]}: keep "
            "one of them"
        )
    labels = found.masks | found.labels | found.extents
    others = [str(file) for name, file in labels.items() if name not in found.images]
    if not others:
        return found
    strays = f"{first_three(others)} belong to no raster: give them the names of rasters"
    if not (found.masks | found.labels).keys() & found.images.keys():
        raise UserError(strays)
    masks, labels, extents = (
        {name: file for name, file in part.items() if name in found.images}
        for part in (found.masks, found.labels, found.extents)
    )
    return found._replace(masks=masks, labels=labels, extents=extents, strays=strays)


def _below(root: Path) -> Layout:
    if not root.is_dir():
        raise UserError(f"{root} does not exist: give a GeoTIFF, or a folder with {IMAGES}/")
    if not (root / IMAGES).is_dir():
        raise UserError(
            f"{root} has no {IMAGES}/ folder: put GeoTIFFs into {IMAGES}/, masks into {MASKS}/ or "
            f"polygons into {LABELS}/, and write classes.txt"
        )
    images = index_files(root / IMAGES, files_below(root / IMAGES), SUFFIXES)
    if not images:
        raise UserError(f"{root / IMAGES} holds no GeoTIFF ({', '.join(SUFFIXES)}): put some there")
    below = files_below(root / LABELS)
    if foreign := [name for name in below if name.lower().endswith(_FOREIGN)]:
        raise UserError(
            f"{root / LABELS / foreign[0]} is not read: save the layer as GeoJSON or GeoPackage, "
            "and take this file out"
        )
    own = {
        name: file
        for name, file in index_files(root / LABELS, below, (*GEOJSON, GEOPACKAGE)).items()
        if not name.endswith(EXTENT_ENDING)
    }
    extents = index_files(root / LABELS, below, GEOJSON, EXTENT_ENDING)
    masks = index_files(root / MASKS, files_below(root / MASKS), SUFFIXES)
    return Layout(root, images, masks, own, extents)


def _beside(file: Path) -> Layout:
    if file.suffix.lower() not in SUFFIXES:
        raise UserError(f"{file} is no GeoTIFF: give a .tif, or a folder with {IMAGES}/")
    name, root = file.stem, file.parent

    def one(*names: str) -> dict[str, Path]:
        there = [root / each for each in names if (root / each).is_file()]
        if there[1:]:
            raise UserError(f"{there[0]} and {there[1]} both belong to {file}: keep one of them")
        return {name: there[0]} if there else {}

    return Layout(
        root,
        {name: file},
        one(*(f"{name}{MASK_ENDING}{suffix}" for suffix in SUFFIXES)),
        one(*(f"{name}{suffix}" for suffix in (*GEOJSON, GEOPACKAGE))),
        one(*(f"{name}{EXTENT_ENDING}{suffix}" for suffix in GEOJSON)),
    )
