"""Some masks over their images in one picture: what was understood of them, to look at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from u2pl.data.classes import is_background
from u2pl.data.ids import few
from u2pl.doctor.findings import Diagnosis
from u2pl.errors import UserError
from u2pl.files import cache_folder
from u2pl.report.gallery import Tile, mask_sheet
from u2pl.run.task import Part

#: Masks that are drawn, evenly spread over each part.
DRAWN = 12


def draw_masks(parts: Sequence[Part], diagnosis: Diagnosis) -> None:
    """Draw masks of these parts into a picture in the cache folder, and say where it is.

    Broken ones are left to those who look for them. Says nothing if there is no mask.
    """
    masked = [[id for id in part.ids if part.source.has_mask(id)] for part in parts]
    tiles = [
        tile
        for part, ids, count in zip(parts, masked, shares(map(len, masked), DRAWN), strict=True)
        for id in few(ids, count)
        if (tile := _tile(part, id)) is not None
    ]
    folder = cache_folder()
    if not tiles or folder is None:
        return
    source = parts[0].source
    name = re.sub(r"[^\w.]+", "-", f"doctor-{source.name}-{source.fingerprint()}")
    path, background = folder / f"{name}.png", is_background(0, source.classes[0])
    try:
        mask_sheet(tiles, source.classes, source.palette, background, path)
    except UserError as error:
        diagnosis.say(f"note: no masks are drawn over their images: {error}")
        return
    diagnosis.say(
        f"look at {len(tiles)} of {sum(map(len, masked))} masks over their images: {path}"
    )


def shares(sizes: Iterable[int], most: int) -> list[int]:
    """How many things of each kind are taken, at most so many: alike, as far as there are any."""
    left = list(sizes)
    taken = [0] * len(left)
    for _ in range(min(most, sum(left))):
        least = min((count, kind) for kind, count in enumerate(taken) if count < left[kind])[1]
        taken[least] += 1
    return taken


def _tile(part: Part, id: str) -> Tile | None:
    try:
        return Tile(f"{id} ({part.role})", np.asarray(part.source.image(id)), part.source.mask(id))
    except UserError:
        return None
