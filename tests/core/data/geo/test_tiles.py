from __future__ import annotations

import numpy as np
import pytest

from u2pl.data.geo.tiles import Tile, cut, hold_out_blocks


@pytest.mark.parametrize("size", [(100, 70), (16, 16), (7, 5), (48, 55), (49, 56)])
def test_tiles_cover_every_pixel_once_and_none_is_a_sliver(size: tuple[int, int]) -> None:
    width, height = size
    seen = np.zeros((height, width), int)
    for tile in cut("a", width, height, 16):
        left, top, right, bottom = tile.box
        seen[top:bottom, left:right] += 1
        for length, whole in ((right - left, width), (bottom - top, height)):
            assert min(8, whole) <= length < 24
    assert (seen == 1).all()


def grid(rows: int, columns: int, name: str = "a") -> list[Tile]:
    return cut(name, columns * 16, rows * 16, 16)


def test_held_out_are_whole_blocks_with_a_fifth_of_the_masks() -> None:
    tiles = grid(12, 12) + grid(8, 8, "b")
    ids = [tile.id for tile in tiles]
    held = hold_out_blocks(tiles, ids, ids)
    assert held.side == 4
    blocks = {(t.raster, t.row // 4, t.column // 4) for t in tiles if t.id in held.blocks}
    whole = [t.id for t in tiles if (t.raster, t.row // 4, t.column // 4) in blocks]
    assert set(whole) == held.blocks == set(held.scored)
    assert len(ids) / 5 <= len(held.scored) < len(ids) / 5 + 16
    assert hold_out_blocks(tiles[::-1], ids, ids) == held


def test_tiles_without_mask_in_a_held_out_block_are_not_scored_but_left_out_too() -> None:
    tiles = grid(12, 12)
    masked = [tile.id for tile in tiles if (tile.row + tile.column) % 2]
    held = hold_out_blocks(tiles, masked, [tile.id for tile in tiles])
    assert set(held.scored) == held.blocks & set(masked)
    assert len(held.blocks) == 2 * len(held.scored)


def test_blocks_shrink_until_there_are_five_and_then_to_tiles() -> None:
    sides = {}
    for rows, columns in ((12, 12), (8, 6), (6, 4), (3, 3), (1, 2), (1, 1)):
        tiles = grid(rows, columns)
        ids = [tile.id for tile in tiles]
        held = hold_out_blocks(tiles, ids, ids)
        sides[rows, columns] = held.side, len(held.scored) > 0
    assert sides == {
        (12, 12): (4, True),
        (8, 6): (3, True),
        (6, 4): (2, True),
        (3, 3): (1, True),
        (1, 2): (1, True),
        (1, 1): (1, False),
    }


def test_a_block_with_a_listed_tile_is_not_held_out() -> None:
    tiles = grid(12, 12)
    ids = [tile.id for tile in tiles]
    listed = {"a@0,0", "a@5,5", "a@11,11"}
    held = hold_out_blocks(tiles, ids, set(ids) - listed)
    assert held.scored and not {
        (row // 4, column // 4) for row, column in ((0, 0), (5, 5), (11, 11))
    } & {(t.row // 4, t.column // 4) for t in tiles if t.id in held.blocks}
