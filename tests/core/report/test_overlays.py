from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from u2pl.data.classes import IGNORE_COLOUR
from u2pl.errors import UserError
from u2pl.report.overlays import (
    colour_key,
    colour_mask,
    overlay,
    write_ids,
    write_picture,
)

PALETTE = np.array([[0, 0, 0], [200, 40, 40], [40, 90, 220]], np.uint8)
IDS = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 255]], np.uint8)


def test_colour_mask_paints_each_class_and_what_is_ignored():
    colours = colour_mask(IDS, PALETTE)
    for y, x in np.ndindex(IDS.shape):
        assert tuple(colours[y, x]) == (
            IGNORE_COLOUR if IDS[y, x] == 255 else tuple(PALETTE[IDS[y, x]])
        )


def test_overlay_blends_inside_and_lines_borders():
    image = np.full((4, 4, 3), 100, np.uint8)
    mixed = overlay(image, IDS, PALETTE, alpha=0.25)
    assert mixed.dtype == np.uint8
    assert mixed[0, 0].tolist() == [75, 75, 75] and mixed[0, 3].tolist() == [125, 85, 85]
    assert mixed[0, 2].tolist() == [200, 40, 40] and mixed[3, 0].tolist() == [40, 90, 220]


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_background_stays_as_it_is_and_lines_are_seen_on_any_photo(grey):
    image = np.full((4, 4, 3), grey, np.uint8)
    drawn = overlay(image, IDS, PALETTE, background=True)
    assert drawn[0, 0].tolist() == [grey] * 3
    # a white line and one in the class's colour, of which at least one stands out
    assert drawn[0, 1].tolist() == [255] * 3 and drawn[0, 2].tolist() == [200, 40, 40]
    assert drawn[0, 3].tolist() == overlay(image, IDS, PALETTE)[0, 3].tolist()


def test_the_key_names_every_class_beside_its_colour():
    names = [f"class {i}" for i in range(90)]
    palette = np.array([[i, 255 - i, i // 2] for i in range(90)], np.uint8)
    sheet = colour_key(names, palette)
    found = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert all(tuple(colour) in found for colour in palette.tolist())
    assert sheet.shape[1] > 2 * colour_key(names[:40], palette).shape[1]


def test_ids_survive_the_palette_png(tmp_path):
    write_ids(IDS.astype(np.int64), PALETTE, tmp_path / "sub" / "ids.png")
    image = Image.open(tmp_path / "sub" / "ids.png")
    assert image.mode == "P"
    np.testing.assert_array_equal(np.array(image), IDS)
    np.testing.assert_array_equal(np.array(image.convert("RGB")), colour_mask(IDS, PALETTE))


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    write_picture(np.zeros((2, 2, 3), np.uint8), path)
    before = path.read_bytes()

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_picture(np.ones((2, 2, 3), np.uint8), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
