from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from harness.rasters import write_raster
from u2pl.data.geo import rasters
from u2pl.data.geo.rasters import Pixels, has_place, load_rasterio, opened, read_pixels, read_raster
from u2pl.data.geo.regions import open_raster
from u2pl.data.geo.scaling import Scaling, percentiles, unscaled
from u2pl.errors import UserError
from u2pl.notation import PADDING

RNG = np.random.default_rng(0)


def samples(kind: str) -> list[Pixels]:
    values = RNG.normal((900, 1500, 4000), (50, 300, 20), (4, 8, 8, 3)).transpose(0, 3, 1, 2)
    return [Pixels(each.astype(kind), RNG.random((8, 8)) < 0.8) for each in values]


@pytest.mark.parametrize("kind", ["uint16", "int16", "float32"])
def test_percentiles_of_all_samples_become_0_and_255(kind: str) -> None:
    seen = samples(kind)
    low, high = percentiles(seen).tolist()
    scaling = Scaling(kind=kind, bands=(3, 2, 1), low=low, high=high)
    for band in range(3):
        values = np.concatenate([each.values[band][each.valid] for each in seen]).tolist()
        values.sort()
        for found, share in ((scaling.low[band], 0.02), (scaling.high[band], 0.98)):
            place = share * (len(values) - 1)
            below = int(place)
            expected = values[below] + (place - below) * (values[below + 1] - values[below])
            assert found == pytest.approx(expected)
    colours = scaling.colours(seen[0])
    for y, x in np.ndindex(8, 8):
        for band in range(3):
            low, high = scaling.low[band], scaling.high[band]
            part = (float(seen[0].values[band, y, x]) - low) / (high - low)
            expected = int(min(max(255 * part, 0), 255) + 0.5)
            assert colours[y, x, band] == (expected if seen[0].valid[y, x] else PADDING[band])


def test_eight_bits_stay_as_they_are_and_one_value_divides_by_nothing() -> None:
    values = RNG.integers(0, 256, (3, 5, 5), np.uint8)
    everywhere = np.ones((5, 5), bool)
    found = unscaled((1, 2, 3)).colours(Pixels(values, everywhere))
    np.testing.assert_array_equal(found, values.transpose(1, 2, 0))
    same = Pixels(np.full((3, 5, 5), 7, np.uint16), everywhere)
    assert percentiles([same]).tolist() == [[7] * 3, [8] * 3]
    with pytest.raises(UserError, match="hold no data"):
        percentiles([same._replace(valid=~everywhere)])


@pytest.mark.parametrize("layout", [{}, {"tiled": None, "blockxsize": None, "blockysize": None}])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_windows_are_what_the_whole_is(tmp_path: Path, kind: str, layout: dict[str, None]) -> None:
    values = RNG.integers(0, 250, (4, 37, 53)).astype(kind)
    values[:, :9, :20] = 0
    path = write_raster(tmp_path / "a.tif", values, nodata=0, compress="deflate", **layout)
    everywhere = Pixels(values[[3, 2, 1]], (values[[3, 2, 1]] != 0).any(0))
    low, high = percentiles([everywhere]).tolist()
    scaling = Scaling(kind=kind, bands=(4, 3, 2), low=low, high=high)
    regions = open_raster(path, scaling)
    whole = regions.whole()
    assert whole.shape == (37, 53, 3) and (whole[:9, :20] == PADDING).all()
    np.testing.assert_array_equal(
        whole, scaling.colours(Pixels(values[[3, 2, 1]], everywhere.valid))
    )
    for left, top, right, bottom in [(0, 0, 16, 16), (5, 3, 53, 37), (52, 36, 53, 37)]:
        np.testing.assert_array_equal(
            regions.read(left, top, right, bottom), whole[top:bottom, left:right]
        )
    np.testing.assert_array_equal(regions.valid_rows(4, 30), everywhere.valid[4:30])


def test_what_holds_no_data_is_found_by_value_alpha_or_not_finite(tmp_path: Path) -> None:
    values = RNG.integers(1, 250, (4, 20, 20), np.uint8)
    values[0, 0, 0] = values[:3, 1, 1] = 9  # in one band alone it is a value like any other
    path = write_raster(tmp_path / "a.tif", values, nodata=9)
    alpha = values.copy()
    alpha[3] = 255
    alpha[3, 5] = 0
    see_through = write_raster(tmp_path / "b.tif", alpha, photometric="rgb", alpha="yes")
    floats = values.astype(np.float32)
    floats[1, 2, 2] = np.nan
    for file, band, nodata, expected in (
        (path, 3, None, [(1, 1)]),
        (path, 3, 250.0, []),
        (see_through, 3, None, [(5, x) for x in range(20)]),
        (write_raster(tmp_path / "c.tif", floats), 3, None, [(2, 2)]),
    ):
        with opened(file) as found:
            valid = read_pixels(found, range(1, band + 1), (0, 0, 20, 20), nodata).valid
        assert [tuple(each) for each in np.argwhere(~valid).tolist()] == expected


def test_a_card_with_a_scaling_that_makes_no_sense_is_refused() -> None:
    whole = unscaled((1, 2, 3)).model_dump()
    for wrong in (
        {"bands": (0, 1, 2)},
        {"bands": (1, 2, 3, 4)},
        {"bands": (), "low": (), "high": ()},
        {"low": (0, 255, 0)},
        {"nodata": float("nan")},
    ):
        with pytest.raises(ValidationError):
            Scaling.model_validate({**whole, **wrong})


def test_a_raster_that_is_no_such_is_refused(tmp_path: Path) -> None:
    scaling = unscaled((1, 2, 4))
    three = read_raster(write_raster(tmp_path / "a.tif", np.zeros((3, 4, 4), np.uint8)))
    with pytest.raises(UserError, match="has 3 bands, and band 4 is wanted"):
        scaling.check(three)
    deep = read_raster(write_raster(tmp_path / "b.tif", np.zeros((4, 4, 4), np.uint16)))
    with pytest.raises(UserError, match="holds uint16, and the others that were trained on uint8"):
        scaling.check(deep)
    with pytest.raises(UserError, match="trained on photos of 8 bits"):
        open_raster(deep.path, None)


def test_whether_a_file_says_where_it_lies_is_in_its_header(tmp_path: Path) -> None:
    values = np.zeros((4, 20, 20), np.uint16)  # Pillow has no word for these
    found = {
        "deep": write_raster(tmp_path / "a.tif", values),
        "big": write_raster(tmp_path / "b.tif", values, BIGTIFF="yes", ENDIANNESS="big"),
        "grey": write_raster(tmp_path / "c.TIFF", values[0].astype(np.uint8)),
        "nowhere": write_raster(tmp_path / "d.tif", values, crs=None, transform=None),
        "plain": tmp_path / "e.tif",
        "renamed": tmp_path / "f.png",
        "cut": tmp_path / "g.tif",
        "other": tmp_path / "h.tif",
        "missing": tmp_path / "i.tif",
    }
    Image.new("RGB", (4, 4)).save(found["plain"])
    found["renamed"].write_bytes(found["grey"].read_bytes())
    found["cut"].write_bytes(found["deep"].read_bytes()[:100])
    found["other"].write_text("text")
    says = [name for name, path in found.items() if has_place(path)]
    assert says == ["deep", "big", "grey"]


def test_without_rasterio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, said in (("rasterio", "which is not installed"), ("affine", "and affine is not")):

        def missing(module: str, name: str = name) -> None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr(rasters, "import_module", missing)
        with pytest.raises(UserError, match=rf"rasterio, {said}.*: uv sync --extra geo$"):
            load_rasterio()
