"""Boxes of objects: around the connected parts of a mask, in a file, and in a training crop.

A box is (class, top, left, bottom, right), in pixels of the stored image, bottom and right
exclusive. Shapes: N = boxes of an image.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from u2pl.data.source import Source
from u2pl.data.transforms import Geometry
from u2pl.errors import UserError
from u2pl.files import parse_json, write_text

#: What the file of boxes says that it is.
FORMAT = "u2pl-boxes-1"
#: Boxes of a training crop at most, those of the highest scores.
MOST = 32


class FoundBoxes(NamedTuple):
    """The boxes that a detector found in the images of a source."""

    fingerprint: str  # of the source
    classes: tuple[str, ...]
    images: Mapping[str, np.ndarray]  # by id: float [N, 6], the score behind the box
    threshold: float = 0.0  # boxes of a lower score are left out


def component_boxes(mask: np.ndarray, classes: Collection[int], least: int = 1) -> np.ndarray:
    """The smallest box around each connected part of each class (Weighting-PL supp. sec. 1).

    Pixels that touch, corners included, are connected.

    Args:
        mask: uint8 [H, W], class ids, 255 = ignore.
        classes: the classes whose parts get boxes.
        least: pixels of the smallest part that gets one.

    Returns:
        int64 [N, 5], in the order of their first pixels.
    """
    row, start, stop, value = _runs(mask, classes)
    root = list(range(len(row)))

    def find(run: int) -> int:
        while root[run] != run:
            root[run] = root[root[run]]
            run = root[run]
        return run

    first = np.searchsorted(row, np.arange(mask.shape[0] + 1))
    for r in range(1, mask.shape[0]):
        above, here = first[r - 1], first[r]
        for run in range(here, first[r + 1]):
            while above < here and stop[above] < start[run]:
                above += 1
            other = above
            while other < here and start[other] <= stop[run]:
                if value[other] == value[run]:
                    a, b = find(other), find(run)
                    root[max(a, b)] = min(a, b)
                other += 1
    owner = np.array([find(run) for run in range(len(row))], dtype=np.int64)
    names, part = np.unique(owner, return_inverse=True)
    boxes = np.zeros((len(names), 5), np.int64)
    area = np.zeros(len(names), np.int64)
    boxes[:, 0] = value[names] if len(names) else 0
    boxes[:, 1:3] = mask.shape
    np.minimum.at(boxes[:, 1], part, row)
    np.minimum.at(boxes[:, 2], part, start)
    np.maximum.at(boxes[:, 3], part, row + 1)
    np.maximum.at(boxes[:, 4], part, stop)
    np.add.at(area, part, stop - start)
    return boxes[area >= least]


def _runs(
    mask: np.ndarray, classes: Collection[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row, first column, column behind the last and value of each run of equal pixels."""
    height, width = mask.shape
    wide = np.full((height, width + 1), -1, np.int64)
    wide[:, :width] = mask
    flat = wide.ravel()
    edge = np.flatnonzero(np.diff(flat, prepend=-1))
    behind = np.append(edge[1:], flat.size)
    value = flat[edge]
    kept = np.isin(value, list(classes))
    edge, behind, value = edge[kept], behind[kept], value[kept]
    row = edge // (width + 1)
    return row, edge - row * (width + 1), behind - row * (width + 1), value


def boxes_in_crop(boxes: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The boxes as a training crop shows them, padded to `MOST` rows of class -1: int64 [MOST, 5].

    A pixel of the crop is inside if its centre is. Boxes that the crop does not show are left out.

    Args:
        boxes: [N, 5 or more], the most important ones first.
        geometry: of the crop.
    """
    out = np.zeros((MOST, 5), np.int64)
    out[:, 0] = -1
    left, top, right, bottom = geometry.box
    width, height = geometry.size
    rows = (boxes[:, [1, 3]] - top) * (height / (bottom - top))
    columns = (boxes[:, [2, 4]] - left) * (width / (right - left))
    if geometry.mirror:
        columns = width - columns[:, ::-1]
    rows = np.rint(rows).clip(0, height).astype(np.int64)
    columns = np.rint(columns).clip(0, width).astype(np.int64)
    seen = (rows[:, 1] > rows[:, 0]) & (columns[:, 1] > columns[:, 0])
    parts = (boxes[:, 0], rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1])
    shown = np.stack(parts, axis=1).astype(np.int64)[seen][:MOST]
    out[: len(shown)] = shown
    return out


def thing_classes(source: Source) -> tuple[int, ...]:
    """Ids of the classes of countable objects.

    Those that the source knows; else all but a first class called background. UserError if it is
    not known which they are.
    """
    if source.things:
        return tuple(source.classes.index(name) for name in source.things)
    if source.classes[0].lower() == "background":
        return tuple(range(1, len(source.classes)))
    raise UserError(
        f"{source.name} does not say which classes are countable things: write them into its "
        f'meta.toml, such as things = ["{source.classes[-1]}"]'
    )


def write_boxes(path: Path, found: FoundBoxes) -> None:
    """Write a file of boxes, atomically."""
    content = {
        "format": FORMAT,
        "fingerprint": found.fingerprint,
        "classes": found.classes,
        "threshold": found.threshold,
        "boxes": {
            id: [[*map(int, row[:5]), round(float(row[5]), 4)] for row in boxes]
            for id, boxes in found.images.items()
        },
    }
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")


def read_boxes(path: Path, source: Source, threshold: float | None = None) -> dict[str, np.ndarray]:
    """The boxes of each image with at least this score, best first: float [N, 6] by id.

    All of them without a threshold.

    Raises UserError if the file is missing or damaged, was made for other data, or lacks boxes of
    such a score.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(f"{path} is of another version: make it again with detector predict")
        made_for, classes = content["fingerprint"], tuple(content["classes"])
        lowest = float(content["threshold"])
        found = {str(id): _table(rows) for id, rows in content["boxes"].items()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make it with u2pl-semi detector predict") from None
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is no file of boxes ({type(error).__name__}: {error}): make it with u2pl-semi "
            "detector predict"
        ) from None
    if made_for != source.fingerprint() or classes != source.classes:
        raise UserError(
            f"{path} was made for other data (fingerprint {made_for}, here "
            f"{source.fingerprint()}): make it again with u2pl-semi detector predict"
        )
    least = lowest if threshold is None else threshold
    if least < lowest:
        raise UserError(
            f"{path} holds boxes of a score from {lowest:g} on, not from {least:g}: make it "
            f"again with u2pl-semi detector predict --threshold {least:g}"
        )
    for id, rows in found.items():
        foreign = (rows[:, 0] < 0) | (rows[:, 0] >= len(classes)) | ~np.isfinite(rows).all(axis=1)
        if foreign.any():
            raise UserError(
                f"{path} has a box of {id!r} that is none: make it again with u2pl-semi detector "
                "predict"
            )
        kept = rows[rows[:, 5] >= least]
        found[id] = kept[np.argsort(-kept[:, 5], kind="stable")]
    return found


def _table(rows: list[list[float]]) -> np.ndarray:
    """Float [N, 6]; ValueError if a row has another length, or holds no numbers."""
    if any(type(value) not in (int, float) for row in rows for value in row):
        raise ValueError("a box is six numbers")
    table = np.array(rows, np.float64)
    if table.size and table.shape[1:] != (6,):
        raise ValueError("a box is six numbers")
    return table.reshape(-1, 6)
