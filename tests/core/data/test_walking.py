from __future__ import annotations

import os
from pathlib import Path

import pytest

from u2pl.data.file_source import files_by_id
from u2pl.data.walking import files_below, files_in
from u2pl.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_are_listed_without_what_systems_leave(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("b.jpg", "day/a.jpg", "notes.txt"),
        *(".DS_Store", "._b.jpg", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/b.png"),
        *("@eaDir/b.jpg/SYNOPHOTO_THUMB_M.jpg", "day/__MACOSX/._a.jpg", "day/__MACOSX/a.jpg"),
    )
    assert files_below(tmp_path) == ["b.jpg", "day/a.jpg", "notes.txt"]
    assert files_below(tmp_path / "nowhere") == []


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "store/a.jpg", "store/sub/b.jpg", "images/c.jpg")
    images = tmp_path / "images"
    (images / "day").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "again").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "sub" / "up").symlink_to(images)
    (images / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (images / "itself.jpg").symlink_to("itself.jpg")
    assert files_below(images) == ["c.jpg", "day/a.jpg", "day/sub/b.jpg", "gone.jpg", "itself.jpg"]
    (tmp_path / "link").symlink_to(images)
    assert files_below(tmp_path / "link") == files_below(images)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is readable for root")
def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    touch(tmp_path, "closed/a.jpg")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(UserError, match=r"closed cannot be read \(Permission denied\)"):
        files_below(tmp_path)


@pytest.mark.parametrize("name", ["day", "12.05", "val.txt"])
def test_what_lies_behind_a_link_that_leads_nowhere_is_not_left_out(
    name: str, tmp_path: Path
) -> None:
    touch(tmp_path, "images/a.jpg")
    (tmp_path / "images" / name).symlink_to(tmp_path / "nowhere")
    (tmp_path / "masks").symlink_to(tmp_path / "nowhere")
    for folder, lost in (("images", f"images/{name}"), ("masks", "masks")):
        with pytest.raises(UserError, match=f"{lost} is a link that leads nowhere: mend it"):
            files_below(tmp_path / folder)


def test_files_in_a_folder_itself_are_told_by_their_ending(tmp_path: Path) -> None:
    touch(tmp_path, "b.txt", "a.txt", "._a.txt", "c.csv", "d.txt/e.txt")
    assert files_in(tmp_path, ".txt") == [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert files_in(tmp_path / "nowhere", ".txt") == []


def test_a_file_is_no_empty_folder(tmp_path: Path) -> None:
    touch(tmp_path, "masks")
    with pytest.raises(UserError, match="masks is no folder: make it one"):
        files_below(tmp_path / "masks")


def test_ids_are_the_same_however_accents_are_written(tmp_path: Path) -> None:
    touch(tmp_path, "cafe\u0301/stra\u00dfe.jpg")
    assert list(files_by_id(tmp_path, (".jpg",))) == ["caf\u00e9/stra\u00dfe"]
    touch(tmp_path, "caf\u00e9/stra\u00dfe.jpg")
    with pytest.raises(UserError, match="have the same id"):
        files_by_id(tmp_path, (".jpg",))


def test_a_name_in_another_encoding_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.rename(os.fsencode(tmp_path / "a.jpg"), os.fsencode(tmp_path) + b"/\xff.jpg")
    with pytest.raises(UserError, match=r"udcff\.jpg': the name is not written in this system's"):
        files_below(tmp_path)
