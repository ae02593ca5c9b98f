"""YOLO segmentation: data.yaml, and a text file of polygons for each image.

Label Studio writes classes.txt instead of data.yaml, beside images/ and labels/.
A line is the number of a class, then x and y of corners as shares of the image's width and height.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from u2pl.counting import Counting
from u2pl.data.file_source import IdList
from u2pl.data.ids import IMAGE_SUFFIXES, read_lines, split_of
from u2pl.data.meta import BACKGROUND
from u2pl.data.shapes.drawing import Drawing, Shape, Shares, rectangle
from u2pl.data.shapes.fields import entries, fields, number, shown, whole, word
from u2pl.data.shapes.photos import Photos, inside
from u2pl.data.shapes.source import Annotations
from u2pl.data.walking import files_below
from u2pl.errors import UserError
from u2pl.files import expanded

#: What the file that names classes and folders may be called.
DATA = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
#: How far corners may be off the image, in shares of its sides: programs round.
SLACK = 0.1

#: What names the classes of Label Studio's, one in each line.
LISTED = "classes.txt"

# Beside labels, these are no labels.
_NO_LABELS = (LISTED, "notes.txt", "labels.txt", "readme.txt")


class Page(NamedTuple):
    """What a text file says."""

    drawing: Drawing
    boxes: int
    content: bytes


def read_page(file: Path, names: Mapping[int, str]) -> Page:
    """Read the text file of an image.

    Args:
        file: of the image.
        names: of the classes by number.

    Raises:
        UserError: It is no such file.
    """
    try:
        content = file.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): restore the file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} cannot be read as text ({error}): export it anew") from None
    shapes, boxes = [], 0
    for row, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        where = f"{file}, line {row}"
        values = _numbers(words, where)
        label = int(values[0])
        if label != values[0] or label not in names:
            raise UserError(
                f"{where}: the class is {words[0]}, and there are {min(names)} to {max(names)}: "
                "name it in data.yaml (or classes.txt), or correct it"
            )
        boxes += len(values) == 5
        shapes.append(Shape(names[label], Shares((_ring(values[1:], where),)), f"line {row}"))
    return Page(Drawing(str(file), None, tuple(shapes)), boxes, content)


def read_folder(place: Path, images: str | None, counting: Counting) -> Annotations:
    """Read data.yaml and the text files that belong to it.

    Args:
        place: data.yaml, or its folder.
        images: another folder that the images are in, if they are not where data.yaml says.
        counting: told how far it is.

    Raises:
        UserError: A file is broken, or images are not there.
    """
    data = _data_file(place)
    said = _listed(data) if data.name == LISTED else _parsed(data)
    names = _names(said.get("names"), data)
    top = _top(said.get("path"), data)
    if images is None:
        photos, splits = _photos_of(said, top, data)
        labels = dict(_labels_of(photos))
        _check_strays(photos, labels)
    else:
        photos = Photos(expanded(images))
        labels, splits = _labels_below(top, photos)
    if not labels:
        raise UserError(
            f"{data}: no image has a text file of its labels, which belongs into labels/ where the "
            "image is in images/"
        )
    pages: dict[str, Page] = {}
    with counting(f"reading {len(labels)} text files of {top.name}") as progress:
        for done, (id, file) in enumerate(labels.items(), 1):
            pages[id] = read_page(file, names)
            progress(done, len(labels))
    digest = hashlib.sha256(repr(names).encode())
    for page in pages.values():
        digest.update(page.content + b"\0")
    return Annotations(
        kind=f"YOLO's text files of {data.name}",
        root=place if place.is_dir() else place.parent,
        where=data,
        labels=tuple(dict.fromkeys(names[label] for label in sorted(names))),
        used=Counter(shape.label for page in pages.values() for shape in page.drawing.shapes),
        images=photos.images,
        drawings={id: page.drawing for id, page in pages.items()},
        files=labels,
        empty=frozenset(id for id, page in pages.items() if not page.drawing.shapes),
        empty_is=BACKGROUND,
        digest=digest.hexdigest(),
        lists=_lists(splits, data),
        boxes=sum(page.boxes for page in pages.values()),
    )


def _numbers(words: list[str], where: str) -> np.ndarray:
    values = np.array([number(text, f"{where}: value {i}") for i, text in enumerate(words, 1)])
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise UserError(
            f"{where} holds {len(values)} numbers: a polygon is a class, then x and y of at least "
            "3 corners"
        )
    return values


def _ring(values: np.ndarray, where: str) -> np.ndarray:
    if len(values) == 4:  # the middle, width and height of a box
        x, y, width, height = values.tolist()
        ring = rectangle((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    else:
        ring = values.reshape(-1, 2)
    off = ring[(ring < -SLACK) | (ring > 1 + SLACK)]
    if off.size:
        raise UserError(
            f"{where} holds a corner at {off[0]:g}: x and y are shares of the image's width and "
            "height, from 0 to 1"
        )
    return ring


def _data_file(place: Path) -> Path:
    if not place.is_dir():
        return place
    if (found := next((place / name for name in DATA if (place / name).is_file()), None)) is None:
        found = listed_file(place)
    if found is None:
        raise UserError(f"{place} holds no {DATA[0]}, which names the classes of YOLO's labels")
    return found


def listed_file(folder: Path) -> Path | None:
    """The classes.txt that stands for a data.yaml, beside text files in labels/; None without."""
    files = (folder / "labels").rglob("*.txt")
    labelled = any(file.name.lower() not in _NO_LABELS for file in files)
    return folder / LISTED if labelled and (folder / LISTED).is_file() else None


def _listed(file: Path) -> dict[str, Any]:
    """What a data.yaml would say."""
    return {"names": read_lines(file), "train": "images"}


def _parsed(data: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(data.read_bytes())
    except OSError as error:
        raise UserError(f"{data} cannot be read ({error.strerror}): restore the file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "it is nested too deep" if deep else " ".join(str(error).split())
        raise UserError(f"{data} cannot be read as YAML ({reason}): write it anew") from None
    return fields(found, str(data))


def _names(value: object, data: Path) -> dict[int, str]:
    where = f"{data}: names"
    if isinstance(value, list):
        value = dict(enumerate(value))
    names = {
        whole(key, f"{where}: a number"): word(
            str(name) if isinstance(name, (int, float)) else name, f"{where}[{shown(key)}]"
        )
        for key, name in fields(value, where).items()
    }
    if not names:
        raise UserError(f"{where} is empty: name the classes")
    return names


def _top(path: object, data: Path) -> Path:
    """The folder that train, val and test are below: that of data.yaml, or what `path` says."""
    if not isinstance(path, str) or not path.strip():
        return data.parent
    asked = Path(path.strip().replace("\\", "/"))
    if asked.is_absolute():
        return asked if os.path.isdir(asked) else data.parent
    below = data.parent / asked
    return below if ".." not in asked.parts and os.path.isdir(below) else data.parent


def _photos_of(
    said: Mapping[str, Any], top: Path, data: Path
) -> tuple[Photos, dict[str, list[str]]]:
    """The images that data.yaml speaks of, and the ids of each split."""
    files: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        value, where = said.get(split) or [], f"{data}: {split}"
        for entry in [value] if isinstance(value, str) else entries(value, where):
            place = _inside(word(entry, where), top)
            if place is None and split == "test":
                continue  # named even if there are none
            if place is None:
                raise UserError(
                    f"{where} is {shown(entry)}, and there is no such folder or list in {top}: "
                    "correct it, or write yolo:FOLDER?images=FOLDER"
                )
            files.setdefault(split, []).extend(_files(top, place))
    if "train" not in files:
        raise UserError(f"{data} does not say where the images are: write train: images/train")
    every = list(dict.fromkeys(name for names in files.values() for name in names))
    common = "images/" if all(name.startswith("images/") for name in every) else ""
    photos = Photos(top / common, [name.removeprefix(common) for name in every])
    if not photos.images:
        raise UserError(f"{data}: there are no images in {top}: put them where it says")
    ids = {file: id for id, file in photos.images.items()}
    return photos, {split: [ids[top / name] for name in names] for split, names in files.items()}


def _inside(entry: str, top: Path) -> str | None:
    """A folder or list below `top`, of whose path a beginning may belong to elsewhere; else None.

    Roboflow writes `../` in front of it, other programs write where it was on their machine.
    """
    parts = inside(entry).split("/")
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((tail for tail in tails if tail and os.path.exists(top / tail)), None)


def _files(top: Path, place: str) -> list[str]:
    """The images of a folder or list, relative to `top`."""
    if (top / place).is_dir():
        prefix = "" if place == "." else f"{place}/"
        return [
            prefix + name
            for name in files_below(top / place)
            if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    photos = Photos(top)
    ids = photos.all_of(read_lines(top / place), str(top / place), "put them there")
    return [photos.images[id].relative_to(top).as_posix() for id in ids]


def _labels_of(photos: Photos) -> Iterator[tuple[str, Path]]:
    """The text file of each image: in labels/ where the image is in images/, or beside it."""
    for id, file in photos.images.items():
        for place in (_label_place(file), file.with_suffix(".txt")):
            if place.is_file():
                yield id, place
                break


def _label_place(image: Path) -> Path:
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _check_strays(photos: Photos, labels: Mapping[str, Path]) -> None:
    """UserError for a text file in labels/ whose image is not there."""
    known = set(labels.values())
    for folder in sorted({_label_place(file).parent for file in photos.images.values()}):
        if folder.name == "images" or folder in {file.parent for file in photos.images.values()}:
            continue
        for file in sorted(folder.glob("*.txt")):
            if file not in known and file.name.lower() not in _NO_LABELS:
                raise UserError(
                    f"{file} has no image of its name: put it back, or take the text file out"
                )


def _labels_below(top: Path, photos: Photos) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """The text files in folders called labels, by the image that each means; and the splits."""
    labels: dict[str, Path] = {}
    splits: dict[str, list[str]] = {}
    for name in files_below(top):
        path = PurePosixPath(name)
        if path.suffix.lower() != ".txt" or "labels" not in path.parts[:-1]:
            continue
        if path.name.lower() in _NO_LABELS:
            continue
        id = photos.find(str(path.with_suffix("")))
        if id is None:
            raise UserError(
                f"{top / name} has no image of its name in {photos.base}: put it there, or take "
                "the text file out"
            )
        if id in labels:
            raise UserError(f"{top / name} and {labels[id]} are of the same image: keep one")
        labels[id] = top / name
        if split := split_of(str(path.parent)):
            splits.setdefault(split, []).append(id)
    return labels, splits


def _lists(splits: Mapping[str, list[str]], data: Path) -> dict[str, IdList]:
    """Splits to score on, unless they are those to train on; all other images train."""
    train = set(splits.get("train", ()))
    return {
        name: IdList(f"{data}: {name}", ids)
        for name, ids in splits.items()
        if name != "train" and ids and not set(ids) & train
    }
