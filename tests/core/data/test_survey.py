from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from u2pl.data.sources.folder import Folder
from u2pl.data.survey import survey

MakeFolder = Callable[..., Path]


def test_pixels_images_sizes_and_absent_classes_are_counted(make_folder: MakeFolder) -> None:
    source = Folder(make_folder({"a": [0, 1], "b": [0, 255], "c": None}))
    found = survey(source, ["a", "b", "c"])
    assert (found.looked_at, found.masked, found.ignored, found.absent, found.problems) == (
        3,
        2,
        12,
        ("dog",),
        (),
    )
    assert found.pixels.tolist() == [24, 12, 0]
    assert found.images.tolist() == [2, 1, 0]
    assert dict(found.sizes) == {(6, 4): 3}


def test_problems_are_collected(make_folder: MakeFolder) -> None:
    source = Folder(make_folder({"a": [0, 9], "b": [1], "c": [1], "d": None}))
    source.images["c"].write_bytes(b"")
    Image.new("L", (9, 9)).save(source.masks["b"])
    found = survey(source, list("abcd"))
    assert [line.split("photos/")[1].split()[0] for line in found.problems] == [
        "masks/a.png",
        "masks/b.png",
        "images/c.png",
    ]
    assert (found.looked_at, found.masked) == (4, 0)


def test_limit_spreads_over_the_ids(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Folder(make_folder({f"i{n}": [0] for n in range(10)}))
    seen: list[str] = []
    read = source.image
    monkeypatch.setattr(source, "image", lambda id: seen.append(id) or read(id))
    assert survey(source, [f"i{n}" for n in range(10)], limit=3).looked_at == 3
    assert seen == ["i0", "i3", "i6"]


def test_black_and_white_masks_are_recognised(make_folder: MakeFolder) -> None:
    (problem,) = survey(Folder(make_folder({"a": [0, 255]})), ["a"]).problems
    assert problem == (
        "the masks of photos hold only 0 and 255, and 255 means ignore: write the class's id "
        "instead of 255"
    )
