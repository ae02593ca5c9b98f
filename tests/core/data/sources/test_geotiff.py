from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.rasters import box, painted, place, write_geojson, write_geopackage, write_raster
from u2pl.data.geo.scaling import unscaled
from u2pl.data.opening import open_source
from u2pl.data.sources.geotiff import GeoTiff
from u2pl.errors import UserError
from u2pl.notation import PADDING

CLASSES = ("background", "field", "water")
#: In columns and rows of 80 x 64 pixels; the second covers a part of the first.
POLYGONS = [(1, [box(3, 3, 40, 30), box(10, 10, 20, 20)]), (2, [box(30, 20, 79, 60)])]
IDS = painted(64, 80, POLYGONS)
RNG = np.random.default_rng(0)
VALUES = RNG.integers(100, 4000, (4, 64, 80)).astype(np.uint16)

Make = Callable[[Path], Path]


def folder(root: Path, meta: str = "tile = 16\n") -> Path:
    """Two rasters; the first has polygons."""
    for number, name in enumerate(("a", "sub/b")):
        write_raster(root / f"images/{name}.tif", VALUES + number)
    named = [(CLASSES[value], rings) for value, rings in POLYGONS]
    write_geojson(root / "labels/a.geojson", named)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    (root / "meta.toml").write_text(meta)
    return root


def whole_mask(source: GeoTiff, name: str = "a") -> np.ndarray:
    """The masks of all tiles of a raster in their places; 77 where there is none."""
    raster = source.rasters[name]
    ids = np.full((raster.height, raster.width), 77, np.uint8)
    for id, tile in source._tiles.items():
        if tile.raster == name and source.has_mask(id):
            left, top, right, bottom = tile.box
            ids[top:bottom, left:right] = source.mask(id)
    return ids


def test_tiles_of_a_labelled_and_an_unlabelled_raster(tmp_path: Path) -> None:
    source = open_source(f"geotiff:{folder(tmp_path / 'fields')}")
    assert isinstance(source, GeoTiff)
    assert (source.name, source.classes) == ("fields", CLASSES)
    assert len(source.ids()) == 2 * 4 * 5
    masked = {id for id in source.ids() if source.has_mask(id)}
    assert masked == {f"a@{row},{column}" for row in range(4) for column in range(5)}
    np.testing.assert_array_equal(whole_mask(source), IDS)
    for id, tile in source._tiles.items():
        left, top, right, bottom = tile.box
        values = VALUES[:3, top:bottom, left:right] + (tile.raster != "a")
        low, high = np.array(source.scaling.low), np.array(source.scaling.high)
        shown = (values.transpose(1, 2, 0) - low) / (high - low) * 255
        found = np.asarray(source.image(id)).astype(float)
        assert np.abs(found - shown.clip(0, 255)).max() <= 0.5 + 1e-9
    with pytest.raises(UserError, match=r"tile 'sub/b@0,0' has no mask"):
        source.mask("sub/b@0,0")


def test_the_scaling_is_that_of_the_training_tiles(tmp_path: Path) -> None:
    source = GeoTiff(folder(tmp_path))
    train = [source._tiles[id] for id in source.split("train")]
    parts = [
        (VALUES + (tile.raster != "a"))[:3, tile.box[1] : tile.box[3], tile.box[0] : tile.box[2]]
        for tile in train
    ]
    values = np.concatenate([part.reshape(3, -1) for part in parts], 1)
    np.testing.assert_allclose(source.scaling.low, np.percentile(values, 2, axis=1))
    np.testing.assert_allclose(source.scaling.high, np.percentile(values, 98, axis=1))
    other = source.scaling.model_copy(update={"low": (0.0, 0.0, 0.0), "bands": (4, 4, 4)})
    source.show_as(other)
    first = np.asarray(source.image("a@0,0"))
    assert source.scaling == other and (first == first[..., :1]).mean() < 1  # by another high each
    with pytest.raises(UserError, match="holds uint16"):
        source.show_as(unscaled((1, 2, 3)))


