"""COCO: all images in one JSON file, each part of a class an annotation with one polygon."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import TextIO

from u2pl.files import write_text
from u2pl.model.formats import Image, Shape, drawn

FILE = PLACE = "coco.json"


def files(image: Image | None) -> Iterable[str]:
    """One file for all images."""
    return [FILE] if image is None else []


def write(
    out: Path,
    classes: Sequence[str],
    images: Sequence[Image],
    shapes: Callable[[Image], list[Shape]],
) -> None:
    """Write coco.json; categories are numbered from 1, areas are those of the pixels."""

    def fill(file: TextIO) -> None:
        head = {
            "info": {"description": "predictions"},
            "licenses": [],
            "categories": [
                {"id": number, "name": label, "supercategory": ""}
                for number, label in enumerate(drawn(classes).values(), 1)
            ],
            "images": [
                {
                    "id": number,
                    "file_name": image.relative,
                    "width": image.width,
                    "height": image.height,
                }
                for number, image in enumerate(images, 1)
            ],
        }
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        numbers, comma = count(1), ""
        for number, image in enumerate(images, 1):
            for shape in shapes(image):
                entry = {"id": next(numbers), "image_id": number, **annotation(shape)}
                file.write(f"{comma}\n{json.dumps(entry)}")
                comma = ","
        file.write("\n]}\n")

    write_text(out / FILE, fill)


def annotation(shape: Shape) -> dict[str, object]:
    """What an annotation says of a shape."""
    low, high = shape.ring.min(0), shape.ring.max(0)
    return {
        "category_id": shape.number + 1,
        "segmentation": [shape.ring.ravel().tolist()],
        "area": shape.area,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "iscrowd": 0,
    }
