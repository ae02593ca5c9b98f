"""GeoTIFFs, cut into tiles as they are read: images/, masks/ or labels/, classes.txt, meta.toml."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, partial
from itertools import compress
from pathlib import Path

import numpy as np
from PIL import Image

from u2pl.data.channels import Stack, as_image
from u2pl.data.classes import read_class_file
from u2pl.data.file_source import IdList
from u2pl.data.geo.drawing import Drawing, class_values, draw
from u2pl.data.geo.facts import BACKGROUND, read_facts
from u2pl.data.geo.layers import read_layer
from u2pl.data.geo.layout import find_layout
from u2pl.data.geo.rasters import (
    Pixels,
    Raster,
    check_grid,
    load_rasterio,
    opened,
    read_pixels,
    read_raster,
)
from u2pl.data.geo.remembered import remembered
from u2pl.data.geo.scaling import Scaling, percentiles, unscaled, usual_bands
from u2pl.data.geo.tiles import Tile, cut, hold_out_blocks
from u2pl.data.ids import check_ids, few, match_id, read_lines
from u2pl.data.reading import check_range
from u2pl.data.source import Source
from u2pl.data.walking import files_in
from u2pl.errors import UserError
from u2pl.files import expanded
from u2pl.notation import IGNORE

CLASSES, META = "classes.txt", "meta.toml"

# Side of what is looked at of a tile, thinned out: for data and labels, and for percentiles.
_GLANCE, _LOOK = 64, 128
# Training tiles that percentiles are taken over.
_LOOKED_AT = 256


class GeoTiff(Source):
    """Rasters in images/ with masks of ids in masks/ or polygons in labels/, of the same names.

    Or one raster, with NAME_mask.tif, NAME.geojson or NAME.gpkg beside it. An image is a tile of a
    raster, `NAME@ROW,COLUMN`; tiles without data are left out. An extent says where somebody has
    looked; what lies outside of it is not labelled, and a tile without labelled pixels has no mask.

    Optional:
    - `splits/NAME.txt`: tiles, or rasters, which stand for all of their tiles. Without val.txt
      blocks of tiles are held out (`hold_out_blocks`), and none of their tiles is trained on.
    - `meta.toml`: see `GeoFacts`.

    Args:
        path: a folder, or a GeoTIFF.
        tile: side of the tiles in pixels, instead of what meta.toml says.
        bands: channels of the images, red, green and blue first, such as `4,3,2`.

    Raises UserError if files are missing, damaged or do not lie on each other.
    """

    def __init__(self, path: str | Path, tile: str | None = None, bands: str | None = None) -> None:
        load_rasterio()
        place = expanded(path)
        self.layout = layout = find_layout(place)
        self.name = place.resolve().stem if place.is_file() else place.resolve().name
        self.root = layout.root
        listed = read_class_file(self.root / CLASSES)
        self.facts = facts = read_facts(self.root / META, listed, tile, bands)
        self._listed = listed.names
        self.classes, moved = facts.meta.remaining(listed.names)
        self.palette = listed.palette[[moved.index(id) for id in range(len(self.classes))]]
        self.things = facts.meta.things
        # what becomes of a class, and of an id in a mask file
        self._moved = [id if id >= 0 else IGNORE for id in moved]
        first = int(facts.meta.reduce_zero_label)
        self._known = len(moved) + first
        self._becomes = np.full(IGNORE + 1, IGNORE, np.uint8)
        self._becomes[first : self._known] = self._moved
        self.rasters = {name: read_raster(file) for name, file in layout.images.items()}
        self._bands = facts.bands or usual_bands(next(iter(self.rasters.values())))
        self._check_alike()
        for name, file in layout.masks.items():
            check_grid(self.rasters[name], read_raster(file))
        self._drawn = {name: self._labels(name, file) for name, file in layout.labels.items()}
        self._extents = {
            name: extent for name in layout.images if (extent := self._extent(name)) is not None
        }
        self._scaling: Scaling | None = None
        notes = (listed.note, layout.strays)
        self.notes = tuple(note for note in notes if note)
        self.strays = layout.strays

    # -- splits ------------------------------------------------------------------------------------

    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(self._lists))

    def split(self, name: str) -> list[str]:
        """The tiles in the order written; UserError if the split is unknown, empty or invalid."""
        if name not in self._lists:
            raise self.unknown_split(name)
        where, lines = self._lists[name]
        return check_ids(lines, self._tiles, where)

    def ids(self) -> Collection[str]:
        return self._tiles.keys()

    def read_list(self, path: Path) -> list[str]:
        """Read the tiles in a user's file, in which a raster stands for all of its tiles."""
        return check_ids(self._of_rasters(read_lines(path)), self._tiles, str(path))

    def unknown_split(self, name: str) -> UserError:
        """The error for a split that does not exist, with how to make one."""
        return UserError(
            f"{super().unknown_split(name)}; write tiles or rasters, one per line, into "
            f"splits/{name}.txt"
        )

    # -- images and masks --------------------------------------------------------------------------

    def image(self, id: str) -> Image.Image | Stack:
        """A tile as the network sees it; UserError if the raster is broken."""
        scaling = self.scaling
        pixels = self._pixels(self._tile(id), scaling.bands, scaling.nodata)
        return as_image(scaling.colours(pixels))

    def has_mask(self, id: str) -> bool:
        return id in self._masked

    def mask(self, id: str) -> np.ndarray:
        """Class ids, uint8 [h, w]; 255 where the raster holds no data, or nobody has labelled.

        Raises UserError if there is no mask, or it is broken or holds ids that are no classes.
        """
        tile = self._tile(id)
        if id not in self._masked:
            raise UserError(f"{self.name}: tile {id!r} has no mask: use it without label")
        ids = self._ids(tile)
        ids[~self._pixels(tile, self._bands, self.facts.nodata).valid] = IGNORE
        return ids

    @property
    def scaling(self) -> Scaling:  # type: ignore[override]
        """How bands become channels: by the training tiles, or as `show_as` says."""
        if self._scaling is None:
            self._scaling = self._fitted(self.split("train"))
        return self._scaling

    def show_as(self, scaling: Scaling) -> None:
        for raster in self.rasters.values():
            scaling.check(raster)
        self._scaling = scaling

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.classes).encode())
        for what, file in sorted(self.layout.files.items()):
            digest.update(f"{what} {_bytes(file)}\n".encode())
        for name in sorted(self._written):
            digest.update(repr((name, self._written[name].lines)).encode())
        facts = self.facts._replace(meta=self.facts.meta._replace(things=()), bands=self._bands)
        digest.update(repr((facts, self._becomes.tobytes())).encode())
        return digest.hexdigest()[:12]

    # -- found when it is needed -------------------------------------------------------------------

    @cached_property
    def _tiles(self) -> dict[str, Tile]:
        """Those that hold data; UserError if none does."""
        found = {
            tile.id: tile
            for name, raster in self.rasters.items()
            for tile in self._with_data(raster, cut(name, *raster.size, self.facts.tile))
        }
        if not found:
            raise UserError(
                f"{self.layout.images[next(iter(self.rasters))]} holds nothing but nodata, and so "
                "does every other raster: check the nodata value, or set nodata in meta.toml"
            )
        return found

    @cached_property
    def _masked(self) -> frozenset[str]:
        """Tiles of which somebody has labelled a part."""
        by_raster: dict[str, list[Tile]] = defaultdict(list)
        for tile in self._tiles.values():
            by_raster[tile.raster].append(tile)
        found: set[str] = set()
        for name, tiles in by_raster.items():
            if name in self._drawn:
                labelled = [self._is_drawn(tile) for tile in tiles]
            elif name in self.layout.masks:
                labelled = self._are_stored(name, tiles)
            else:
                continue
            found |= {tile.id for tile in compress(tiles, labelled)}
        return frozenset(found)

    @cached_property
    def _written(self) -> dict[str, IdList]:
        """The lists in splits/."""
        return {
            file.stem: IdList(str(file), read_lines(file))
            for file in files_in(self.root / "splits", ".txt")
        }

    @cached_property
    def _lists(self) -> dict[str, IdList]:
        lists = {
            name: IdList(where, self._of_rasters(lines))
            for name, (where, lines) in self._written.items()
        }
        where, left_out = str(self.root), frozenset[str]()
        if "val" not in lists:
            named = {match_id(line, self._tiles) for each in lists.values() for line in each.lines}
            free = self._tiles.keys() - named
            held = hold_out_blocks(list(self._tiles.values()), self._masked, free)
            if held.scored:
                lists["val"] = IdList(where, held.scored)
                self.held_out, left_out = tuple(held.scored), held.blocks
                self.notes += (_of_blocks(held.side),)
        if "train" not in lists:
            scored = {
                match_id(line, self._tiles)
                for name, each in lists.items()
                if name.startswith(("val", "test"))
                for line in each.lines
            }
            others = [id for id in self._tiles if id not in scored and id not in left_out]
            lists["train"] = IdList(where, others)
        if self._scaling is None:  # here, before worker processes are forked, which would repeat it
            train = lists["train"]
            self._scaling = self._fitted(check_ids(train.lines, self._tiles, train.where))
        return lists

    # -- from here on: how -------------------------------------------------------------------------

    def _check_alike(self) -> None:
        """UserError if the rasters lack a band, or their numbers mean different things."""
        first = next(iter(self.rasters.values()))
        for raster in self.rasters.values():
            lacking = [band for band in self._bands if band > raster.bands]
            if lacking:
                raise UserError(
                    f"{raster.path} has {raster.bands} bands, and band {lacking[0]} is wanted: "
                    "choose bands that all rasters have, such as bands = [1, 2, 3] in meta.toml"
                )
            if raster.kind != first.kind:
                raise UserError(
                    f"{raster.path} holds {raster.kind}, but {first.path} {first.kind}: convert "
                    "them to the same kind of numbers"
                )

    def _labels(self, name: str, file: Path) -> Drawing:
        layer = read_layer(file)
        assert layer is not None
        facts = self.facts
        advice = f'write class_field = "NAME" into {self.root / META}, with the attribute'
        ids = class_values(layer, facts.class_field, self._listed, CLASSES, advice)
        moved = [IGNORE if id == IGNORE else self._moved[id] for id in ids]
        return draw(layer, self.rasters[name], moved)

    def _extent(self, name: str) -> Drawing | None:
        """Where somebody has looked; None if that is everywhere."""
        file = self.layout.extents.get(name) or self.layout.labels.get(name)
        if file is None or (name not in self.layout.extents and file.suffix.lower() != ".gpkg"):
            return None
        layer = read_layer(file, extent=True)
        return None if layer is None else draw(layer, self.rasters[name], [1] * len(layer.features))

    def _ids(self, tile: Tile) -> np.ndarray:
        """What is drawn or stored of a tile, uint8 [h, w], in the classes' ids."""
        drawn, extent = self._drawn.get(tile.raster), self._extents.get(tile.raster)
        if drawn is not None:
            outside = self._moved[0] if self.facts.outside == BACKGROUND else IGNORE
            ids = drawn.paint(tile.box, outside)
        else:
            ids = self._becomes[self._stored(tile)]
        if extent is not None:
            ids[extent.paint(tile.box, 0) == 0] = IGNORE
        return ids

    def _stored(self, tile: Tile, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Ids of a mask file, uint8 [h, w]."""
        file = self.layout.masks[tile.raster]
        with opened(file) as found:
            pixels = read_pixels(found, (1,), tile.box, shape=shape)
        ids = np.where(pixels.valid, pixels.values[0], IGNORE)
        if ids.dtype.kind == "f" and (ids != np.floor(ids)).any():
            raise UserError(f"{file} holds fractions: a mask must hold one class id per pixel")
        if ids.min() < 0 or ids.max() > IGNORE:
            raise UserError(
                f"{file} holds values from {ids.min():g} to {ids.max():g}: a mask must hold class "
                "ids from 0 to 254, or 255 to ignore"
            )
        return check_range(ids.astype(np.uint8), self._known, str(file))

    def _is_drawn(self, tile: Tile) -> bool:
        """Whether polygons say anything about a tile."""
        extent = self._extents.get(tile.raster)
        if extent is None and self.facts.outside == BACKGROUND:
            return True
        if extent is not None and not extent.paint(tile.box, 0).any():
            return False
        return bool((self._ids(tile) != IGNORE).any())

    def _are_stored(self, name: str, tiles: Sequence[Tile]) -> list[bool]:
        """Whether a mask file holds any label of these tiles; an extent may leave some out."""
        facts = ([tile.box for tile in tiles], self._becomes.tolist())
        file, extent = self.layout.masks[name], self._extents.get(name)
        stored = remembered(
            "labels", [file], facts, lambda: np.array([self._glance(tile) for tile in tiles])
        )
        return [
            bool(one) and (extent is None or bool(extent.paint(tile.box, 0).any()))
            for one, tile in zip(stored, tiles, strict=True)
        ]

    def _glance(self, tile: Tile) -> bool:
        try:
            ids = self._stored(tile, _thinned(tile, _GLANCE))
        except UserError:  # whoever needs the mask says what is wrong with it
            return True
        return bool((self._becomes[ids] != IGNORE).any())

    def _with_data(self, raster: Raster, tiles: Sequence[Tile]) -> Iterator[Tile]:
        nodata, kind = self.facts.nodata, raster.kind
        with opened(raster.path) as found:
            flags = [set(found.mask_flag_enums[band - 1]) for band in self._bands]
        full = load_rasterio("enums").MaskFlags.all_valid
        if nodata is None and kind[0] != "f" and all(full in each for each in flags):
            return iter(tiles)
        facts = (self.facts.tile, self._bands, nodata)
        look = partial(self._look_for_data, raster, tiles)
        return compress(tiles, remembered("data", [raster.path], facts, look))

    def _look_for_data(self, raster: Raster, tiles: Sequence[Tile]) -> np.ndarray:
        """Which tiles hold data, bool [len(tiles)]."""
        with opened(raster.path) as found:
            shown = (
                read_pixels(
                    found, self._bands, tile.box, self.facts.nodata, _thinned(tile, _GLANCE)
                )
                for tile in tiles
            )
            return np.array([pixels.valid.any() for pixels in shown])

    def _fitted(self, train: Sequence[str]) -> Scaling:
        """The scaling by these tiles."""
        kind, nodata = next(iter(self.rasters.values())).kind, self.facts.nodata
        if kind == "uint8":
            return unscaled(self._bands, nodata)
        looked_at = few(train, _LOOKED_AT)
        files = [raster.path for raster in self.rasters.values()]
        facts = (self.facts.tile, self._bands, nodata, looked_at)
        ends = remembered(
            "ends", files, facts, lambda: percentiles(self._samples(looked_at))
        ).tolist()
        return Scaling(kind=kind, bands=self._bands, low=ends[0], high=ends[1], nodata=nodata)

    def _samples(self, ids: Sequence[str]) -> Iterator[Pixels]:
        """These tiles, thinned out."""
        by_raster: dict[str, list[Tile]] = defaultdict(list)
        for id in ids:
            by_raster[self._tiles[id].raster].append(self._tiles[id])
        for name, tiles in by_raster.items():
            with opened(self.rasters[name].path) as found:
                for tile in tiles:
                    shape = _thinned(tile, _LOOK)
                    yield read_pixels(found, self._bands, tile.box, self.facts.nodata, shape)

    def _pixels(self, tile: Tile, bands: Sequence[int], nodata: float | None) -> Pixels:
        with opened(self.rasters[tile.raster].path) as found:
            return read_pixels(found, bands, tile.box, nodata)

    def _tile(self, id: str) -> Tile:
        if id not in self._tiles:
            raise UserError(f"{self.name} has no tile {id!r}")
        return self._tiles[id]

    def _of_rasters(self, lines: Sequence[str]) -> list[str]:
        """Lines of a list, with the tiles of a raster in its place."""
        found: list[str] = []
        for line in lines:
            name = match_id(line, self.rasters)
            found += (
                [line]
                if name is None
                else [id for id, tile in self._tiles.items() if tile.raster == name]
            )
        return found


def _of_blocks(side: int) -> str:
    if side == 1:
        return (
            "tiles are held out one by one, for there are too few to hold out blocks: scores may "
            "be too high, since neighbours are alike; smaller tiles (tile in meta.toml) make more"
        )
    return f"tiles are held out in blocks of {side} x {side}, of which none is trained on"


def _thinned(tile: Tile, most: int) -> tuple[int, int]:
    """Height and width of a tile of which at most so many pixels a side are kept."""
    left, top, right, bottom = tile.box
    return min(bottom - top, most), min(right - left, most)


def _bytes(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1
