from __future__ import annotations

from pathlib import Path

import pytest

from u2pl.data.ids import check_ids, few, hold_out, match_id, read_lines
from u2pl.errors import UserError

KNOWN = {"a", "b.v2", "my photo 1", "city/a", "caf\u00e9", "back\\slash"}


@pytest.mark.parametrize(
    ("line", "id"),
    [
        ("a", "a"),
        ("a.jpg", "a"),
        ("b.v2", "b.v2"),
        ("my photo 1", "my photo 1"),
        ("my photo 1.JPG", "my photo 1"),
        ("JPEGImages/a.jpg SegmentationClass/a.png", "a"),
        ("images/city/a.png\tmasks/city/a.png", "city/a"),
        ("city/a_left.png", "city/a"),
        ("c", None),
        ("a b", "a"),
        ("city\\a", "city/a"),
        ("images\\city\\a.jpg", "city/a"),
        ("cafe\u0301.jpg", "caf\u00e9"),
        ("back\\slash", "back\\slash"),
        ("a.jfif", "a"),
    ],
)
def test_lines_of_several_kinds_name_an_id(line: str, id: str | None) -> None:
    assert match_id(line, KNOWN, "_left") == id


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "list is empty"),
        (["a", "../secret"], r"leads out of the data folder: '../secret' \(1\)"),
        (["x/../../a"], "leads out"),
        (["..\\a"], "leads out"),
        (["/etc/passwd"], "leads out"),
        (["C:\\a"], "leads out"),
        (["p", "a", "q", "r", "s"], r"not there: 'p', 'q', 'r', … \(4\) of 5"),
        (["a", "city/a", "a.jpg"], r"more than once: 'a' \(1\)"),
    ],
)
def test_wrong_lists_are_named(lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_ids(lines, KNOWN, "list")


def test_order_is_kept() -> None:
    assert check_ids(["city/a", "a"], KNOWN, "list") == ["city/a", "a"]


def test_lines_are_stripped_and_blank_ones_dropped(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbfa \r\n\r\n b\r\n\r\n")
    assert read_lines(tmp_path / "l.txt") == ["a", "b"]
    assert read_lines(tmp_path / "l.txt", keep_blank=True) == ["a", "", "b"]
    (tmp_path / "l.txt").write_text("a\n" + "b" * 1_000_000)
    with pytest.raises(UserError, match=r"l\.txt, line 2 has 1000000 characters: write one entry"):
        read_lines(tmp_path / "l.txt")
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"l\.txt cannot be read as a text file"):
        read_lines(tmp_path / "l.txt")


def test_hold_out_is_a_fifth_whatever_the_order() -> None:
    ids = [f"{i}" for i in range(21)]
    held = hold_out(ids, ids)
    assert len(held) == 5
    assert hold_out(ids, ids[::-1]) == held
    assert hold_out(["a", "b"], ["b"]) == ["b"]
    assert hold_out(["a"], ["a"]) == []
    more = [*ids, *"wxyz"]
    assert len(hold_out(more, more)) == 5
    assert set(hold_out(more, more)) - set("wxyz") <= set(
        held
    )  # a newcomer may take a place, nothing else moves


def test_a_few_are_spread_evenly() -> None:
    assert few("abcdefghij", 3) == ["a", "d", "g"]
    assert few("ab", 3) == ["a", "b"] and few("", 3) == []


@pytest.mark.parametrize("inside", ["\u2028", "\x0b", "\x0c", "\x1c", "\x85"])
def test_lines_end_where_editors_end_them(tmp_path: Path, inside: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(f"a{inside}b\r\nc\rd\n".encode())
    assert read_lines(path) == [f"a{inside}b", "c", "d"]
