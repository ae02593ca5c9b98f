"""Photos labelled with CVAT: one XML file, or masks painted in the labels' colours."""

from __future__ import annotations

from pathlib import Path

from u2pl.counting import Counting, silently
from u2pl.data.recognition import cvat_files
from u2pl.data.shapes.cvat_files import read_file
from u2pl.data.shapes.source import Drawn
from u2pl.data.source import Source
from u2pl.data.sources.folder import LABELMAP, Folder
from u2pl.errors import UserError
from u2pl.files import expanded


class Cvat(Drawn):
    """An XML file of "CVAT for images 1.1" and its images, beside it or in images/.

    Polygons, boxes, ellipses and masks, by their z_order and then by their place in the file; what
    has no area is left out. The classes are the task's labels behind a background, val and test the
    subsets of a project.
    """

    read = staticmethod(read_file)


def open_scheme(
    path: str | Path,
    images: str | None = None,
    outside: str | None = None,
    empty: str | None = None,
    counting: Counting = silently,
) -> Source:
    """What CVAT exported: as "CVAT for images", or as "Segmentation mask" with its labelmap.txt.

    Raises UserError if it is neither.
    """
    place = expanded(path)
    if not place.is_dir():
        return Cvat(place, images, outside, empty, counting)
    files = cvat_files(place)
    if len(files) == 1:
        return Cvat(files[0], images, outside, empty, counting)
    if files:
        named = " and ".join(file.name for file in files[:2])
        raise UserError(f"{place} holds {named}: write cvat:FILE, with one of them")
    if (place / LABELMAP).is_file():
        if outside or empty:
            raise UserError(f"{place} holds masks, and outside and empty are about shapes")
        return Folder(place, images)
    raise UserError(
        f"{place} holds nothing of CVAT's: export the task as 'CVAT for images 1.1' or "
        "'Segmentation mask 1.1', and unpack it there"
    )
