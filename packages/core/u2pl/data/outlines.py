"""Polygons around the connected parts of a mask.

Corners are those of pixels: pixel (0, 0) covers the square from 0 to 1. Neighbours share their
border, so that polygons neither overlap nor leave gaps, before and after they are simplified.

Letters: R: runs of equal pixels in a row; P: pairs of runs that touch in neighbouring rows;
E: pieces of borders; V: corners of a ring.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

#: Steps to the right, down, left and up; one after the other they turn right.
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
#: Pixels whose runs are looked for at once.
_AT_ONCE = 2**24


class Outline(NamedTuple):
    """A connected part of a class: pixels that share a side are connected."""

    label: int  # class id
    area: int  # pixels
    outer: np.ndarray  # int64 [V, 2], x and y of its corners, clockwise
    holes: tuple[np.ndarray, ...]  # the same of each hole, counter-clockwise

    def single_ring(self) -> np.ndarray:
        """Outer ring and holes as one ring, for formats without holes: int64 [V, 2].

        A slit without width leads to each hole and back, so that the filled polygon is the same.
        """
        ring = self.outer
        for hole in sorted(self.holes, key=lambda ring: ring.min(0).tolist()):
            begin = np.lexsort((hole[:, 1], hole[:, 0]))[0]
            near = int(np.square(ring - hole[begin]).sum(1).argmin())
            way = np.concatenate([hole[begin:], hole[: begin + 1]])
            ring = np.concatenate([ring[: near + 1], way, ring[near:]])
        return ring


class _Runs(NamedTuple):
    """Runs of equal pixels, row by row, and where those of neighbouring rows touch."""

    row: np.ndarray  # int64 [R]
    start: np.ndarray  # int64 [R], first column
    stop: np.ndarray  # int64 [R], behind the last column
    above: np.ndarray  # int64 [P], the run in the upper row
    below: np.ndarray  # int64 [P]

    @property
    def beside(self) -> np.ndarray:
        """Runs that another one of the same row follows."""
        return np.flatnonzero(self.row[1:] == self.row[:-1])

    @property
    def touching(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of runs that share a side: those in neighbouring rows, then those of a row."""
        beside = self.beside
        return np.append(self.above, beside), np.append(self.below, beside + 1)


class _Borders(NamedTuple):
    """Pieces of the borders between parts, each seen from the part at its right hand."""

    part: np.ndarray  # int64 [E]
    begin: np.ndarray  # int64 [E], number of a corner: y (W + 1) + x
    end: np.ndarray
    step: np.ndarray  # int64 [E], direction, an index into _STEPS
    joint: np.ndarray  # bool [E], whether more than two pieces meet where it begins


def outlines(
    ids_HW: np.ndarray, classes: Collection[int], least: int = 0, tolerance: float = 0.0
) -> list[Outline]:
    """The connected parts of some classes, in the order of their first pixels.

    Args:
        ids_HW: uint8, class ids; 255 and other ids are no class.
        classes: ids of the classes whose parts are wanted.
        least: parts of fewer pixels, of whatever id, are given to the neighbour with the longest
            common border first; what is smaller still is left out.
        tolerance: corners that are no further from the simplified border, in pixels, are left out;
            0 keeps every corner.
    """
    height, width = ids_HW.shape
    runs, value = _runs(ids_HW)
    value, owner = _sieved(runs, value, least)
    first, part = np.unique(owner, return_inverse=True)
    label, area = value[first], np.bincount(part, runs.stop - runs.start).astype(np.int64)
    wanted = np.isin(label, list(classes)) & (area >= least)
    borders = _borders(runs, part, len(first), height, width)
    rings: dict[int, list[np.ndarray]] = {}
    for index, corners, joints in _rings(borders, wanted, width):
        rings.setdefault(index, []).append(_simplified(corners, joints, tolerance))
    found = []
    for index in sorted(rings):
        outer = [ring for ring in rings[index] if _signed_area(ring) > 0]
        holes = tuple(ring for ring in rings[index] if _signed_area(ring) < 0)
        found.append(Outline(int(label[index]), int(area[index]), outer[0], holes))
    return found


