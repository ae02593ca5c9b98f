"""Photos labelled with labelme, which writes a JSON file for each of them."""

from __future__ import annotations

from pathlib import Path

from u2pl.data.shapes.labelme import embedded_image, read_folder
from u2pl.data.shapes.source import Drawn


class Labelme(Drawn):
    """A folder of labelme's JSON files and the images that they name.

    Polygons, rectangles, circles and masks; shapes without area are left out. The classes are those
    of classes.txt or labels.txt, else the labels in alphabetical order.
    """

    read = staticmethod(read_folder)

    def files(self, id: str) -> tuple[Path | bytes, Path | bytes | None]:
        """As those of all sources; an image that its JSON file holds is taken out of it."""
        image, mask = super().files(id)
        if isinstance(image, Path) and image.suffix.lower() == ".json":
            return embedded_image(image), mask
        return image, mask
