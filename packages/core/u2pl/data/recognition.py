"""What a path of people's own data holds: photos with masks, or what a labelling program wrote."""

from __future__ import annotations

import re
from pathlib import Path

from u2pl.data.ids import few
from u2pl.data.mask_files import has_masks
from u2pl.data.shapes.coco_files import BESIDE
from u2pl.data.shapes.photos import ASIDE
from u2pl.data.shapes.yolo import DATA, listed_file
from u2pl.data.walking import files_below, is_clutter
from u2pl.errors import UserError

#: Schemes of labelling programs.
DRAWN = ("cvat", "coco", "yolo", "labelme")

# Bytes at the beginning of a file that tell what it is.
_HEAD = 65_536
# JSON files of a folder that are looked at.
_LOOKED_AT = 8
# Endings of polygons on a map.
_LAYERS = (".geojson", ".gpkg")
# Files of these beginnings hold COCO's other annotations, or Label Studio's list of classes.
_OTHERS = ("captions", "person_keypoints", "panoptic", "stuff", "notes.json")


def recognise(path: Path) -> str | None:
    """The scheme of what a labelling program wrote at a path; None if it is something else.

    A folder that holds masks is one of photos, whatever else it holds.

    Raises:
        UserError: A folder holds what several programs wrote, a file is none of theirs, or there
            are GeoTIFFs, which have a scheme of their own.
    """
    if path.is_file():
        if path.suffix.lower() in (".tif", ".tiff"):
            raise UserError(f"{path} is an image: if it is a GeoTIFF write geotiff:{path}")
        if path.suffix.lower() == ".parquet":
            raise UserError(f"{path} is a Hugging Face dataset: write hf:{path}")
        if (scheme := _of_file(path)) is None:
            raise UserError(
                f"{path} is no file of a labelling program that is known: give COCO's .json, "
                "CVAT's .xml, YOLO's data.yaml, a .zip of any of them, or a folder"
            )
        return scheme
    if not path.is_dir() or has_masks(path):
        return None
    if _is_hub_dataset(path):
        raise UserError(f"{path} holds a Hugging Face dataset: write hf:{path}")
    if layer := next((file for kind in _LAYERS for file in path.glob(f"labels/*{kind}")), None):
        raise UserError(f"{layer} holds polygons of a GeoTIFF: write geotiff:{path}")
    found = {
        "yolo": yolo_file(path),
        "cvat": next(iter(cvat_files(path)), None),
        "coco": next(iter(coco_files(path)), None),
        "labelme": _labelme_file(path),
    }
    known = {scheme: file for scheme, file in found.items() if file is not None}
    if len(known) > 1:
        first, second = list(known)[:2]
        one, other = (
            f"{scheme}:{path if scheme == 'labelme' else known[scheme]}"
            for scheme in (first, second)
        )
        raise UserError(
            f"{path} holds {known[first].name} and {known[second].name}, and either could be it: "
            f"write {one} or {other}"
        )
    return next(iter(known), None)


def _is_hub_dataset(folder: Path) -> bool:
    if (folder / "images").is_dir():
        return False
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return saved or any(next(folder.glob(place), None) for place in ("*.parquet", "data/*.parquet"))


def yolo_file(folder: Path) -> Path | None:
    """The data.yaml of a folder, or the classes.txt that stands for it."""
    for name in DATA:
        if (folder / name).is_file() and re.search(rb"(?m)^names\s*:", _head(folder / name)):
            return folder / name
    return listed_file(folder)


def cvat_files(folder: Path) -> list[Path]:
    """CVAT's XML files of images in a folder, or in annotations/."""
    return [file for file in _files(folder, ".xml") if _of_file(file) == "cvat"]


def coco_files(folder: Path) -> list[Path]:
    """COCO's JSON files in a folder, in annotations/, or beside the images of each split."""
    beside = sorted(file for file in folder.glob(f"*/{BESIDE}") if not is_clutter(file.parent.name))
    files = [file for file in (*_files(folder, ".json"), *beside)]
    return [
        file for file in files if not file.name.startswith(_OTHERS) and _of_file(file) == "coco"
    ]


def _files(folder: Path, suffix: str) -> list[Path]:
    places = (folder, *(folder / name for name in ASIDE))
    return sorted(
        file
        for place in places
        for file in place.glob(f"*{suffix}")
        if file.is_file() and not is_clutter(file.name)
    )


def _labelme_file(folder: Path) -> Path | None:
    """A JSON file of labelme's in a folder or below it."""
    names = [name for name in files_below(folder) if name.lower().endswith(".json")]
    files = (folder / name for name in few(names, _LOOKED_AT))
    return next((file for file in files if _of_file(file) == "labelme"), None)


def _of_file(file: Path) -> str | None:
    """The scheme of a file, by its beginning."""
    head, suffix = _head(file), file.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return "yolo" if re.search(rb"(?m)^names\s*:", head) else None
    if suffix == ".xml":
        return "cvat" if b"<annotations" in head else None
    if suffix != ".json":
        return None
    if re.search(rb'"(shapes|imagePath)"\s*:', head):
        return "labelme"
    return "coco" if re.search(rb'"(images|annotations|categories)"\s*:\s*\[', head) else None


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_HEAD)
    except OSError:  # whoever reads it will say so
        return b""