def _runs(ids_HW: np.ndarray) -> tuple[_Runs, np.ndarray]:
    """The runs of a mask, and the id of each."""
    height, width = ids_HW.shape
    places, rows = [], max(1, _AT_ONCE // width)
    for top in range(0, height, rows):
        some = ids_HW[top : top + rows]
        change = np.ones(some.shape, bool)
        change[:, 1:] = some[:, 1:] != some[:, :-1]
        places.append(np.flatnonzero(change) + top * width)
    place = np.concatenate(places)
    row, start = place // width, place % width
    stop = np.append(start[1:], 0)
    stop[stop == 0] = width  # the next run begins another row
    lower = np.flatnonzero(row > 0)
    above_start = place[lower] - width
    first = np.searchsorted(place, above_start, "right") - 1
    last = np.searchsorted(place, above_start + (stop - start)[lower] - 1, "right") - 1
    count = last - first + 1
    below = np.repeat(lower, count)
    above = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
    return _Runs(row, start, stop, above, below), ids_HW.ravel()[place]


def _components(runs: _Runs, value: np.ndarray) -> np.ndarray:
    """The first run of the connected part that each run belongs to."""
    one, other = runs.touching
    same = value[one] == value[other]
    one, other = one[same], other[same]
    owner = np.arange(len(value))
    while True:
        here, there = owner[one], owner[other]
        apart = here != there
        if not apart.any():
            return owner
        low, high = np.minimum(here, there)[apart], np.maximum(here, there)[apart]
        np.minimum.at(owner, high, low)
        while not np.array_equal(owner, further := owner[owner]):
            owner = further
        one, other = one[apart], other[apart]


def _sieved(runs: _Runs, value: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and parts of the runs after small parts have been given to their neighbours."""
    length, (one, other) = runs.stop - runs.start, runs.touching
    overlap = np.minimum(runs.stop[one], runs.stop[other]) - np.maximum(
        runs.start[one], runs.start[other]
    )
    common = np.tile(np.where(runs.row[one] == runs.row[other], 1, overlap), 2)
    one, other = np.append(one, other), np.append(other, one)
    while True:
        owner = _components(runs, value)
        small = np.bincount(owner, length, minlength=len(value))[owner] < least
        meets = small[one] & ~small[other]
        if not meets.any():
            return value, owner
        pair, which = np.unique(
            owner[one[meets]] * len(value) + owner[other[meets]], return_inverse=True
        )
        border, near = np.bincount(which, common[meets]), pair % len(value)
        order = np.lexsort((near, -border, pair // len(value)))
        lost, at = np.unique(pair[order] // len(value), return_index=True)
        taken = np.arange(len(value))
        taken[lost] = near[order][at]
        value = value[taken[owner]]


def _borders(runs: _Runs, part: np.ndarray, parts: int, height: int, width: int) -> _Borders:
    """All pieces of borders; what lies outside of the image is a part of its own, `parts`."""
    top, bottom = (np.flatnonzero(runs.row == row) for row in (0, height - 1))
    beside = runs.beside
    leftmost, rightmost = (np.flatnonzero(edge) for edge in (runs.start == 0, runs.stop == width))
    outside = [np.full(len(found), parts) for found in (top, bottom, leftmost, rightmost)]
    # horizontal: from x to x' at y, between the part above and the one below
    x0 = np.concatenate(
        [
            np.maximum(runs.start[runs.above], runs.start[runs.below]),
            runs.start[top],
            runs.start[bottom],
        ]
    )
    x1 = np.concatenate(
        [
            np.minimum(runs.stop[runs.above], runs.stop[runs.below]),
            runs.stop[top],
            runs.stop[bottom],
        ]
    )
    y = np.concatenate([runs.row[runs.below], runs.row[top], runs.row[bottom] + 1])
    above = np.concatenate([part[runs.above], outside[0], part[bottom]])
    below = np.concatenate([part[runs.below], part[top], outside[1]])
    kept = above != below
    level = (y * (width + 1))[kept]
    west, east = level + x0[kept], level + x1[kept]
    # vertical: one row at x, between the part at the left and the one at the right
    x = np.concatenate([runs.stop[beside], runs.start[leftmost], runs.stop[rightmost]])
    row = np.concatenate([runs.row[beside], runs.row[leftmost], runs.row[rightmost]])
    left = np.concatenate([part[beside], outside[2], part[rightmost]])
    right = np.concatenate([part[beside + 1], part[leftmost], outside[3]])
    apart = left != right
    north = (row * (width + 1) + x)[apart]
    south = north + width + 1
    begin = np.concatenate([west, north, east, south])
    end = np.concatenate([east, south, west, north])
    corner, meeting = np.unique(begin, return_counts=True)
    return _Borders(
        np.concatenate([below[kept], left[apart], above[kept], right[apart]]),
        begin,
        end,
        np.repeat(np.arange(4), [len(west), len(north), len(west), len(north)]),
        np.isin(begin, corner[meeting > 2]),
    )


def _rings(
    borders: _Borders, wanted: np.ndarray, width: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each ring of the wanted parts: its part, its corners [V, 2], and which of them are joints."""
    own = np.append(wanted, False)[borders.part]
    part, begin, end, step, joint = (column[own] for column in borders)
    corners = int(max(begin.max(initial=0), end.max(initial=0))) + 1
    keys = (part * corners + begin) * 4 + step
    order = np.argsort(keys)
    sorted_keys, following = keys[order], np.full(len(keys), -1)
    # where a part touches itself at a corner, turning right keeps to pixels that share a side
    for turn in (-1, 0, 1):
        key = (part * corners + end) * 4 + (step + turn) % 4
        place = np.minimum(np.searchsorted(sorted_keys, key), max(0, len(keys) - 1))
        hit = sorted_keys[place] == key if len(keys) else np.zeros(0, bool)
        following[hit] = order[place[hit]]
    follows, seen = following.tolist(), bytearray(len(keys))
    for first in range(len(keys)):
        if seen[first]:
            continue
        ring, at = [], first
        while not seen[at]:
            seen[at] = 1
            ring.append(at)
            at = follows[at]
        numbers = begin[ring]
        yield (
            int(part[first]),
            np.stack([numbers % (width + 1), numbers // (width + 1)], 1),
            joint[ring],
        )


def _simplified(corners: np.ndarray, joints: np.ndarray, tolerance: float) -> np.ndarray:
    """A ring with fewer corners; joints stay, so that all parts that meet there still do."""
    if tolerance > 0:
        found = np.concatenate([_simple_arc(arc, tolerance)[:-1] for arc in _arcs(corners, joints)])
        found = _without_straight(found)
        if len(found) >= 3 and _signed_area(found) * _signed_area(corners) > 0:
            return found
    return _without_straight(corners)


def _arcs(corners: np.ndarray, joints: np.ndarray) -> Iterator[np.ndarray]:
    """A ring cut at its joints; without any, at its first corner and the one furthest from it."""
    places = np.flatnonzero(joints)
    if len(places) < 2:
        first = places[0] if len(places) else np.lexsort((corners[:, 1], corners[:, 0]))[0]
        corners = np.roll(corners, -first, axis=0)
        far = np.square(corners - corners[0]).sum(1)
        furthest = np.flatnonzero(far == far.max())
        # the same one whichever way round the ring is walked
        other = furthest[np.lexsort((corners[furthest, 1], corners[furthest, 0]))[0]]
        places = np.array([0, other])
    ends = np.append(places[1:], places[0] + len(corners))
    for begin, end in zip(places, ends, strict=True):
        yield corners[np.arange(begin, end + 1) % len(corners)]


def _simple_arc(arc: np.ndarray, tolerance: float) -> np.ndarray:
    """Corners that remain after Douglas and Peucker (1973), whichever end is called the first."""
    turned = tuple(arc[-1]) < tuple(arc[0])
    arc = arc[::-1] if turned else arc
    kept, ahead = np.zeros(len(arc), bool), [(0, len(arc) - 1)]
    kept[[0, -1]] = True
    while ahead:
        first, last = ahead.pop()
        if last - first < 2:
            continue
        along, away = arc[last] - arc[first], arc[first + 1 : last] - arc[first]
        length = float(np.hypot(*along))
        # the distance to the line between the ends; to the point, if they are the same
        far = (
            np.abs(along[0] * away[:, 1] - along[1] * away[:, 0]) / length
            if length
            else np.hypot(away[:, 0], away[:, 1])
        )
        furthest = int(far.argmax())
        if far[furthest] > tolerance:
            middle = first + 1 + furthest
            kept[middle] = True
            ahead += [(first, middle), (middle, last)]
    found = arc[kept]
    return found[::-1] if turned else found


def _without_straight(ring: np.ndarray) -> np.ndarray:
    """The ring without corners at which it goes straight on."""
    back, forth = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[back[:, 0] * forth[:, 1] != back[:, 1] * forth[:, 0]]


def _signed_area(ring: np.ndarray) -> int:
    """Twice the area inside; positive if the ring runs clockwise, y pointing down."""
    after = np.roll(ring, -1, axis=0)
    return int((ring[:, 0] * after[:, 1] - ring[:, 1] * after[:, 0]).sum())