def test_blocks_are_held_out_and_none_of_their_tiles_is_trained_on(tmp_path: Path) -> None:
    root = folder(tmp_path)
    write_raster(root / "masks/sub/b.tif", IDS, nodata=255)
    source = GeoTiff(root)
    train, val = source.split("train"), source.split("val")
    side = next(side for side in (4, 3, 2) if f"blocks of {side} x {side}" in source.notes[-1])
    assert tuple(val) == source.held_out and len(val) >= len(source.ids()) / 5

    def blocks(ids: list[str]) -> set[tuple[str, int, int]]:
        tiles = [source._tiles[id] for id in ids]
        return {(tile.raster, tile.row // side, tile.column // side) for tile in tiles}

    assert not blocks(train) & blocks(val)
    assert len(train) + len(val) == len(source.ids())
    assert GeoTiff(root).split("val") == val


def test_lists_name_tiles_or_rasters(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "splits").mkdir()
    (root / "splits/val.txt").write_text("a@0,0\na@3,4\n")
    (root / "splits/labeled.txt").write_text("a.tif\n")
    (root / "mine.txt").write_text("sub/b\na@1,1\n")
    source = GeoTiff(root)
    assert source.splits() == ("labeled", "train", "val")
    assert source.split("val") == ["a@0,0", "a@3,4"] and not source.held_out
    assert len(source.split("labeled")) == 20 and len(source.split("train")) == 38
    assert len(source.read_list(root / "mine.txt")) == 21
    with pytest.raises(UserError, match="has no split 'test'"):
        source.split("test")
    (root / "splits/val.txt").write_text("a@9,9\n")
    with pytest.raises(UserError, match="names images that are not there: 'a@9,9'"):
        GeoTiff(root).split("val")


def test_masks_geojson_and_geopackage_say_the_same(tmp_path: Path) -> None:
    named = [(CLASSES[value], rings) for value, rings in POLYGONS]
    one = tmp_path / "one"
    write_raster(one / "a.tif", VALUES)
    (one / "classes.txt").write_text("\n".join(CLASSES))
    prints = set()
    for write in (
        lambda: write_raster(one / "a_mask.tif", IDS),
        lambda: write_geopackage(one / "a.gpkg", {"parcels": named}),
        lambda: write_geojson(one / "a.geojson", named, crs="urn:ogc:def:crs:EPSG::32633"),
    ):
        file = write()
        source = open_source(f"geotiff:{one / 'a.tif'}?tile=20")
        assert isinstance(source, GeoTiff) and source.name == "a"
        np.testing.assert_array_equal(whole_mask(source), IDS)
        prints.add(source.fingerprint())
        file.unlink()
    assert len(prints) == 3


def test_outside_of_an_extent_nobody_has_labelled(tmp_path: Path) -> None:
    root, named = folder(tmp_path), [(CLASSES[value], rings) for value, rings in POLYGONS]
    seen = [(None, [box(0, 0, 24, 40)])]
    expected = np.where(painted(64, 80, [(1, seen[0][1])]) == 1, IDS, 255)
    for write in (
        lambda: write_geojson(root / "labels/a.extent.geojson", seen),
        lambda: write_geopackage(root / "labels/a.gpkg", {"parcels": named, "extent": seen}),
    ):
        write()
        source = GeoTiff(root)
        found = whole_mask(source)
        np.testing.assert_array_equal(found[found != 77], expected[found != 77])
        masked = {id for id in source.ids() if source.has_mask(id)}
        assert masked == {f"a@{row},{column}" for row in range(3) for column in range(2)}
        shutil.rmtree(root / "labels")


def test_without_a_background_what_is_outside_of_polygons_is_ignored(tmp_path: Path) -> None:
    root = folder(tmp_path, 'tile = 16\nbands = [4]\nclass_field = "kind"\n')
    (root / "classes.txt").write_text("meadow\nfield\nwater\n")
    ring = [box(3, 3, 30, 30)]
    write_geojson(root / "labels/a.geojson", [(2, ring)], field="kind")
    source = GeoTiff(root)
    found = whole_mask(source)
    np.testing.assert_array_equal(found[:32, :32], painted(32, 32, [(2, ring)], outside=255))
    assert (found[32:] == 77).all() and source.scaling.bands == (4,)
    assert source.channels == np.asarray(source.image("a@0,0")).shape[2] == 1
    text = 'tile = 16\nclass_field = "kind"\noutside = "background"\n'
    (root / "meta.toml").write_text(text)
    np.testing.assert_array_equal(whole_mask(GeoTiff(root)), painted(64, 80, [(2, ring)]))


def test_a_polygon_of_255_and_those_of_ignored_classes_are_ignored(tmp_path: Path) -> None:
    root = folder(tmp_path, 'tile = 16\nignore = ["field"]\n')
    named = [("field", POLYGONS[0][1]), ("water", POLYGONS[1][1]), (255, [box(50, 30, 60, 40)])]
    write_geojson(root / "labels/a.geojson", named)
    expected = painted(64, 80, [(255, named[0][1]), (1, named[1][1]), (255, named[2][1])])
    found = whole_mask(GeoTiff(root))
    np.testing.assert_array_equal(found, expected)


def test_classes_are_merged_and_ignored_and_ids_from_1_are_moved(tmp_path: Path) -> None:
    root = folder(tmp_path, 'tile = 16\nmerge = {land = ["background", "field"]}\n')
    source = GeoTiff(root)
    assert source.classes == ("land", "water")
    np.testing.assert_array_equal(whole_mask(source), IDS == 2)
    shutil.rmtree(root / "labels")
    write_raster(root / "masks/a.tif", np.where(IDS == 0, 0, IDS))
    (root / "meta.toml").write_text("tile = 16\nreduce_zero_label = true\n")
    found = whole_mask(GeoTiff(root))
    labelled = found != 77
    expected = np.where(IDS == 0, 255, IDS - 1)
    np.testing.assert_array_equal(found[labelled], expected[labelled])
    assert labelled.sum() < IDS.size  # a tile of zeros has no mask


def test_nodata_is_ignored_and_empty_tiles_are_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path)
    values = VALUES.copy()
    values[:, :, :20] = 0
    write_raster(root / "images/a.tif", values, nodata=0)
    source = GeoTiff(root)
    assert "a@0,0" not in source.ids() and "a@0,1" in source.ids()
    found = whole_mask(source)
    assert (found[:, 16:20] == 255).all()
    np.testing.assert_array_equal(found[:, 20:], IDS[:, 20:])
    assert (np.asarray(source.image("a@0,1"))[:, :4] == PADDING).all()
    # where the file does not say it
    write_raster(root / "images/a.tif", values)
    (root / "meta.toml").write_text("tile = 16\nnodata = 0\n")
    again = GeoTiff(root)
    np.testing.assert_array_equal(whole_mask(again), found)
    assert again.scaling.nodata == 0 and again.fingerprint() != source.fingerprint()


def test_a_turned_raster_is_labelled_where_the_polygons_lie(tmp_path: Path) -> None:
    root = folder(tmp_path)
    write_raster(root / "images/a.tif", VALUES, transform=place(30))
    named = [(CLASSES[value], rings) for value, rings in POLYGONS]
    write_geojson(root / "labels/a.geojson", named, place(30))
    np.testing.assert_array_equal(whole_mask(GeoTiff(root)), IDS)


def test_what_a_look_has_found_is_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path)
    write_raster(root / "images/a.tif", VALUES, nodata=0)
    write_raster(root / "masks/sub/b.tif", np.where(IDS == 2, IDS, 255))
    looks: list[str] = []
    for name in ("_look_for_data", "_glance", "_samples"):
        whole = getattr(GeoTiff, name)

        def look(*given: Any, name: str = name, whole: Callable[..., Any] = whole) -> Any:
            looks.append(name)
            return whole(*given)

        monkeypatch.setattr(GeoTiff, name, look)

    def seen() -> tuple[object, ...]:
        looks.clear()
        source = GeoTiff(root)
        masked = {id for id in source.ids() if source.has_mask(id)}
        return masked, source.split("val"), source.scaling

    first = seen()
    assert set(looks) == {"_look_for_data", "_glance", "_samples"}
    assert seen() == first and not looks
    write_raster(root / "images/a.tif", VALUES * 2, nodata=0)
    assert seen() != first and set(looks) == {"_look_for_data", "_samples"}


