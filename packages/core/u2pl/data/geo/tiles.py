"""Rasters cut into tiles, and blocks of tiles that are held out to score on."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from u2pl.data.geo.rasters import Box

#: Sides of the blocks in tiles, and how many blocks with masks there have to be.
BLOCKS, ENOUGH = (4, 3, 2), 5


class Tile(NamedTuple):
    """A piece of a raster, which is an image of its own."""

    raster: str  # its name
    row: int  # in the grid of tiles, from 0
    column: int
    box: Box

    @property
    def id(self) -> str:
        """`RASTER@ROW,COLUMN`."""
        return f"{self.raster}@{self.row},{self.column}"


def cut(raster: str, width: int, height: int, side: int) -> list[Tile]:
    """The tiles of a raster, row by row.

    All have `side` pixels but the last of a row or column, which has half as many more or fewer.
    """
    down, across = _edges(height, side), _edges(width, side)
    return [
        Tile(raster, row, column, (across[column], down[row], across[column + 1], down[row + 1]))
        for row in range(len(down) - 1)
        for column in range(len(across) - 1)
    ]


def _edges(length: int, side: int) -> list[int]:
    count = max(1, (2 * length + side) // (2 * side))
    return [*(number * side for number in range(count)), length]


class HeldOut(NamedTuple):
    """Tiles to score on."""

    scored: list[str]  # those with masks
    blocks: frozenset[str]  # all tiles of the same blocks
    side: int  # of a block, in tiles


def hold_out_blocks(
    tiles: Sequence[Tile], masked: Collection[str], free: Collection[str]
) -> HeldOut:
    """Hold out whole blocks of tiles, until they have a fifth of the masked ones.

    The blocks' hashes decide, so the choice is always the same. Blocks are as large as they can be
    with five of them that have masks; if even the smallest are fewer, tiles are held out one by
    one. None are if fewer than two tiles have masks.

    Args:
        tiles: all of them.
        masked: ids of those with masks.
        free: ids that may be held out; a block with any other id is not.
    """
    sides = (*BLOCKS, 1)
    for side in sides:
        blocks: dict[str, list[str]] = defaultdict(list)
        for tile in tiles:
            blocks[f"{tile.raster}@{tile.row // side},{tile.column // side}"].append(tile.id)
        counts = {name: sum(id in masked for id in ids) for name, ids in blocks.items()}
        candidates = [
            name for name, ids in blocks.items() if counts[name] and all(id in free for id in ids)
        ]
        if len(candidates) >= ENOUGH or side == sides[-1]:
            break
    if sum(count > 0 for count in counts.values()) < 2:
        return HeldOut([], frozenset(), side)
    chosen: list[str] = []
    wanted = math.ceil(sum(counts.values()) / 5)
    for name in sorted(candidates, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        if sum(counts[each] for each in chosen) >= wanted:
            break
        chosen.append(name)
    inside = [id for name in chosen for id in blocks[name]]
    return HeldOut(sorted(id for id in inside if id in masked), frozenset(inside), side)
