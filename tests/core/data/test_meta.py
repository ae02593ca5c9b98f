from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from u2pl.data.meta import Meta, read_meta
from u2pl.data.sources.folder import Folder
from u2pl.errors import UserError

CLASSES = ("road", "car", "person")


def test_a_folder_without_it_has_nothing_to_say(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = Folder(make_folder({"a": [0, 1]}))
    assert (source.things, source.void_rows, dict(source.subsets)) == ((), (0.0, 0.0), {})
    assert read_meta(tmp_path / "meta.toml", CLASSES) == Meta((), (0.0, 0.0))


def test_it_is_read_and_leaves_the_fingerprint_alone(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"a": [0, 1]})
    before = Folder(root).fingerprint()
    (root / "meta.toml").write_text(
        'things = ["dog", "cat", "dog"]\nvoid_top = 0.03\nvoid_bottom = 0.2\n'
    )
    source = Folder(root)
    assert (source.things, source.void_rows) == (("dog", "cat"), (0.03, 0.2))
    assert source.fingerprint() == before


def test_parts_may_be_left_out_and_shares_be_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "meta.toml").write_text("void_top = 0\n")
    assert read_meta(tmp_path / "meta.toml", CLASSES) == Meta()
    (tmp_path / "meta.toml").write_bytes("\ufeffvoid_bottom = 0.5".encode())
    assert read_meta(tmp_path / "meta.toml", CLASSES) == Meta((), (0.0, 0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"things = [", r"cannot be read as TOML \(.*\): write lines such as"),
        (b"things = ['\xff']", "cannot be read as TOML"),
        (b"void_rows = 1", "unknown key 'void_rows': it may hold things, void_top and void_bottom"),
        (b"things = 'car'", "things must be a list of class names"),
        (b"things = [1]", "things must be a list of class names"),
        (b"things = ['car', 'cart']", r"classes that classes\.txt does not have: 'cart' \(1\)"),
        (
            b"void_top = 1.0",
            r"void_top is 1\.0: write a share of the image's height, from 0 to below 1",
        ),
        (b"void_bottom = -0.1", r"void_bottom is -0\.1"),
        (b"void_bottom = nan", "void_bottom is nan"),
        (b"void_top = true", "void_top is True"),
        (b"void_top = '3%'", "void_top is '3%'"),
        (
            b"void_top = 0.5\nvoid_bottom = 0.5",
            r"void_top 0\.5 and void_bottom 0\.5 leave nothing of the image",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "meta.toml").write_bytes(text)
    with pytest.raises(UserError, match=message) as error:
        read_meta(tmp_path / "meta.toml", CLASSES)
    assert "\n" not in str(error.value) and "meta.toml" in str(error.value)
