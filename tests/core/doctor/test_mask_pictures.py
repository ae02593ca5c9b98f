"""A picture of some masks over their images."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from u2pl.data.opening import open_source
from u2pl.doctor.findings import Diagnosis
from u2pl.doctor.mask_pictures import draw_masks, shares
from u2pl.run.task import Part


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("U2PL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def drawn(root: Path, *ids: str) -> str:
    """What is said of a part."""
    source, said = open_source(str(root)), io.StringIO()
    part = Part("labelled", str(root), source, "train", list(ids), masked=True)
    draw_masks([part], Diagnosis(Console(file=said, width=300)))
    return said.getvalue()


def test_the_picture_shows_each_mask_over_its_image(
    make_folder: Callable[..., Path], cache: Path
) -> None:
    root = make_folder({"a": [1], "b": None, "c": [0]}, classes="background\ncat 200 0 0\ndog\n")
    said = drawn(root, "a", "b", "c")
    (file,) = cache.iterdir()
    assert said == f"look at 2 of 2 masks over their images: {file}\n"
    assert file.name.startswith("doctor-photos-") and file.suffix == ".png"
    shown = np.asarray(Image.open(file)).reshape(-1, 3)
    assert [105, 5, 5] in shown.tolist()  # half of the photo's 10, half of the class's 200
    assert [12, 12, 12] in shown.tolist()
    drawn(root, "a")
    assert len(list(cache.iterdir())) == 1  # the same data are drawn over it


def test_broken_masks_are_left_out(make_folder: Callable[..., Path], cache: Path) -> None:
    root = make_folder({"a": [1], "b": [7], "c": [0]})
    assert drawn(root, "a", "b", "c").startswith("look at 2 of 3 masks over their images: ")
    assert drawn(root, "b") == ""


def test_nothing_is_said_without_masks_or_a_place(
    make_folder: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"a": [1], "b": None})
    assert drawn(root, "b") == "" and not cache.exists()
    cache.write_text("no folder")
    assert drawn(root, "a").startswith("note: no masks are drawn over their images: cannot make")
    monkeypatch.setenv("U2PL_CACHE", "~nobody-of-this-name/cache")
    assert drawn(root, "a") == ""


def test_parts_are_shown_alike_as_far_as_they_have_masks() -> None:
    assert shares([30, 400], 12) == [6, 6]
    assert shares([2, 400], 12) == [2, 10]
    assert shares([2, 3], 12) == [2, 3]
    assert shares([0, 5, 5], 5) == [0, 3, 2]
    assert shares([], 12) == []
