"""labelme: a JSON file for each image, which points to the image, and the list of labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from u2pl.files import make_folder, write_json, write_text
from u2pl.model.formats import Image, Shape

PLACE = "labelme"
LABELS = f"{PLACE}/labels.txt"
#: Of the files' layout.
VERSION = "5.5.0"


def files(image: Image | None) -> Iterable[str]:
    """One file for each image, and one for all."""
    return [LABELS] if image is None else [f"{PLACE}/{image.name}.json"]


def write(
    out: Path,
    classes: Sequence[str],
    images: Sequence[Image],
    shapes: Callable[[Image], list[Shape]],
) -> None:
    """Write labelme/NAME.json for each image, and the classes, as labelme's --labels takes them."""
    make_folder((out / LABELS).parent)
    for image in images:
        (name,) = files(image)
        make_folder((out / name).parent)
        write_json(out / name, content(image, shapes(image), out / name))
    write_text(out / LABELS, "".join(f"{label}\n" for label in ("__ignore__", *classes)))


def content(image: Image, shapes: Sequence[Shape], file: Path) -> dict[str, object]:
    """What the file of an image says.

    Args:
        image: of the shapes.
        shapes: its polygons.
        file: where it is said; the image is named relative to it.
    """
    return {
        "version": VERSION,
        "flags": {},
        "shapes": [
            {
                "label": shape.label,
                "points": shape.points(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }
            for shape in shapes
        ],
        "imagePath": place_of(image.file, file.parent),
        "imageData": None,
        "imageHeight": image.height,
        "imageWidth": image.width,
    }


def place_of(image: Path, folder: Path) -> str:
    """The image's path as seen from a folder; absolute where there is none, as between drives."""
    try:
        return Path(os.path.relpath(image.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return image.absolute().as_posix()
