"""CVAT for images 1.1: all images in one XML file, each part of a class a polygon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO
from xml.sax.saxutils import escape, quoteattr

from u2pl.files import write_text
from u2pl.model.formats import Image, Shape, drawn

FILE = PLACE = "cvat.xml"


def files(image: Image | None) -> Iterable[str]:
    """One file for all images."""
    return [FILE] if image is None else []


def write(
    out: Path,
    classes: Sequence[str],
    images: Sequence[Image],
    shapes: Callable[[Image], list[Shape]],
) -> None:
    """Write cvat.xml, with the labels that a task needs for it."""

    def fill(file: TextIO) -> None:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        file.write("  <version>1.1</version>\n  <meta>\n    <task>\n      <labels>\n")
        for label in drawn(classes).values():
            name = f"<name>{escape(label)}</name><type>polygon</type>"
            file.write(f"        <label>{name}<attributes></attributes></label>\n")
        file.write("      </labels>\n    </task>\n  </meta>\n")
        for number, image in enumerate(images):
            file.write(
                f'  <image id="{number}" name={quoteattr(image.relative)} '
                f'width="{image.width}" height="{image.height}">\n'
            )
            file.writelines(polygon(shape) for shape in shapes(image))
            file.write("  </image>\n")
        file.write("</annotations>\n")

    write_text(out / FILE, fill)


def polygon(shape: Shape) -> str:
    """The line of a shape."""
    points = ";".join(f"{x}.00,{y}.00" for x, y in shape.points())
    return (
        f'    <polygon label={quoteattr(shape.label)} source="auto" occluded="0" '
        f'points="{points}" z_order="0"></polygon>\n'
    )
