"""The files below a folder, without what systems and programs leave there by themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from u2pl.data.ids import IMAGE_SUFFIXES
from u2pl.errors import UserError

# Written by Windows, by NAS systems beside photos, and by macOS into archives. Names that begin
# with a dot (.DS_Store, ._photo.jpg, .ipynb_checkpoints) are skipped anyway.
_CLUTTER = frozenset(
    {"@eadir", "#recycle", "$recycle.bin", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"}
)


def files_below(folder: Path) -> list[str]:
    """Paths of all files, relative to the folder, with `/`, in order.

    Hidden files and folders, thumbnails of NAS systems and the like are skipped. Links to folders
    are followed, except those that lead back to a folder they are in. Empty if there is no such
    folder; raises UserError if a folder cannot be read, is something else, or is behind a link that
    leads nowhere. An image behind such a link is left to whoever needs it.
    """
    return sorted(_below(str(folder), "", ())) if _is_there(folder) else []


def files_in(folder: Path, ending: str) -> list[Path]:
    """The files of this ending in a folder itself, in order; otherwise as `files_below`."""
    entries = _entries(str(folder)) if _is_there(folder) else []
    return sorted(
        folder / entry.name
        for entry in entries
        if entry.name.endswith(ending) and not _is_folder(entry)
    )


def check_name(path: str) -> None:
    """UserError if a name is no text in this system's encoding: nothing can be written of it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{path!r}: the name is not written in this system's encoding, "
            f"{sys.getfilesystemencoding()}: rename it, or set PYTHONUTF8=1"
        ) from None


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left by a system."""
    return name.startswith(".") or name.lower() in _CLUTTER


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also behind a link; one that leads to itself is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _lost(path: str) -> UserError:
    return UserError(f"{path} is a link that leads nowhere: mend it, or take it away")


def _is_there(folder: Path) -> bool:
    """Whether there is such a folder; UserError if there is something else."""
    if folder.is_dir():
        return True
    if folder.is_symlink():
        raise _lost(str(folder))
    if folder.exists():
        raise UserError(f"{folder} is no folder: make it one, or move it away")
    return False


def _below(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Args: `above`: device and inode of the folders that this one is in."""
    try:
        found = os.stat(folder)
        here = (found.st_dev, found.st_ino)
        if here in above:
            return
    except OSError as error:
        raise _closed(folder, error) from None
    for entry in _entries(folder):
        if _is_folder(entry):
            yield from _below(entry.path, f"{prefix}{entry.name}/", (*above, here))
        else:
            yield prefix + entry.name


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder itself, without what systems and programs leave there."""
    try:
        with os.scandir(folder) as entries:
            kept = [entry for entry in entries if not is_clutter(entry.name)]
    except OSError as error:
        raise _closed(folder, error) from None
    for entry in kept:
        check_name(entry.path)
        lost = entry.is_symlink() and not os.path.exists(entry.path)
        if lost and not _is_image(entry.name):
            raise _lost(entry.path)
    return kept


def _closed(folder: str, error: OSError) -> UserError:
    return UserError(
        f"{folder} cannot be read ({error.strerror}): make it readable, or move it away"
    )
