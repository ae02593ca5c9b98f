"""Image tags, the classes an image shows: from CSV, JSON, VOC's XML annotations, or masks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from u2pl.counting import OnProgress
from u2pl.data.class_counts import class_counts
from u2pl.data.file_source import files_by_id
from u2pl.data.ids import first_three, match_id
from u2pl.data.source import Source
from u2pl.data.tags.tag_files import COLUMNS, Line, csv_lines, json_lines, nearest, object_names
from u2pl.errors import UserError
from u2pl.files import expanded, write_text

#: Image id -> ids of the classes it shows, never background; an empty set means background only.
Tags = dict[str, frozenset[int]]

_READERS = {".csv": csv_lines, ".json": json_lines}


def read_tags(path: str | Path, source: Source) -> Tags:
    """Read the tags of a source's images from a .csv or .json file or a folder of VOC annotations.

    - CSV: columns `image` and `classes`, as in `2007_000392,horse person`. Names are separated by
      spaces, commas or semicolons. Names containing separators: longest match, so
      `striped fish dotted ring` are two of the demo's classes.
    - JSON: `{"2007_000392": ["horse", "person"]}` or
      `[{"image": "2007_000392", "classes": ["horse", "person"]}]`.
    - XML: the names of the objects in ID.xml, including difficult ones. Annotations of images that
      the source does not have are skipped.

    Classes are given by name or id. Background (id 0) is ignored. An image listed several times has
    the tags of all its lines. Raises UserError if a file cannot be read, or names classes or images
    that the source does not have.
    """
    path = expanded(path)
    if not path.exists():
        raise UserError(
            f"{path} does not exist: give a .csv or .json file of tags, or a folder of VOC "
            "annotations"
        )
    if path.is_dir():
        names = _annotations(path, source)
    elif path.suffix.lower() in _READERS:
        names = _of_images(_READERS[path.suffix.lower()](path, source.classes), source, path)
    else:
        raise UserError(
            f"{path} is no file of tags: give a .csv or .json file, or a folder of VOC annotations"
        )
    return _as_ids(names, source.classes, path)


def tags_of(ids: Sequence[str], tags: Tags, where: str) -> Tags:
    """The tags of these images only, in their order; UserError if some images have none.

    Args:
        ids: training images.
        tags: of any images.
        where: the file they were read from, for the error.
    """
    missing = [id for id in ids if id not in tags]
    if missing:
        raise UserError(
            f"{where} has no tags of {len(missing)} of the {len(ids)} training images: "
            f"{first_three(missing)}: "
            "add a line for each (with no classes if it shows none), or remove them from the "
            "training list"
        )
    return {id: tags[id] for id in ids}


def tags_from_masks(source: Source, ids: Sequence[str], progress: OnProgress | None = None) -> Tags:
    """The classes that occur in each image's mask; decoded once, then cached (see `class_counts`).

    Args:
        source: where the masks come from.
        ids: images with masks.
        progress: called after each mask with the numbers done and to do.

    Raises UserError if a mask is missing or broken.
    """
    bare = [id for id in ids if not source.has_mask(id)]
    if bare:
        advice = source.where_masks_lack("tag these by hand")
        raise UserError(
            f"{source.name}: {len(bare)} of {len(ids)} images have no mask: {first_three(bare)}: "
            f"{advice}"
        )
    counts = class_counts(source, ids, progress)
    return {
        id: frozenset((np.flatnonzero(row[1:]) + 1).tolist())
        for id, row in zip(ids, counts, strict=True)
    }


def write_tags(path: Path, tags: Mapping[str, Iterable[int]], classes: Sequence[str]) -> None:
    """Write a CSV for `read_tags`, atomically; UserError on failure."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows((id, ";".join(classes[c] for c in sorted(shown))) for id, shown in tags.items())
    write_text(path, text.getvalue())


def _of_images(lines: list[Line], source: Source, path: Path) -> dict[str, list[str]]:
    if not lines:
        raise UserError(f"{path} holds no tags: write at least one image and its classes into it")
    known, names = source.ids(), dict[str, list[str]]()
    unknown = []
    for image, written in lines:
        id = match_id(image, known, source.id_ending)
        if id is None:
            unknown.append(image)
        else:
            names.setdefault(id, []).extend(written)
    if unknown:
        raise UserError(
            f"{path} names images that {source.name} does not have: {first_three(unknown)}: remove "
            "or correct these lines"
        )
    return names


def _annotations(folder: Path, source: Source) -> dict[str, list[str]]:
    files, known = files_by_id(folder, (".xml",)), source.ids()
    if not files:
        raise UserError(
            f"{folder} holds no .xml file: give VOC's folder Annotations, or a .csv or .json file "
            "of tags"
        )
    matched = {
        id: file
        for name, file in files.items()
        if (id := match_id(name, known, source.id_ending)) is not None
    }
    if not matched:
        raise UserError(
            f"{folder} annotates no image of {source.name}: {first_three(list(files))}: name the "
            "files as the images"
        )
    return {id: object_names(file) for id, file in matched.items()}


def _as_ids(names: dict[str, list[str]], classes: tuple[str, ...], path: Path) -> Tags:
    number = {str(c): c for c in range(len(classes))} | {name: c for c, name in enumerate(classes)}
    unknown = list(
        dict.fromkeys(name for written in names.values() for name in written if name not in number)
    )
    if unknown:
        near = nearest(unknown[0], classes)
        meant = f" (did you mean {near!r} by the first?)" if near else ""
        raise UserError(
            f"{path} names unknown classes: {first_three(unknown)}{meant}: the classes are "
            f"{', '.join(classes)}"
        )
    return {id: frozenset(number[name] for name in written) - {0} for id, written in names.items()}
