"""COCO's instance annotations as masks: one JSON file for all images of a split.

An object is a list of polygons, or runs of pixels, with or without compression. COCO's own file of
its training images has 450 MB, so it is taken apart once, and what each image has is kept in the
cache folder (`u2pl.cache`).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import index
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from u2pl.errors import UserError

# Increase whenever the same file is taken apart otherwise.
_FORMAT = 1


class Instances(NamedTuple):
    """What a file says of each image: `[height, width, [[category, segmentation], ...]]`, as JSON.

    The texts lie one behind the other, so that processes can share them.
    """

    file: Path
    rows: Mapping[str, int]  # an image's name without suffix -> its row
    text: np.ndarray  # uint8, all texts
    ends: np.ndarray  # int64, where each of them ends

    def mask(self, id: str, size: tuple[int, int], classes: Mapping[int, int]) -> np.ndarray:
        """Classes of an image's pixels, uint8 [H, W]; 0 where no object is.

        Objects are painted in the order of their pixels, the largest first, so that small ones stay
        visible on what they lie on.

        Args:
            id: one of `rows`.
            size: (H, W) of the image.
            classes: category -> class.

        Raises:
            UserError: The image has another size, or the segmentation of an object is broken.
        """
        row = self.rows[id]
        text = self.text[self.ends[row - 1] if row else 0 : self.ends[row]]
        height, width, objects = json.loads(text.tobytes())
        if (height, width) != size:
            raise UserError(
                f"{self.file} says that image {id} is {width}x{height}, but it is "
                f"{size[1]}x{size[0]}: restore the image as published"
            )
        try:
            regions = [(classes[number], region(parts, size)) for number, parts in objects]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = str(error) if isinstance(error, ValueError) else "neither polygons nor runs"
            raise UserError(
                f"{self.file}: the segmentation of an object in image {id} is broken ({reason}): "
                "replace the file"
            ) from None
        mask = np.zeros(size, np.uint8)
        for label, inside in sorted(regions, key=lambda each: -int(each[1].sum())):
            mask[inside] = label
        return mask


def region(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Pixels of an object, bool [H, W].

    Args:
        segmentation: polygons `[x, y, x, y, ...]`, or `{"size": [H, W], "counts": runs}`, with runs
            as a list or compressed to a text.
        size: (H, W) of the image.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: It is nothing of the kind.
    """
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != size:
            raise ValueError("runs of an image of another size")
        counts = segmentation["counts"]
        return fill_runs(uncompressed(counts) if isinstance(counts, str) else counts, size)
    inside = np.zeros(size, bool)
    for polygon in segmentation:
        inside |= fill_polygon(np.asarray(polygon, np.float64).reshape(-1, 2), size)
    return inside


