from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from u2pl import files
from u2pl.errors import UserError
from u2pl.files import (
    expanded,
    in_memory,
    make_folder,
    new_folder,
    parse_json,
    parse_toml,
    plain,
    replace_file,
    replace_folder,
    whole_folder,
    write_json,
    write_text,
)


def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fails(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(
        UserError, match=r"cannot write .*file: No space left on device; free some space"
    ):
        replace_file(path, fails)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(file: BinaryIO) -> None:
        assert path.read_text() == "old"
        file.write(b"new")

    replace_file(path, write)
    assert path.read_text() == "new"
    write_text(path, lambda file: file.write("größer\n"))
    assert path.read_bytes() == in_memory("größer\n".encode())
    assert in_memory(lambda file: file.write(b"new")) == in_memory(b"new") == b"new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_rights_are_what_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "file", {})
        replace_folder(tmp_path / "last", {"a": b"new"})
    finally:
        os.umask(before)
    for path in (tmp_path / "file", tmp_path / "last" / "a"):
        assert path.stat().st_mode & 0o777 == mode


def test_nothing_is_written_through_a_link_that_lies_where_a_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("dear")
    names = iter(["00000000", "11111111"])
    monkeypatch.setattr("secrets.token_hex", lambda _: next(names))
    (tmp_path / ".file.00000000.part").symlink_to(mine)
    with pytest.raises(UserError, match=r"cannot write .*file: File exists"):
        replace_file(tmp_path / "file", b"new")
    replace_file(tmp_path / "file", b"new")
    assert mine.read_text() == "dear" and (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "file").is_symlink()


#: Writes half a file, says so, and waits to be killed.
HALF = """
import sys, time
from pathlib import Path
from u2pl.files import replace_file

def half(file):
    file.write(b"half")
    file.flush()
    print(flush=True)
    time.sleep(60)

replace_file(Path(sys.argv[1]), half)
"""


def test_what_a_kill_has_left_is_removed_by_the_next_process_and_nothing_else(
    tmp_path: Path,
) -> None:
    """Not what others write at the moment, nor what only looks alike."""

    def parts() -> list[str]:
        return sorted(path.name for path in tmp_path.glob(".*.part"))

    killed = subprocess.Popen(
        [sys.executable, "-c", HALF, str(tmp_path / "file")], stdout=subprocess.PIPE
    )
    assert killed.stdout is not None
    with killed:
        killed.stdout.readline()
        files._tidy.cache_clear()
        replace_file(tmp_path / "file", b"old")
        (alive,) = parts()
        assert (tmp_path / alive).read_bytes() == b"half"
        killed.kill()
    for name in (".of somebody.part", "of somebody.01234567.part", ".a.0123456X.part"):
        (tmp_path / name).write_text("dear")
    (tmp_path / ".linked.01234567.part").symlink_to(tmp_path / "file")
    files._tidy.cache_clear()  # as the next process would begin
    write_json(tmp_path / "another", {})
    assert parts() == [".a.0123456X.part", ".linked.01234567.part", ".of somebody.part"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_what_was_taken_for_abandoned_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []

    def late(file: int) -> bool:
        if not taken:
            taken.extend(tmp_path.glob(".*.part"))
            taken[0].unlink()
        return True

    monkeypatch.setattr(files, "lock", late)
    replace_file(tmp_path / "file", b"new")
    assert len(taken) == 1 and list(tmp_path.iterdir()) == [tmp_path / "file"]
    assert (tmp_path / "file").read_bytes() == b"new"


FILLING = """
import sys, time
from pathlib import Path
from u2pl.files import new_folder

with new_folder(Path(sys.argv[1])) as part:
    (part / "half").write_text("1")
    print(flush=True)
    time.sleep(60)
"""


def test_a_new_folder_is_there_when_it_is_filled_and_not_before(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with new_folder(folder) as part:
        (part / "a").write_text("1")
        assert part.parent == tmp_path and not folder.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "a"]
    with pytest.raises(OSError), new_folder(folder) as part:  # it is there
        (part / "b").write_text("2")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "other"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "a"]


def test_what_a_kill_has_left_of_a_folder_goes_and_what_is_being_filled_stays(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "a[1]"  # whose name is a pattern
    killed = subprocess.Popen([sys.executable, "-c", FILLING, str(folder)], stdout=subprocess.PIPE)
    assert killed.stdout is not None
    with killed:
        killed.stdout.readline()
        with new_folder(folder) as part:
            (part / "whole").touch()
        (other,) = (path for path in tmp_path.iterdir() if path.is_dir() and path != folder)
        assert (other / "half").exists()
        killed.kill()
    shutil.rmtree(folder)
    for name in (".a[1].of me.part.d", ".b.01234567.part.d"):
        (tmp_path / name).mkdir()
    with new_folder(folder) as part:
        (part / "whole").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".a[1].of me.part.d", ".b.01234567.part.d", "a[1]"
    ]  # fmt: skip


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere"
)
def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        write_json(tmp_path / "file.json", {})


