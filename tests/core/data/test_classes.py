from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from u2pl.data.classes import (
    bit_palette,
    class_lines,
    clear_palette,
    listed,
    read_class_file,
    read_classes,
    read_labelmap,
)
from u2pl.errors import UserError


def test_palette_is_vocs() -> None:
    palette = bit_palette(256)
    assert palette[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert palette[[15, 20, 255]].tolist() == [[192, 128, 128], [0, 64, 128], [224, 224, 192]]
    assert len({tuple(colour) for colour in palette.tolist()}) == 256


@pytest.mark.parametrize(
    "name", ["cat", "traffic light", "lane 1 2 3", "a,b", "a;1,2,3", "9", "two  blanks", "comma,"]
)
def test_lines_of_classes_are_read_as_they_were(name: str, tmp_path: Path) -> None:
    """Colours too, unless the name would become another one."""
    file, names = tmp_path / "classes.txt", ("sky", name)
    file.write_text(class_lines(names, bit_palette(2)))
    found = read_class_file(file)
    assert found.names == names and found.coloured[0]
    assert found.coloured[1] == (name not in ("two  blanks", "comma,"))
    assert not found.coloured[1] or found.palette.tolist() == bit_palette(2).tolist()


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "c0"), (12, "c10, c11"), (13, "c9 and 3 more"), (150, "c9 and 140 more")],
)
def test_of_many_classes_the_first_are_named(count: int, words: str) -> None:
    text = listed([f"c{number}" for number in range(count)])
    assert text.startswith("c0") and text.endswith(words)


def test_colours_of_ones_own_classes_are_clear() -> None:
    names = ["background", *map(str, range(1, 20))]
    palette = clear_palette(names).astype(int)
    assert palette[0].max() < 48
    for one, other in combinations(palette.tolist(), 2):
        assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 40
    # no class is grey: the highest and the lowest part of its colour differ widely
    assert (palette[1:].max(1) - palette[1:].min(1)).min() > 120
    assert (
        len({tuple(colour) for colour in clear_palette(list(map(str, range(255)))).tolist()}) > 250
    )
    assert clear_palette(["road", "sky"])[0].max() > 100  # a class like others


def test_names_with_spaces_and_colours(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(
        "road\ntraffic light 250 170 30\nlevel\t2\nblue  sky #0a0BFF\n\n"
    )
    names, palette = read_classes(tmp_path / "c.txt")
    assert names == ("road", "traffic light", "level 2", "blue sky")
    assert palette[[1, 3]].tolist() == [[250, 170, 30], [10, 11, 255]]


@pytest.mark.parametrize(
    ("text", "names", "coloured"),
    [
        ("road 1 2 3\nsky\n", ("road", "sky"), (True, False)),
        ("road,1,2,3\nblue sky, 4, 5, 6\n", ("road", "blue sky"), (True, True)),
        ("road;1;2;3\nsky\t4\t5\t6\n", ("road", "sky"), (True, True)),
        ("a,b\nc 12 13\n", ("a,b", "c 12 13"), (False, False)),
        ("road #0a0B0c\nsky,#010203\n", ("road", "sky"), (True, True)),
        ("road #0a0b\n#010203\n", ("road #0a0b", "#010203"), (False, False)),
    ],
)
def test_which_colours_are_given_is_known(
    tmp_path: Path, text: str, names: tuple[str, ...], coloured: tuple[bool, ...]
) -> None:
    (tmp_path / "c.txt").write_text(text)
    found = read_class_file(tmp_path / "c.txt")
    assert (found.names, found.coloured, found.note) == (names, coloured, "")


def test_labelmes_first_line_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("__ignore__\n_background_\ndisc\n")
    found = read_class_file(tmp_path / "c.txt")
    assert found.names == ("_background_", "disc")
    assert found.note == "c.txt begins with __ignore__, as labelme writes it: line 2 is id 0"
    (tmp_path / "c.txt").write_text("__ignore__\n_background_\n\ndisc\n")
    with pytest.raises(UserError, match="line 3 is blank"):
        read_class_file(tmp_path / "c.txt")


def test_the_labelmap_of_cvat_is_read(tmp_path: Path) -> None:
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n\nhot dog:250, 50,83::\ncat:::\n"
    (tmp_path / "labelmap.txt").write_text(text)
    found = read_labelmap(tmp_path / "labelmap.txt")
    assert found.names == ("background", "hot dog", "cat")
    assert found.palette[:2].tolist() == [[0, 0, 0], [250, 50, 83]]
    assert found.coloured == (True, True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names 0 classes"),
        ("a:1,2,3::\n", "names 1 classes"),
        ("# x\na\nb:::\n", "line 2 is 'a': write 'name:r,g,b::', as CVAT does, or a classes.txt"),
        ("a:1,2::\nb:::\n", "line 1 is 'a:1,2::': write"),
        ("a:red::\nb:::\n", "line 1 is 'a:red::': write"),
        (":1,2,3::\nb:::\n", "line 1 is ':1,2,3::': write"),
        ("a:1,2,-3::\nb:::\n", "line 1 is 'a:1,2,-3::': write"),
        ("a:1,2,256::\nb:::\n", r"line 1: colour \[1, 2, 256\] must be three numbers"),
        ("a:1,2,3::\na:::\n", "names a more than once"),
        ("\xe9:1,2,3::\n", "cannot be read as a text file"),
    ],
)
def test_wrong_labelmaps_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labelmap.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as caught:
        read_labelmap(tmp_path / "labelmap.txt")
    assert "labelmap.txt" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names 0 classes"),
        ("a\n", "names 1 classes"),
        ("\n".join(map(str, range(256))), "names 256 classes"),
        ("a\n\nb\n", "line 2 is blank"),
        ("a\nb\na\n", "names a more than once"),
        ("a\n\x1b[31mred\x1b[0m\n", r"line 2 holds a control character: '\\x1b\[31mred"),
        ("a\x00\nb\n", "line 1 holds a control character"),
        ("a\nb 1 2 300\n", r"line 2: colour \[1, 2, 300\]"),
    ],
)
def test_wrong_class_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_classes(tmp_path / "c.txt")


def test_missing_class_file_says_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"c\.txt does not exist: write it, one class name per line"
    ):
        read_classes(tmp_path / "c.txt")
