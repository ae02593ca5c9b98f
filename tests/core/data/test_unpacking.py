"""Archives are unpacked once, whole or not at all, and nowhere else."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.labelled import MASK, PROGRAMS
from u2pl.counting import OnProgress, silently
from u2pl.data import unpacking
from u2pl.data.opening import open_source
from u2pl.data.unpacking import unpacked
from u2pl.errors import DiskError, UserError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("U2PL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def packed(file: Path, members: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def folder_packed(root: Path, top: str = "") -> Path:
    """The archive of a folder."""
    files = [file for file in root.rglob("*") if file.is_file()]
    below = {f"{top}{file.relative_to(root).as_posix()}": file.read_bytes() for file in files}
    return packed(root.with_suffix(".zip"), dict(below))


@pytest.mark.parametrize("top", ["", "export/"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_archive_of_each_program_is_opened_as_its_folder(
    program: str, top: str, cache: Path, tmp_path: Path
) -> None:
    PROGRAMS[program](tmp_path / "photos")
    archive = folder_packed(tmp_path / "photos", top)
    plain = open_source(str(tmp_path / "photos"))
    for text in (str(archive), f"{program}:{archive}"):
        source = open_source(text)
        assert source.ids() == plain.ids() and source.name == (top[:-1] or "photos")
        a = next(id for id in source.ids() if id.endswith("a"))
        np.testing.assert_array_equal(source.mask(a), MASK)


def test_an_archive_of_photos_and_masks_is_opened(cache: Path, tmp_path: Path) -> None:
    from PIL import Image

    for folder in ("images", "masks"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.fromarray(MASK).save(tmp_path / "photos" / folder / "a.png")
    (tmp_path / "photos" / "classes.txt").write_text("background\ncat\ndog\n")
    archive = folder_packed(tmp_path / "photos")
    for text in (str(archive), f"folder:{archive}"):
        np.testing.assert_array_equal(open_source(text).mask("a"), MASK)


def test_it_is_unpacked_once_and_again_after_it_changed(cache: Path, tmp_path: Path) -> None:
    told: list[str] = []

    @contextmanager
    def counting(what: str) -> Iterator[OnProgress]:
        told.append(what)
        yield lambda done, total: told.append(f"{done}/{total}")

    archive = packed(tmp_path / "a.zip", {"x.txt": "1", "y.txt": "2"})
    first = unpacked(archive, counting)
    assert told == ["unpacking a.zip", "1/2", "2/2"]
    assert unpacked(archive, counting) == first and len(told) == 3
    packed(archive, {"x.txt": "3"})
    second = unpacked(archive, counting)
    assert (second / "x.txt").read_text() == "3" and not (second / "y.txt").exists()
    assert (first / "x.txt").read_text() == "1"
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []


def test_whatever_is_no_archive_is_left_alone(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.zip").mkdir()
    for path in (tmp_path, tmp_path / "folder.zip", tmp_path / "none.zip"):
        assert unpacked(path, silently) == path
    assert not cache.exists()


@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/out.txt", "C:\\out.txt", "\\out.txt", "..\\out.txt"]
)
def test_nothing_is_written_outside_of_the_folder(name: str, cache: Path, tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"fine.txt": "1", name: "2"})
    with pytest.raises(UserError, match=r"which leads out of the archive: make it anew"):
        unpacked(archive, silently)
    assert not list(cache.iterdir()) and not list(tmp_path.rglob("*out.txt"))


def damaged(path: Path) -> Path:
    """An archive in whose content some bytes have changed."""
    packed(path, {"a.txt": os.urandom(5000)})
    content = bytearray(path.read_bytes())
    content[1000:1010] = bytes(10)
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    packed(path, {"a.txt": os.urandom(5000)})
    path.write_bytes(path.read_bytes()[:3000])
    return path


def locked(path: Path) -> Path:
    """An archive that says of its member that it needs a password."""
    packed(path, {"a.txt": b"1"})
    content = path.read_bytes()
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(mark) + place
        content = content[:at] + b"\x01" + content[at + 1 :]
    path.write_bytes(content)
    return path


def no_archive(path: Path) -> Path:
    path.write_text("<html>not found</html>")
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (damaged, "cannot be unpacked (Bad CRC-32 for file 'a.txt'): download it again"),
        (cut, "cannot be unpacked (File is not a zip file): download it again"),
        (locked, "is locked with a password: unpack it yourself, and give the folder"),
        (no_archive, "cannot be unpacked (File is not a zip file): download it again"),
    ],
)
def test_what_cannot_be_unpacked_leaves_nothing(
    make: Callable[[Path], Path], reason: str, cache: Path, tmp_path: Path
) -> None:
    archive = make(tmp_path / "a.zip")
    with pytest.raises(UserError, match=rf"a\.zip {re.escape(reason)}"):
        unpacked(archive, silently)
    assert not list(cache.iterdir())


def test_what_does_not_fit_is_refused_in_advance(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(tmp_path / "a.zip", {"a.txt": "1" * 1000})
    few = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: few)
    with pytest.raises(DiskError, match=r"holds 0\.0 GB, and there are 0\.0 GB free for it: free"):
        unpacked(archive, silently)
    assert not list(cache.iterdir())


def test_a_full_disk_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(tmp_path / "a.zip", {"a.txt": "1", "b.txt": "2"})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unpacking.shutil, "copyfileobj", full)
    with pytest.raises(DiskError, match=r"cannot be unpacked into \S+ \(No space left on device\)"):
        unpacked(archive, silently)
    assert not list(cache.iterdir())


def test_names_that_are_both_file_and_folder_are_an_error(cache: Path, tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"a": "1", "a/b": "2"})
    with pytest.raises(DiskError, match=r"cannot be unpacked into .*or unpack it yourself"):
        unpacked(archive, silently)
    assert not list(cache.iterdir())


def test_of_two_at_once_both_find_the_folder(cache: Path, tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"a.txt": "1"})

    @contextmanager
    def overtaken(what: str) -> Iterator[OnProgress]:
        unpacked(archive, silently)  # as another process does in the meantime
        yield lambda done, total: None

    assert (unpacked(archive, overtaken) / "a.txt").read_text() == "1"
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("top", ["", "export/"])
def test_errors_name_the_archive_and_its_member(cache: Path, tmp_path: Path, top: str) -> None:
    PROGRAMS["labelme"](tmp_path / "photos")
    (tmp_path / "photos" / "a.json").write_text("{")
    broken = folder_packed(tmp_path / "photos", top)
    with pytest.raises(UserError) as error:
        open_source(str(broken))
    assert str(error.value).startswith(f"{broken}: {top}a.json cannot be read as JSON")
    shutil.rmtree(tmp_path / "photos")
    PROGRAMS["yolo"](tmp_path / "photos")
    (tmp_path / "photos" / "images" / "train" / "a.png").write_bytes(b"none")
    archive = folder_packed(tmp_path / "photos", top)
    source = open_source(f"yolo:{archive}")
    a = next(id for id in source.ids() if id.endswith("a"))
    for fails in (source.image, source.mask):
        with pytest.raises(UserError, match=rf"{re.escape(str(archive))}: {top}\S+a\.png") as error:
            fails(a)
        assert str(cache) not in str(error.value)
    assert str(cache) not in " ".join(source.notes)
    # as a worker process hands it over
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
