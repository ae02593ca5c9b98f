"""Choosing the labelled images: by number, by fraction, by a split's name, or by a file of ids."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from u2pl.data.classes import listed
from u2pl.data.ids import first_three
from u2pl.data.source import Source
from u2pl.errors import UserError
from u2pl.files import expanded
from u2pl.notation import IGNORE


class LabeledSplit(NamedTuple):
    """Labelled and unlabelled images, and the protocol's name, printed with every score."""

    labeled: list[str]
    unlabeled: list[str]
    protocol: str


def choose_labeled(source: Source, which: str | None, seed: int) -> LabeledSplit:
    """Take `which` as an integer, a fraction (`1/16`, `0.1`), a split or a file, in this order.

    None means the split `labeled` if there is one, else all images with masks. Integers and
    fractions are drawn by `seed` from the source's label pool, such that every class of the pool
    occurs if possible. The other training images are unlabelled.

    Raises UserError if `which` is none of these, asks for no image or for more than there are, or
    includes images without mask or images of val.
    """
    if which is None:
        which = "labeled" if "labeled" in source.splits() else "1/1"
    count = _count(which, source)
    if count is not None:
        labeled, protocol = _draw(source, which, count, seed)
    elif which in source.splits():
        labeled = source.split(which)
        protocol = f"{which} ({_images(labeled)})"
    elif expanded(which).is_file():
        labeled = source.read_list(expanded(which))
        protocol = f"file {Path(which).name} ({_images(labeled)})"
    else:
        known = ", ".join(source.splits())
        raise UserError(
            f"labeled {which!r} is no number, no fraction, no file and no split of {source.name}, "
            f"which has {known}"
        )
    _check_labeled(source, labeled, which)
    chosen = set(labeled)
    unlabeled = [id for id in source.split(source.train_split) if id not in chosen]
    return LabeledSplit(
        labeled, unlabeled, f"{source.protocol}: {protocol}" if source.protocol else protocol
    )


def _pool(source: Source) -> list[str]:
    # Sorted, so that what a seed draws depends on neither the file system nor a list's order.
    return sorted(id for id in source.split(source.label_pool) if source.has_mask(id))


def _count(which: str, source: Source) -> int | None:
    if not re.fullmatch(r"[+-]?(\d+|\d+/\d+|\d*\.\d+|\d+\.)", which):
        return None
    available = len(_pool(source))
    if not available:
        advice = source.where_masks_lack("add masks, or name a split or a file of ids")
        raise UserError(
            f"no image of {source.name}'s split {source.label_pool!r} has a mask: {advice}"
        )
    if re.fullmatch(r"[+-]?\d+", which):
        count = int(which)
        if not 1 <= count <= available:
            raise UserError(
                f"labeled {which}: {source.name} has {available} masked images in "
                f"{source.label_pool!r}; ask for 1 to {available}"
            )
        return count
    fraction = Fraction(which) if not re.search(r"/0+$", which) else Fraction(0)
    if not 0 < fraction <= 1:
        raise UserError(
            f"labeled {which}: a fraction must be above 0 and at most 1, such as 1/16 or 0.1"
        )
    # rounded up, like the published lists: 92 of 1 464, 662 of 10 582
    return math.ceil(fraction * available)


def _draw(source: Source, which: str, count: int, seed: int) -> tuple[list[str], str]:
    pool = _pool(source)
    if count == len(pool):
        return pool, f"all of {source.label_pool} with masks ({_images(pool)})"
    labeled, missing = draw_stratified(source, pool, count, seed)
    facts = _images(labeled) + (", not a published list" if source.protocol else "")
    if missing:
        facts += f", without {listed([source.classes[c] for c in missing])}"
    return labeled, f"{which} of {source.label_pool}, seed {seed}, stratified ({facts})"


def absent_classes(source: Source, ids: Iterable[str]) -> list[str]:
    """Names of the classes that occur in no mask; stops decoding once all have been seen."""
    missing = set(range(len(source.classes)))
    for id in ids:
        missing -= _classes_in(source, id)
        if not missing:
            break
    return [source.classes[c] for c in sorted(missing)]


def draw_stratified(
    source: Source, pool: list[str], count: int, seed: int
) -> tuple[list[str], list[int]]:
    """Draw `count` ids of `pool` by `seed`, such that every class occurs if possible.

    For a missing class, swaps in a later draw that contains it for one that is redundant. Returns
    the ids and the classes that could not be covered. Decodes only as many masks as needed.
    """
    order = [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))]
    chosen = order[:count]
    held = [_classes_in(source, id) for id in chosen]
    times = Counter(c for classes in held for c in classes)
    for id in order[count:]:
        if len(times) == len(source.classes):
            break
        found = _classes_in(source, id)
        if found <= times.keys():
            continue
        spare = next(
            (i for i in reversed(range(count)) if all(times[c] > 1 or c in found for c in held[i])),
            None,
        )
        if spare is None:
            continue
        times.update(found)
        times.subtract(held[spare])
        chosen[spare], held[spare] = id, found
    return sorted(chosen), sorted(set(range(len(source.classes))) - times.keys())


def _images(ids: list[str]) -> str:
    return "1 image" if len(ids) == 1 else f"{len(ids)} images"


def _classes_in(source: Source, id: str) -> frozenset[int]:
    counts = np.bincount(source.mask(id).ravel(), minlength=IGNORE)[:IGNORE]
    return frozenset(np.flatnonzero(counts).tolist())


def _check_labeled(source: Source, labeled: list[str], which: str) -> None:
    bare = [id for id in labeled if not source.has_mask(id)]
    if bare:
        advice = source.where_masks_lack("add their masks or take them out")
        raise UserError(f"labeled {which}: images without mask: {first_three(bare)}: {advice}")
    scored = set(source.split("val")) if "val" in source.splits() else set()
    leaked = [id for id in labeled if id in scored]
    if leaked:
        raise UserError(
            f"labeled {which}: images of the val split: {first_three(leaked)}: scores would be "
            "measured on training images"
        )
