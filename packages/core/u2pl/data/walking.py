"""The files below a folder, without what systems and programs leave there by themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

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
    folder; raises UserError if a folder cannot be read.
    """
    if not folder.is_dir():
        return []
    return sorted(_below(str(folder), "", ()))


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


def _below(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Args: `above`: device and inode of the folders that this one is in."""
    try:
        found = os.stat(folder)
        here = (found.st_dev, found.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            kept = [entry for entry in entries if not is_clutter(entry.name)]
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}): make it readable, or move it away"
        ) from None
    for entry in kept:
        check_name(entry.path)
        if entry.is_dir():
            yield from _below(entry.path, f"{prefix}{entry.name}/", (*above, here))
        else:
            yield prefix + entry.name