@pytest.mark.parametrize("parse", [parse_json, parse_toml])
def test_what_cannot_be_parsed_is_a_value_error(parse: Callable[[str], object]) -> None:
    for text in ("{", "\0", "a = " + "[" * 100_000, "[" * 100_000):
        with pytest.raises(ValueError, match=r"."):
            parse(text)


def test_of_two_values_of_a_key_none_is_lost() -> None:
    assert parse_json('{"a": {"b": 1}, "b": [{"a": 2}]}') == {"a": {"b": 1}, "b": [{"a": 2}]}
    for text in ('{"a": 1, "b": 2, "a": 3}', '[{"b": {"a": 1, "a": 1}}]'):
        with pytest.raises(ValueError, match="it has the key 'a' twice"):
            parse_json(text)


def test_json_has_no_word_for_nan(tmp_path: Path) -> None:
    value = {"a": float("nan"), "b": (1, float("inf")), 3: {"c": 0.5}}
    assert plain(value) == {"a": None, "b": [1, None], "3": {"c": 0.5}}
    write_json(tmp_path / "file.json", value)
    assert json.loads((tmp_path / "file.json").read_text()) == plain(value)


def test_folders_are_made_with_those_around_them(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the folder .*file/b: .*; choose another one"):
        make_folder(tmp_path / "file" / "b")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


OLD, NEW = {"a": b"old", "b": b"old"}, {"a": b"new", "c": b"new"}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "last"
    for wanted in (OLD, NEW):
        replace_folder(folder, wanted)
        assert content(folder) == wanted and whole_folder(folder) == folder
        assert list(folder.parent.iterdir()) == [folder]


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "last"
    replace_folder(folder, OLD)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="last: No space left on device; what was there is unch"):
        replace_folder(folder, NEW)
    assert content(folder) == OLD and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(("renames", "whole"), [(0, OLD), (1, OLD), (2, NEW)])
def test_one_of_both_is_whole_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int, whole: dict[str, bytes]
) -> None:
    """Killed before its first or second rename, or before the old folder is removed."""
    folder = tmp_path / "last"
    replace_folder(folder, OLD)
    rename, done = Path.rename, 0

    def counted(self: Path, target: Path) -> Path:
        nonlocal done
        if done == renames:
            raise KeyboardInterrupt
        done += 1
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", counted)
        replace_folder(folder, NEW)
        raise KeyboardInterrupt
    assert content(whole_folder(folder)) == whole
    replace_folder(folder, {"d": b"newest"})
    assert content(folder) == {"d": b"newest"} and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("~nobody-of-this-name/photos", "there is no such user on this machine"),
        ("a" * 5000, "File name too long"),
        ("a\0b", r"'a\\x00b' cannot be the name of a file"),
        ("a\udcff", r"cannot be the name of a file .*: rename it, or set PYTHONUTF8=1"),
    ],
)
def test_what_no_file_system_takes_is_one_line(typed: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        expanded(typed)


def test_links_in_a_circle_are_one_line_and_what_is_missing_is_none(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="loop/images: Too many levels of symbolic links"):
        expanded(tmp_path / "loop" / "images")
    assert expanded(tmp_path / "missing" / "x") == tmp_path / "missing" / "x"
    assert expanded("~/x") == Path.home() / "x"


@pytest.mark.parametrize("role", ["new", "old"])
def test_a_link_that_lies_where_a_folder_is_made_is_removed_and_not_followed(
    tmp_path: Path, role: str
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter").write_text("dear")
    folder = tmp_path / "run" / "last"
    folder.parent.mkdir()
    (folder.parent / f".last.{role}").symlink_to(mine)
    replace_folder(folder, NEW)
    assert content(mine) == {"letter": b"dear"}
    assert content(folder) == NEW and not folder.is_symlink()
    assert list(folder.parent.iterdir()) == [folder]