def fill_polygon(points_N2: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies in a polygon, by the even-odd rule: bool [H, W].

        crossings = [x where an edge crosses the line y = i + 0.5]
        inside[i, j] = sum(x <= j + 0.5 for x in crossings) % 2 == 1

    COCO's own reader does so too, after rounding the corners to a fifth of a pixel.

    Args:
        points_N2: float x and y of the corners; pixel (i, j) covers x from j to j + 1 and y from i
            to i + 1.
        size: (H, W); what lies outside is cut off.

    Raises:
        ValueError: A number is not finite.
    """
    if not np.isfinite(points_N2).all():
        raise ValueError("a corner is not finite")
    inside = np.zeros(size, bool)
    (x, y), (next_x, next_y) = points_N2.T, np.roll(points_N2, -1, axis=0).T
    # the rows whose centre an edge crosses: one end of it is part of it, the other is not
    first, last = (
        np.ceil(end(y, next_y) - 0.5).clip(0, size[0]).astype(np.int64)
        for end in (np.minimum, np.maximum)
    )
    rows = last - first
    edge = np.repeat(np.arange(len(rows)), rows)
    if not len(edge):
        return inside
    row = np.arange(len(edge)) + (first - (np.cumsum(rows) - rows))[edge]
    crossing = x[edge] + (row + 0.5 - y[edge]) * ((next_x - x)[edge] / (next_y - y)[edge])
    column = np.ceil(crossing - 0.5).clip(0, size[1]).astype(np.int64)
    top, left = row.min(), column.min()
    turns = np.zeros((row.max() + 1 - top, column.max() + 1 - left), np.uint8)
    np.add.at(turns, (row - top, column - left), 1)
    odd = np.bitwise_xor.accumulate(turns & 1, axis=1)[:, :-1]  # after the last crossing none is
    inside[top : top + odd.shape[0], left : left + odd.shape[1]] = odd
    return inside


def fill_runs(counts: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Pixels in every second run, bool [H, W]; runs go down the columns, the first is outside.

    Raises ValueError if they are not of the image's number of pixels.
    """
    lengths = np.asarray(counts)
    if lengths.dtype.kind != "i" or lengths.sum() != size[0] * size[1] or (lengths < 0).any():
        raise ValueError("runs of another number of pixels")
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return inside.reshape(size[1], size[0]).T


def uncompressed(text: str) -> list[int]:
    """Lengths of runs from COCO's compressed form.

    Each number takes some characters of five bits, the low ones first, a sixth bit says that more
    follow, and the last of its bits is the sign. From the fourth number on, it is the difference to
    the one before the previous. Raises ValueError if the text ends within a number.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("runs that end too early")
    return counts


def instances(file: Path, names: Mapping[int, str]) -> Instances:
    """Take a file apart, or find what was kept of it.

    Args:
        file: such as instances_train2017.json.
        names: name of each category that it may hold.

    Raises:
        UserError: It is missing or broken, or of other categories.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): restore the file") from None
    return _instances(file, tuple(names.items()), (stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=4)
def _instances(
    file: Path, names: tuple[tuple[int, str], ...], version: tuple[int, int]
) -> Instances:
    import torch

    from u2pl.cache import load_cached, store_cached

    key = hashlib.sha256(repr((_FORMAT, file.name, names, version)).encode()).hexdigest()[:24]
    kept = load_cached("coco-instances", key)
    if kept is None or kept.keys() != {"ids", "text", "ends"}:
        ids, texts = _taken_apart(file, dict(names))
        kept = {
            "ids": torch.from_numpy(_bytes(json.dumps(ids).encode())),
            "text": torch.from_numpy(_bytes(b"".join(texts))),
            "ends": torch.tensor([len(text) for text in texts]).cumsum(0),
        }
        store_cached("coco-instances", key, kept)
    rows = {id: row for row, id in enumerate(json.loads(kept["ids"].numpy().tobytes()))}
    return Instances(file, rows, kept["text"].numpy(), kept["ends"].numpy())


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(content), np.uint8)


class _Image(NamedTuple):
    id: int
    name: str  # without folders and suffix
    size: str  # "height,width"


class _Object(NamedTuple):
    image: int
    category: int
    text: bytes  # JSON of [category, segmentation]


def _compact(found: dict[str, Any]) -> Any:
    """An image or an object in short: as dicts of lists, all of them take several GB.

    Raises TypeError where a number or a name should be and is not.
    """
    if {"image_id", "category_id", "segmentation"} <= found.keys():
        image, category = (index(found[key]) for key in ("image_id", "category_id"))
        content = [category, found["segmentation"]]
        return _Object(image, category, json.dumps(content, separators=(",", ":")).encode())
    if {"id", "file_name", "height", "width"} <= found.keys():
        number, height, width = (index(found[key]) for key in ("id", "height", "width"))
        return _Image(number, PurePosixPath(found["file_name"]).stem, f"{height},{width}")
    return found


def _taken_apart(file: Path, names: Mapping[int, str]) -> tuple[list[str], list[bytes]]:
    """Ids of a file's images, and the text of each."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            found = json.load(opened, object_hook=_compact)
        images: list[_Image] = found["images"]
        objects: list[_Object] = found["annotations"]
        categories = {each["id"]: each["name"] for each in found["categories"]}
        well = all(type(each) is _Image for each in images)
        well &= all(type(each) is _Object for each in objects)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): restore the file") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        well = False
    if not well or not images:
        raise UserError(
            f"{file} does not hold COCO's instances, which are lists of images, annotations with "
            "segmentations, and categories: replace the file by the one as published"
        )
    used = categories | {each.category: "" for each in objects if each.category not in categories}
    other = next((c for c, name in used.items() if names.get(c) != name), None)
    if other is not None:
        raise UserError(
            f"{file} calls category {other} {used[other]!r}, which COCO calls "
            f"{names.get(other)!r}: coco: reads COCO itself; save annotations of your own as masks "
            "in a folder of photos"
        )
    of_image = defaultdict(list)
    for each in objects:
        of_image[each.image].append(each.text)
    texts = [
        b"[%s,[%s]]" % (image.size.encode(), b",".join(of_image[image.id])) for image in images
    ]
    return [image.name for image in images], texts
