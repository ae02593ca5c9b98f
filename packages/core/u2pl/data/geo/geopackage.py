"""GeoPackage: layers of polygons in an SQLite file (OGC 12-128r19), each geometry as WKB."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from u2pl.errors import UserError

#: The layer that says where somebody has looked.
EXTENT = "extent"

# Numbers of the envelope in front of a geometry, by its code.
_ENVELOPES = {0: 0, 1: 4, 2: 6, 3: 6, 4: 8}
_NAMES = {1: "Point", 2: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString"}
_POLYGON, _COLLECTIONS = 3, {6: "MultiPolygon", 7: "GeometryCollection"}


class Table(NamedTuple):
    """A layer: its name, its coordinates, and of each entry place, attributes and geometry."""

    where: str
    crs: str
    rows: list[tuple[str, dict[str, Any], Any]]  # geometries as GeoJSON has them


def read_geopackage(path: Path, extent: bool) -> Table | None:
    """A layer of a file: `extent`, None if there is none; or the only other one.

    Raises UserError if the file is damaged, or has no other layer, or several.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: restore the file, or leave it out")
    try:
        # immutable: nothing is written beside it, and none of another program's locks is waited for
        uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as file:
            names = [
                name
                for (name,) in file.execute(
                    "SELECT table_name FROM gpkg_contents WHERE data_type = 'features' ORDER BY 1"
                )
            ]
            named = [name for name in names if (name.lower() == EXTENT) == extent]
            if extent and not named:
                return None
            if len(named) != 1:
                raise UserError(
                    f"{path} holds {len(named)} layers of polygons"
                    f"{': ' + ', '.join(named) if named else ''}: keep one, with a class in each "
                    f"entry, and perhaps a layer {EXTENT!r}"
                )
            return _table(file, path, named[0])
    except (sqlite3.Error, struct.error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a GeoPackage ({error}): export it anew"
        ) from None


def _table(file: sqlite3.Connection, path: Path, name: str) -> Table:
    column, system = file.execute(
        "SELECT column_name, srs_id FROM gpkg_geometry_columns WHERE table_name = ?", (name,)
    ).fetchone() or (None, None)
    said = file.execute(
        "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys "
        "WHERE srs_id = ?",
        (system,),
    ).fetchone()
    where = f"{path}, layer {name}"
    if column is None or said is None:
        raise UserError(f"{where} does not say where it lies: export it anew")
    authority, code, definition = said
    crs = f"EPSG:{code}" if str(authority).upper() == "EPSG" else str(definition)
    rows = file.execute(f"SELECT * FROM {_quoted(name)}")
    columns = [each[0] for each in rows.description]
    found = []
    for number, values in enumerate(rows, 1):
        attributes = dict(zip(columns, values, strict=True))
        blob, place = attributes.pop(column), f"entry {number}"
        found.append((place, attributes, None if blob is None else _geometry(blob, where, place)))
    return Table(where, crs, found)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _geometry(blob: Any, where: str, place: str) -> dict[str, Any] | None:
    """The geometry of an entry as GeoJSON has it; None if it is empty."""
    if not isinstance(blob, bytes) or blob[:2] != b"GP" or blob[3] >> 1 & 7 not in _ENVELOPES:
        raise UserError(f"{where}, {place} has a geometry that is none: export it anew")
    if blob[3] >> 4 & 1:
        return None
    geometry, _ = _wkb(blob, 8 + 8 * _ENVELOPES[blob[3] >> 1 & 7], where, place)
    return geometry


def _wkb(blob: bytes, at: int, where: str, place: str, deep: int = 0) -> tuple[dict[str, Any], int]:
    """A geometry at a place of some bytes, and the place behind it."""
    order = "<" if struct.unpack_from("B", blob, at)[0] else ">"
    (code,) = struct.unpack_from(f"{order}I", blob, at + 1)
    kind, dimensions = code % 1000, 2 + (0, 1, 1, 2)[code // 1000 % 4]
    (count,) = struct.unpack_from(f"{order}I", blob, at + 5)
    at += 9
    if kind == _POLYGON:
        rings = []
        for _ in range(count):
            (points,) = struct.unpack_from(f"{order}I", blob, at)
            size = dimensions * points
            numbers = struct.unpack_from(f"{order}{size}d", blob, at + 4)
            rings.append(list(_pairs(numbers, dimensions)))
            at += 4 + 8 * size
        return {"type": "Polygon", "coordinates": rings}, at
    if kind not in _COLLECTIONS or deep > 8:
        name = _NAMES.get(kind, f"geometry of kind {code}")
        raise UserError(f"{where}, {place} is a {name}: only polygons can be filled; remove it")
    parts = []
    for _ in range(count):
        part, at = _wkb(blob, at, where, place, deep + 1)
        parts.append(part)
    return {"type": "GeometryCollection", "geometries": parts}, at


def _pairs(numbers: tuple[float, ...], dimensions: int) -> Iterator[tuple[float, float]]:
    for place in range(0, len(numbers), dimensions):
        yield numbers[place], numbers[place + 1]
