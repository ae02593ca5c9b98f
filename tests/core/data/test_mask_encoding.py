"""Masks as ids, as colours and as black and white; merged, ignored and shifted classes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2pl.data.classes import bit_palette
from u2pl.data.mask_encoding import DISTANCE, Encoding
from u2pl.data.sources.folder import Folder
from u2pl.errors import UserError

MakeFolder = Callable[..., Path]

COLOURS = ((0, 0, 0), (128, 0, 0), (0, 128, 0))
BY_COLOUR = Encoding(3, "colours", COLOURS)
#: An image of three classes with straight and slanted borders.
IDS = np.zeros((40, 48), np.uint8)
IDS[5:30, 6:20] = 1
IDS[np.add.outer(range(40), range(48)) > 60] = 2


def content(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None, **more: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels, mode).save(stream, kind, **more)
    return stream.getvalue()


def painted(ids: np.ndarray, colours: tuple[tuple[int, int, int], ...] = COLOURS) -> np.ndarray:
    return np.array(colours, np.uint8)[ids]


def indexed(ids: np.ndarray, colours: list[tuple[int, int, int]]) -> bytes:
    image, stream = Image.fromarray(ids), io.BytesIO()
    image.putpalette([part for colour in colours for part in colour])
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_colours_become_ids(kind: str) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(BY_COLOUR.decode(content(painted(IDS), kind, **lossless)), IDS)


def test_transparency_palettes_and_greys_count_by_their_colours() -> None:
    opaque = np.dstack([painted(IDS), np.where(IDS == 1, 9, 255)]).astype(np.uint8)
    assert np.array_equal(BY_COLOUR.decode(content(opaque)), IDS)
    other = [COLOURS[2], COLOURS[0], COLOURS[1]]  # as programs that sort colours by frequency do
    assert np.array_equal(BY_COLOUR.decode(indexed((IDS + 1) % 3, other)), IDS)
    black = content(np.zeros((4, 6), np.uint8))  # as programs that shrink PNG files write it
    assert not BY_COLOUR.decode(black).any()
    grey = Encoding(2, "colours", ((0, 0, 0), (255, 255, 255)))
    assert grey.decode(content(np.eye(8, dtype=bool))).tolist() == np.eye(8).tolist()


@pytest.mark.parametrize("quality", [60, 75, 90, 95])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_loses_borders_and_no_more(quality: int, subsampling: int) -> None:
    big = IDS.repeat(4, 0).repeat(4, 1)
    found = BY_COLOUR.decode(
        content(painted(big), "JPEG", quality=quality, subsampling=subsampling)
    )
    kept = found != 255
    assert kept.mean() > 0.9 and (found == big)[kept].mean() > 0.9999
    assert set(np.unique(found[kept])) == {0, 1, 2}


def test_blends_at_borders_are_ignored_even_if_they_have_the_colour_of_a_class() -> None:
    # between black and 128 0 0, a blend is 64 0 0
    encoding = Encoding(3, "colours", ((0, 0, 0), (128, 0, 0), (64, 0, 0)))
    two = np.where(IDS == 1, 1, 0).astype(np.uint8)
    big = Image.fromarray(painted(two)).resize((144, 120), Image.Resampling.BILINEAR)
    found = encoding.decode(content(np.asarray(big)))
    expected = np.asarray(Image.fromarray(two).resize((144, 120), Image.Resampling.NEAREST))
    assert set(np.unique(found)) == {0, 1, 255} and 0 < (found == 255).mean() < 0.1
    assert (found == expected)[found != 255].all()


def test_exact_colours_keep_their_thinnest_lines() -> None:
    ids = np.zeros((9, 9), np.uint8)
    ids[4], ids[:, 2] = 1, 2
    assert np.array_equal(BY_COLOUR.decode(content(painted(ids))), ids)


def test_a_colour_of_no_class_is_named_with_its_share() -> None:
    pixels = painted(IDS)
    pixels[32:38, 2:10] = (224, 224, 192)
    says = (
        r"m: 2\.5 % of the pixels have the colour of no class, most of them 224 224 192: name it "
        r"in classes\.txt as 'NAME 224 224 192', and if it is no class add ignore = \[\"NAME\"\]"
    )
    with pytest.raises(UserError, match=says):
        BY_COLOUR.decode(content(pixels), "m")
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    with pytest.raises(UserError, match=r"m: 9\d\.\d % of the pixels have the colour of no class"):
        BY_COLOUR.decode(content(noise), "m")


def test_the_distance_is_the_stated_one() -> None:
    near, far = painted(IDS), painted(IDS)
    near[IDS == 1] = (128 - DISTANCE, 0, 0)
    far[IDS == 1] = (128 - DISTANCE - 1, 0, 0)
    found = BY_COLOUR.decode(content(near))
    assert (found == IDS)[found != 255].all() and (found == 1).any()
    with pytest.raises(UserError, match=f"most of them {127 - DISTANCE} 0 0"):
        BY_COLOUR.decode(content(far))


def test_ids_in_three_channels_are_ids() -> None:
    grey = np.repeat(IDS[..., None], 3, axis=2)
    assert np.array_equal(Encoding(3).decode(content(grey)), IDS)
    says = r"m holds numbers below 3, .* write masks = \"ids\" into meta\.toml"
    with pytest.raises(UserError, match=says):
        BY_COLOUR.decode(content(grey), "m")
    with pytest.raises(UserError, match=r"m is a RGB image.*add those of the classes to classes"):
        Encoding(3).decode(content(painted(IDS)), "m")
    with pytest.raises(UserError, match=r"m is a RGB image.*write masks = \"colours\""):
        Encoding(3, "ids", COLOURS).decode(content(painted(IDS)), "m")


def test_black_and_white_is_two_classes() -> None:
    binary, two = Encoding(2, "binary"), np.minimum(IDS, 1)
    soft = two * np.uint8(200)
    soft[5, 6] = 1
    for file in (
        *(content(two * np.uint8(255)), content(two), content(soft), content(two.astype(bool))),
        *(content(painted(two)), indexed(two, [(0, 0, 0), (255, 255, 255)])),
    ):
        assert np.array_equal(binary.decode(file), two)
    lossy = binary.decode(content(two * np.uint8(255), "JPEG", quality=80))
    assert (lossy == two).mean() > 0.99


def test_classes_from_one_are_shifted_and_0_is_ignored() -> None:
    ids = np.array([[0, 1, 2, 3, 255]], np.uint8)
    encoding = Encoding(3, from_one=True)
    assert encoding.decode(content(ids)).tolist() == [[255, 0, 1, 2, 255]]
    with pytest.raises(UserError, match=r"m holds ids up to 4, .* \(1 to 3, for meta\.toml says"):
        encoding.decode(content(ids + (ids == 3)), "m")


def test_classes_are_moved_after_they_are_read() -> None:
    moved = (0, 1, 1, -1)
    ids = np.array([[0, 1, 2, 3, 255]], np.uint8)
    for encoding, pixels in (
        (Encoding(4, moved=moved), ids),
        (Encoding(4, from_one=True, moved=moved), np.where(ids == 255, 0, ids + 1)),
    ):
        found = encoding.decode(content(pixels.astype(np.uint8)))
        assert found.tolist() == [[0, 1, 1, 255, 255]]


def test_ids_that_are_no_classes_come_with_the_likely_reason() -> None:
    with pytest.raises(UserError, match=r"holds ids 3, .* write reduce_zero_label = true"):
        Encoding(3).decode(content(IDS + np.uint8(1)), "m")
    with pytest.raises(UserError, match=r"holds ids 4, 9, .*: name these classes .* to 255$"):
        Encoding(3).decode(content(IDS * np.uint8(9) // np.uint8(2)), "m")
    stream = io.BytesIO(content(IDS * np.uint8(90), "JPEG", quality=75))
    damaged = content(np.asarray(Image.open(stream)))
    with pytest.raises(UserError, match=r"some lie in thin lines alone, as after lossy compress"):
        Encoding(181).decode(damaged, "m")


# -- a folder chooses ------------------------------------------------------------------------------

CLASSES = "background 0 0 0\ncat 128 0 0\ndog 0 128 0\n"


def repaint(root: Path, paint: Callable[[np.ndarray], bytes]) -> Folder:
    for mask in (root / "masks").iterdir():
        mask.write_bytes(paint(np.asarray(Image.open(mask))))
    return Folder(root)


def test_painted_masks_are_read_by_the_colours_of_the_classes(make_folder: MakeFolder) -> None:
    held = {"a": [0, 1], "b": [2, 0], "c": None}
    source = repaint(make_folder(held, CLASSES), lambda ids: content(painted(ids)))
    assert source.mask("b").tolist() == [[2, 0] * 3] * 4
    assert source.notes == (
        "the masks are painted in colours: each pixel is of the class whose colour in classes.txt "
        "is nearest",
    )
    before = source.fingerprint()
    swapped = "background 0 0 0\ncat 0 128 0\ndog 128 0 0\n"
    (source.root / "classes.txt").write_text(swapped)
    assert Folder(source.root).mask("b").tolist() == [[1, 0] * 3] * 4
    assert Folder(source.root).fingerprint() != before


def test_colours_are_for_show_where_masks_hold_ids(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0, 1], "b": [2, 0]})
    before = Folder(root).fingerprint()
    (root / "classes.txt").write_text(CLASSES)
    assert Folder(root).fingerprint() == before and not Folder(root).notes
    (root / "meta.toml").write_text('masks = "ids"\n')
    assert Folder(root).fingerprint() == before


#: Palettes of masks, whether their colours are read, and the note.
PALETTES = {
    "that of classes.txt": ([*COLOURS], False, ""),
    "another order": ([COLOURS[2], COLOURS[0], COLOURS[1]], True, "in another order: their"),
    "another order, cut": ([COLOURS[0], COLOURS[2]], True, "in another order: their colours are"),
    "another order, padded": ([COLOURS[1], COLOURS[0], *[(0, 0, 0)] * 9], True, "in another order"),
    "other colours": ([(9, 9, 9), (50, 0, 0), (0, 0, 50)], False, "has other colours than classes"),
    "VOC's": ([*map(tuple, bit_palette(256).tolist())], False, ""),
    "a ramp of greys": ([(i, i, i) for i in range(256)], False, ""),
}


@pytest.mark.parametrize("case", PALETTES)
def test_palettes_are_asked_whether_indices_are_classes(case: str, make_folder: MakeFolder) -> None:
    palette, by_colour, note = PALETTES[case]
    classes = CLASSES if case != "VOC's" else "background 0 0 0\ncat 64 0 0\ndog 64 0 128\n"
    root = make_folder({"a": [0, 1], "b": [1, 0]}, classes)
    source = repaint(root, lambda ids: indexed(ids, palette))  # type: ignore[arg-type]
    assert (source.encoding.kind == "colours") == by_colour
    assert len(source.notes) == bool(note) and all(note in each for each in source.notes)
    if by_colour:
        expected = [COLOURS.index(palette[i]) for i in (0, 1)]  # type: ignore[arg-type]
        assert source.mask("a")[0].tolist() == expected * 3
    else:
        assert source.mask("a")[0].tolist() == [0, 1] * 3
    (root / "meta.toml").write_text('masks = "ids"\n')
    assert Folder(root).mask("a")[0].tolist() == [0, 1] * 3 and not Folder(root).notes


def test_what_meta_says_is_what_masks_are_and_counts(make_folder: MakeFolder) -> None:
    two = "background\ncat\n"
    root = make_folder({"a": [0, 255], "b": [255, 0]}, two)
    prints = {Folder(root).fingerprint()}
    (root / "meta.toml").write_text('masks = "binary"\n')
    assert Folder(root).mask("a").tolist() == [[0, 1] * 3] * 4
    prints.add(Folder(root).fingerprint())
    repaint(root, lambda ids: content(ids % 2 + np.uint8(1)))
    (root / "meta.toml").write_text("reduce_zero_label = true\n")
    assert Folder(root).mask("a").tolist() == [[0, 1] * 3] * 4
    prints.add(Folder(root).fingerprint())
    assert len(prints) == 3


def test_classes_are_merged_and_ignored(make_folder: MakeFolder) -> None:
    classes = "road 9 9 9\ncar\nbus\nsky 0 0 99\nunknown\n"
    root = make_folder({"a": [0, 1, 2, 3, 4, 255], "b": [1]}, classes)
    before = Folder(root).fingerprint()
    (root / "meta.toml").write_text(
        'merge = {vehicle = ["bus", "car"]}\nignore = ["unknown"]\nthings = ["vehicle"]\n'
    )
    source = Folder(root)
    assert source.classes == ("road", "vehicle", "sky") and source.things == ("vehicle",)
    assert source.mask("a").tolist() == [[0, 1, 1, 2, 255, 255]] * 4
    assert source.palette[[0, 2]].tolist() == [[9, 9, 9], [0, 0, 99]]
    (root / "meta.toml").write_text('merge = {car = ["bus"]}\nignore = ["unknown", "road"]\n')
    other = Folder(root)
    assert other.classes == ("car", "sky")
    assert other.mask("a").tolist() == [[255, 0, 0, 1, 255, 255]] * 4
    assert len({before, source.fingerprint(), other.fingerprint()}) == 3


@pytest.mark.parametrize(
    ("meta", "classes", "message"),
    [
        ('masks = "binary"', "a\nb\nc\n", r'names 3 classes, but meta\.toml says masks = "binary"'),
        ('masks = "colours"', "a 1 2 3\nb\n", r"gives no colour of b, but meta\.toml says masks"),
        ('masks = "colours"', "a 1 2 3\nb 1 2 3\n", r"gives b and a the same colour, but meta"),
    ],
)
def test_what_cannot_be_with_these_classes_is_an_error(
    meta: str, classes: str, message: str, make_folder: MakeFolder
) -> None:
    root = make_folder({"a": [0, 1]}, classes)
    (root / "meta.toml").write_text(meta)
    with pytest.raises(UserError, match=message):
        Folder(root)


def test_painted_masks_need_a_colour_for_each_class(make_folder: MakeFolder) -> None:
    root = make_folder({"a": [0, 1]}, "a 1 2 3\nb 1 2 3\n")
    assert Folder(root).mask("a").max() == 1  # ids need none
    Image.new("RGB", (6, 4), (1, 2, 3)).save(root / "masks" / "a.png")
    with pytest.raises(UserError, match="gives b and a the same colour, and the masks are painted"):
        Folder(root)


def test_opening_decodes_nothing(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"a": [0, 1], "b": [2, 0], "c": None}
    root = make_folder(held, CLASSES)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    Folder(root).fingerprint()
