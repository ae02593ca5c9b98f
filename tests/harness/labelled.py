"""The same three photos of 8x6 pixels, as each labelling program writes its labels.

a.png shows a cat, a polygon, and on top of it a dog; b.png was labelled, and shows nothing; c.png
was not labelled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from u2pl.model.formats import Image as Labelled
from u2pl.model.formats import Shape, find_format

CLASSES = ("background", "cat", "dog")
#: Of a.png.
MASK = np.zeros((6, 8), np.uint8)
MASK[1:4, 1:4] = 1
MASK[2:5, 3:6] = 2

CAT = [[1, 1], [4, 1], [4, 4], [1, 4]]
DOG = [[3, 2], [6, 2], [6, 5], [3, 5]]


def photos(folder: Path, *names: str) -> Path:
    """Write the images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names or ("a.png", "b.png", "c.png")):
        Image.new("RGB", (8, 6), (10 * number, 90, 60)).save(folder / name)
    return folder


def coco_content() -> dict[str, Any]:
    """The content of a COCO file."""
    return {
        "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}],
        "images": [
            {"id": number, "file_name": f"{name}.png", "width": 8, "height": 6}
            for number, name in ((11, "a"), (12, "b"))
        ],
        "annotations": [
            {"id": 1, "image_id": 11, "category_id": 1, "segmentation": [list(chain(*CAT))]},
            {"id": 2, "image_id": 11, "category_id": 3, "segmentation": [list(chain(*DOG))]},
        ],
    }


def coco(root: Path) -> str:
    """photos/instances.json beside the images."""
    (photos(root) / "instances.json").write_text(json.dumps(coco_content()))
    return f"coco:{root / 'instances.json'}"


def page(name: str, *shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The content of a file of labelme's."""
    found = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": f"{name}.png"}
    return found | {"imageData": None, "imageHeight": 6, "imageWidth": 8} | changes


def shape(label: str, points: Any, kind: str = "polygon", **changes: Any) -> dict[str, Any]:
    """A shape of labelme's."""
    return {"label": label, "points": points, "shape_type": kind, "group_id": None} | changes


def labelme(root: Path) -> str:
    """A JSON file beside each labelled image."""
    photos(root)
    pages = {"a": page("a", shape("cat", CAT), shape("dog", DOG)), "b": page("b")}
    for name, content in pages.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    return f"labelme:{root}"


def yolo_line(number: int, ring: list[list[int]]) -> str:
    """A polygon."""
    return f"{number} " + " ".join(f"{x / 8:.6f} {y / 6:.6f}" for x, y in ring) + "\n"


def yolo(root: Path) -> str:
    """data.yaml, images/train/ and labels/train/."""
    photos(root / "images" / "train")
    labels = root / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text(yolo_line(0, CAT) + yolo_line(1, DOG))
    (labels / "b.txt").write_text("")
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/train\nnames:\n  0: cat\n  1: dog\n"
    )
    return f"yolo:{root}"


def cvat_text(*shapes: str, more: str = "") -> str:
    """The content of CVAT's XML, with shapes of a.png and more images."""
    labels = "".join(
        f"<label><name>{name}</name><color>#ff0000</color><type>any</type><attributes/></label>"
        for name in CLASSES[1:]
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        f"<meta><task><name>t</name><labels>{labels}</labels></task></meta>\n"
        f'<image id="0" name="a.png" width="8" height="6">\n{"".join(shapes)}</image>\n{more}'
        "</annotations>\n"
    )


def polygon(label: str, ring: list[list[int]], z_order: int = 0) -> str:
    """A shape of CVAT's."""
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in ring)
    return f'<polygon label="{label}" occluded="0" points="{points}" z_order="{z_order}"/>\n'


def cvat(root: Path) -> str:
    """annotations.xml beside images/."""
    photos(root / "images")
    more = '<image id="1" name="b.png" width="8" height="6"></image>\n'
    text = cvat_text(polygon("cat", CAT), polygon("dog", DOG), more=more)
    (root / "annotations.xml").write_text(text)
    return f"cvat:{root / 'annotations.xml'}"


def blocks(root: Path, program: str) -> str:
    """Ten photos of 64x48 pixels with blocks of cats and dogs, of which seven are labelled.

    As a program opens the labels that `predict` writes for it. Returns what is typed.
    """
    draw = np.random.default_rng(5)
    folder, labelled = root / "photos", []
    folder.mkdir(parents=True)
    shapes: dict[str, list[Shape]] = {}
    for number in range(10):
        pixels = draw.integers(60, size=(48, 64, 3), dtype=np.uint8)
        name = f"{number:02d}"
        shapes[name] = []
        for label in (0, 1):
            left, top = draw.integers(0, 32), draw.integers(0, 24)
            pixels[top : top + 20, left : left + 28, label] = 200
            right, bottom = left + 28, top + 20
            ring = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
            shapes[name].append(Shape(CLASSES[1 + label], label, 560, ring, (ring,)))
        Image.fromarray(pixels).save(folder / f"{name}.png")
        if number < 7:
            labelled.append(Labelled(name, folder / f"{name}.png", 64, 48))
    form = find_format(program)
    form.write(root, CLASSES, labelled, lambda image: shapes[image.name])
    if program == "yolo":
        for number in (7, 8, 9):
            shutil.copy(folder / f"{number:02d}.png", root / "yolo" / "images" / "train")
    place = {"yolo": "yolo", "labelme": "labelme"}.get(program, form.PLACE)
    images = "" if program == "yolo" else f"?images={folder}"
    return f"{program}:{root / place}{images}"


#: Writes the photos and their labels into a folder, and says what to type.
PROGRAMS: dict[str, Callable[[Path], str]] = {
    "coco": coco,
    "cvat": cvat,
    "labelme": labelme,
    "yolo": yolo,
}
