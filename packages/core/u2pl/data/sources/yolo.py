"""Photos labelled for YOLO segmentation: data.yaml and a text file of polygons for each photo."""

from __future__ import annotations

from pathlib import Path

from u2pl.counting import Counting, silently
from u2pl.data.shapes.source import Drawn
from u2pl.data.shapes.yolo import read_folder
from u2pl.files import expanded


class Yolo(Drawn):
    """A folder with data.yaml, images/ and labels/, or that file.

    The classes are those of data.yaml behind a background, val and test its lists.

    Args:
        path: the folder or file.
        images: folder of the images, if they are elsewhere.
        outside: as in `Drawn`.
        empty: as in `Drawn`.
        counting: told how far reading is.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | None = None,
        outside: str | None = None,
        empty: str | None = None,
        counting: Counting = silently,
    ) -> None:
        place = expanded(path)
        root = place if place.is_dir() else place.parent
        super().__init__(root, read_folder(place, images, counting), outside, empty)
