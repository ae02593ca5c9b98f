"""A photo that EXIF turns lies as its mask was drawn; without a sign, as viewers show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from u2pl.data.content import count_turned, photo_notes
from u2pl.data.orientation import Facing
from u2pl.data.reading import read_facing, read_rgb, read_size
from u2pl.data.sources.folder import Folder
from u2pl.errors import UserError

MakeFolder = Callable[..., Path]

#: What was seen when the photo was taken: 6x4 pixels, all different.
SEEN = np.arange(72, dtype=np.uint8).reshape(4, 6, 3) * 3
#: What a camera stores for each value of the tag, from what was seen.
STORED = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.swapaxes(0, 1),
    6: lambda seen: np.rot90(seen, 1),
    7: lambda seen: seen[::-1, ::-1].swapaxes(0, 1),
    8: lambda seen: np.rot90(seen, -1),
}
KINDS = ("png", "tif", "webp")


def shoot(file: Path, tag: int, seen: np.ndarray = SEEN) -> np.ndarray:
    """Store a photo without loss; returns the pixels as stored."""
    stored = np.ascontiguousarray(STORED[tag](seen))
    exif = Image.Exif()
    exif[0x0112] = tag
    more = {"lossless": True} if file.suffix == ".webp" else {}
    Image.fromarray(stored).save(file, exif=exif, **more)
    return stored


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tag", STORED)
def test_photos_are_turned_as_viewers_do_or_stay_as_they_are_stored(
    tag: int, kind: str, tmp_path: Path
) -> None:
    file = tmp_path / f"a.{kind}"
    stored = shoot(file, tag)
    assert np.array_equal(read_rgb(file), SEEN)
    assert np.array_equal(read_rgb(file, upright=False), stored)
    assert np.array_equal(ImageOps.exif_transpose(Image.open(file)).convert("RGB"), SEEN)
    assert read_facing(file)[:2] == (tag, stored.shape[1::-1])
    assert read_facing(file).upright == (6, 4)
    assert count_turned([file, tmp_path / "gone.jpg"]) == (tag != 1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_headers_are_no_reason_to_refuse_a_photo(tmp_path: Path) -> None:
    stored = shoot(tmp_path / "a.png", 6)
    damaged = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 20
    Image.fromarray(stored).save(tmp_path / "b.png", exif=damaged)
    assert np.array_equal(read_rgb(tmp_path / "b.png"), stored)
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.fromarray(stored).save(tmp_path / "c.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "c.png"), stored)


def test_the_size_of_the_mask_tells_if_it_can() -> None:
    turned, flipped, square = Facing(6, (4, 6)), Facing(3, (6, 4)), Facing(8, (5, 5))
    assert turned.drawn_upright((6, 4), "stored") and not turned.drawn_upright((4, 6), "upright")
    for rule in ("upright", "stored"):
        unclear = [(turned, None), (turned, (9, 9)), (flipped, (6, 4)), (square, (5, 5))]
        assert all(
            facing.drawn_upright(mask, rule) == (rule == "upright") for facing, mask in unclear
        )


@pytest.fixture
def turned(make_folder: MakeFolder) -> Path:
    """Photos `up` and `down` whose masks were drawn upright and on the stored pixels; `half` turned
    by 180 degrees; `free` without a mask; `plain` not turned."""
    root = make_folder({name: [0, 1] for name in ("up", "down", "half", "free", "plain")})
    (root / "masks" / "free.png").unlink()
    for name, tag in (("up", 6), ("down", 8), ("half", 3), ("free", 6)):
        shoot(root / "images" / f"{name}.png", tag)
    Image.fromarray(np.resize(np.array([0, 1], np.uint8), (6, 4))).save(root / "masks" / "down.png")
    return root


@pytest.mark.parametrize("rule", ["upright", "stored"])
def test_photos_of_a_folder_lie_as_their_masks(turned: Path, rule: str) -> None:
    before = Folder(turned).fingerprint()
    if rule == "stored":
        (turned / "meta.toml").write_text('exif = "stored"\n')
    source = Folder(turned)
    assert (source.fingerprint() == before) == (rule == "upright")
    for id in source.masks:
        assert source.mask(id).shape == source.image(id).size[::-1]
    assert np.array_equal(source.image("up"), SEEN)
    assert np.array_equal(source.image("down"), STORED[8](SEEN))
    for id, tag in (("half", 3), ("free", 6)):
        expected = SEEN if rule == "upright" else STORED[tag](SEEN)
        assert np.array_equal(source.image(id), expected)
    (note,) = photo_notes(source, sorted(source.ids()))
    way, switch = (
        ("upright", 'exif = "stored" in meta.toml reads such photos as they are stored')
        if rule == "upright"
        else ("as they are stored", "without exif in meta.toml such photos are read upright")
    )
    assert note == (
        "EXIF turns 4 of 5 photos looked at: 1 are read upright and 1 are read as they are stored, "
        f"as their masks' sizes tell; 2 are read {way}, where no mask's size tells ({switch})"
    )


def test_masks_that_fit_neither_way_are_named(turned: Path) -> None:
    source = Folder(turned)
    Image.new("L", (3, 3)).save(source.masks["up"])
    assert np.array_equal(source.image("up"), SEEN)
    with pytest.raises(UserError, match=r"up\.png is 3x3, but its image .*up\.png is 4x6: make"):
        source.mask("up")
    source.masks["up"].write_bytes(b"")
    assert np.array_equal(source.image("up"), SEEN)


def test_looking_at_a_header_decodes_nothing(turned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert read_facing(turned / "images" / "plain.png") == Facing(1, (6, 4))
    assert read_size(turned / "images" / "up.png") == (4, 6)