def _no_crs(root: Path) -> None:
    write_raster(root / "images/a.tif", VALUES, crs=None)


def _truncated(root: Path) -> None:
    path = root / "images/a.tif"
    path.write_bytes(path.read_bytes()[:-20_000])


def _no_raster(root: Path) -> None:
    (root / "images/a.tif").write_text("<VRTDataset/>")


def _mask(**options: object) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        shutil.rmtree(root / "labels")
        given = dict(options)
        write_raster(root / "masks/a.tif", given.pop("ids", IDS), **given)  # type: ignore[arg-type]

    return write


def _layer(*polygons: object, **options: object) -> Callable[[Path], None]:
    return lambda root: write_geojson(root / "labels/a.geojson", polygons, **options) and None  # type: ignore[arg-type]


def _meta(text: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / "meta.toml").write_text(text)

    return write


def _far(root: Path) -> None:
    path = root / "labels/a.geojson"
    content = json.loads(path.read_text())
    content["features"][0]["geometry"]["coordinates"][0][1] = [20.0, 95.0]
    path.write_text(json.dumps(content))


SQUARE = [box(1, 1, 5, 5)]
BAD = {
    "no CRS": (_no_crs, "does not say in which coordinates it lies"),
    "truncated": (_truncated, "cannot be read as a GeoTIFF"),
    "no raster": (_no_raster, "cannot be read as a GeoTIFF"),
    "no images": (lambda root: shutil.rmtree(root / "images"), "has no images/ folder"),
    "no classes": (lambda root: (root / "classes.txt").unlink(), "classes.txt does not exist"),
    "other size": (_mask(ids=IDS[:-1]), r"is 80x63, but its raster .* is 80x64"),
    "other corner": (_mask(transform=place(0.5)), "pixels off its raster"),
    "other CRS": (_mask(crs="EPSG:32634"), "is in EPSG:32634, but its raster"),
    "ids of no class": (_mask(ids=IDS + np.uint8(2)), "holds ids 3, but there are 3 classes"),
    "negative ids": (_mask(ids=-IDS.astype(np.int16)), "holds values from -1 to 0"),
    "fractions": (_mask(ids=IDS / np.float32(3)), "holds fractions"),
    "no class field": (_layer((None, SQUARE)), r"has no attribute 'class' \(it has id\)"),
    "unknown class": (_layer(("wather", SQUARE)), r"'wather' \(1\) \(did you mean water\?\)"),
    "unknown id": (_layer((3, SQUARE)), "names classes that classes.txt does not have: '3'"),
    "elsewhere": (
        _layer(("water", [box(200, 1, 205, 5)]), ("water", [box(1, -9, 5, -2)])),
        r"none of the 2 polygons of \S*a.geojson lies on \S*a.tif",
    ),
    "shapefile": (
        lambda root: (root / "labels/a.geojson").rename(root / "labels/a.SHP"),
        r"a.SHP is not read: save the layer as GeoJSON or GeoPackage",
    ),
    "off the earth": (_far, "cannot be put on"),
    "both": (lambda root: write_raster(root / "masks/a.tif", IDS), "both label"),
    "strays": (
        lambda root: (root / "labels/a.geojson").rename(root / "labels/c.geojson"),
        "belong to no raster",
    ),
    "other kind": (
        lambda root: write_raster(root / "images/sub/b.tif", VALUES.astype(np.float32)),
        "holds float32, but",
    ),
    "complex": (
        lambda root: write_raster(root / "images/a.tif", VALUES.astype(np.complex64)),
        "holds complex64",
    ),
    "all nodata": (
        lambda root: [
            write_raster(root / f"images/{name}.tif", VALUES * 0, nodata=0)
            for name in ("a", "sub/b")
        ],
        "holds nothing but nodata",
    ),
    "no such band": (_meta("bands = [1, 2, 5]"), "has 4 bands, and band 5 is wanted"),
    "too many bands": (_meta(f"bands = {[1] * 65}"), "write the numbers of at most 64 bands"),
    "band 0": (_meta("bands = [0, 1, 2]"), "write the numbers of at most 64 bands"),
    "tile": (_meta("tile = 4"), "tile is 4: write the side of a tile in pixels"),
    "nodata": (_meta('nodata = "none"'), "nodata is 'none': write a number"),
    "outside": (_meta('outside = "water"'), "outside is 'water'"),
    "field": (_meta("class_field = 3"), "class_field is 3"),
    "unknown key": (_meta("tiles = 3"), r"unknown key 'tiles'"),
    "key of photos": (_meta('masks = "binary"'), "masks is not for rasters"),
    "no TOML": (_meta("tile ="), "cannot be read as TOML"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, case: str) -> None:
    spoil, said = BAD[case]
    root = folder(tmp_path)
    spoil(root)
    with pytest.raises(UserError, match=said) as error:
        source = GeoTiff(root)
        for id in source.split("train") + source.split("val"):
            source.image(id)
            if source.has_mask(id):
                source.mask(id)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["", "/images/a.tif"])
def test_rasters_without_their_scheme_are_told_it(tmp_path: Path, place: str) -> None:
    root = folder(tmp_path)
    with pytest.raises(UserError, match=f"write geotiff:{root}{place}$"):
        open_source(f"{root}{place}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("?tile=big", "tile is 'big'"),
        ("?bands=1,5", "has 4 bands, and band 5 is wanted"),
        ("?bands=" + "9" * 5000, "write the numbers of at most 64 bands"),
        ("?bands=red", "write the numbers of at most 64 bands"),
        ("?colour=1", "unknown option 'colour'"),
        ("/no", "does not exist"),
        ("/classes.txt", "is no GeoTIFF"),
    ],
)
def test_what_is_typed_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_source(f"geotiff:{folder(tmp_path)}{text}")
