"""What images and masks contain: sizes, pixels per class, and every file that would stop a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from u2pl.data.mask_checks import only_black_and_white
from u2pl.data.source import Source
from u2pl.errors import UserError
from u2pl.notation import IGNORE


class Survey(NamedTuple):
    """Findings over the images that were opened."""

    looked_at: int  # images
    masked: int  # those with a readable mask
    pixels: np.ndarray  # int64 [C], mask pixels per class
    images: np.ndarray  # int64 [C], masks in which the class occurs
    ignored: int  # mask pixels that are 255
    sizes: Counter[tuple[int, int]]  # (width, height) -> images
    absent: tuple[str, ...]  # classes in no mask
    problems: tuple[str, ...]  # error messages of one line each


def survey(source: Source, ids: Sequence[str], limit: int | None = None) -> Survey:
    """Decode the images and masks of at most `limit` ids, evenly spread; collects errors."""
    if limit is not None and len(ids) > limit:
        ids = [ids[i * len(ids) // limit] for i in range(limit)]
    per_id = np.zeros(IGNORE + 1, np.int64)
    images = np.zeros(len(source.classes), np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    problems: list[str] = []
    masked = 0
    for id in ids:
        try:
            sizes[source.image(id).size] += 1
            if source.has_mask(id):
                counts = np.bincount(source.mask(id).ravel(), minlength=IGNORE + 1)
                per_id += counts
                images += counts[: len(source.classes)] > 0
                masked += 1
        except UserError as error:
            problems.append(str(error))
    pixels = per_id[: len(source.classes)]
    if pixels[0] and per_id[IGNORE] and not pixels[1:].any():
        problems.append(only_black_and_white(source))
    absent = tuple(
        name for name, count in zip(source.classes, pixels, strict=True) if masked and not count
    )
    return Survey(
        len(ids), masked, pixels, images, int(per_id[IGNORE]), sizes, absent, tuple(problems)
    )
