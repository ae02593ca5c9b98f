"""Photos labelled for YOLO segmentation: data.yaml and a text file of polygons for each photo."""

from __future__ import annotations

from u2pl.data.shapes.source import Drawn
from u2pl.data.shapes.yolo import read_folder


class Yolo(Drawn):
    """A folder with data.yaml, images/ and labels/, or that file.

    The classes are those of data.yaml behind a background, val and test its lists.
    """

    read = staticmethod(read_folder)
