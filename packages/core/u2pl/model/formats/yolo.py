"""YOLO segmentation: data.yaml, a text file of polygons for each image, and links to the images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from u2pl.errors import DiskError
from u2pl.files import make_folder, write_text
from u2pl.model.formats import Image, Shape, drawn

DATA = PLACE = "yolo/data.yaml"


def files(image: Image | None) -> Iterable[str]:
    """Two files for each image, at places that follow from each other, and one for all."""
    if image is None:
        return [DATA]
    return [
        f"yolo/labels/train/{image.name}.txt",
        f"yolo/images/train/{image.name}{image.file.suffix}",
    ]


def write(
    out: Path,
    classes: Sequence[str],
    images: Sequence[Image],
    shapes: Callable[[Image], list[Shape]],
) -> None:
    """Write the folder yolo/; an image without polygons has an empty file."""
    for image in images:
        text, link = files(image)
        lines = "".join(line(shape, image) for shape in shapes(image))
        for name in (text, link):
            make_folder((out / name).parent)
        write_text(out / text, lines)
        point(out / link, image.file)
    names = "".join(
        f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(drawn(classes).values())
    )
    data = f"train: images/train\nval: images/train  # set your own\nnames:\n{names}"
    make_folder((out / DATA).parent)
    write_text(out / DATA, data)


def line(shape: Shape, image: Image) -> str:
    """A polygon: the number of its class, then x and y of its corners as shares of the sides."""
    places = shape.ring / (image.width, image.height)
    return f"{shape.number} {' '.join(f'{value:.6f}' for value in places.ravel())}\n"


def point(link: Path, image: Path) -> None:
    """Link to an image, or copy it where there are no links."""
    beside = link.with_name(f".{link.name}.part")
    try:
        beside.unlink(missing_ok=True)
        try:
            beside.symlink_to(image.resolve())
        except OSError:
            shutil.copyfile(image, beside)
        beside.replace(link)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DiskError(
            f"cannot write {link}: {error.strerror or error}; free some space or choose another "
            "folder"
        ) from error
