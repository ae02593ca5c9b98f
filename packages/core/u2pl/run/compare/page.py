"""A comparison as a page in one file, without any other file or script."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from markupsafe import Markup

from u2pl.evaluate.statistics import Interval
from u2pl.report.charts import COLOURS, Series, interval_chart, line_chart
from u2pl.report.curves import Figure
from u2pl.report.page import Tile, render
from u2pl.run.compare.comparison import Comparison, Row
from u2pl.run.compare.finished import ROLES, Role
from u2pl.run.compare.gains import Gain, Spread
from u2pl.run.compare.tables import (
    Columns,
    class_table,
    heading,
    interval_words,
    reading,
    spread_words,
)
from u2pl.run.compare.variants import Variant

#: How far the axis of gains reaches beyond the gains themselves.
REACH = 1.6


class ShownRow(NamedTuple):
    """A line of a table of scores."""

    variant: str
    last: str
    gain: str
    kind: str  # `up` or `down`, if the gain holds
    drawing: Markup
    words: str
    best: str
    seeds: int
    minutes: str
    over_seeds: str
    over_images: str


class Part(NamedTuple):
    """The table of one role."""

    title: str
    rows: list[ShownRow]


class Cell(NamedTuple):
    """A gain of a class."""

    text: str
    kind: str


class ClassRow(NamedTuple):
    """A class and what each variant gains on it."""

    name: str
    cells: list[Cell]


class Classes(NamedTuple):
    """What one role does on each class."""

    role: Role
    names: list[str]
    gains: list[ClassRow]  # none without a reference
    scores: Columns


def page(found: Comparison) -> str:
    """The HTML."""
    several = len(found.variants) > 1
    bounds = _bounds([row.gain for row in found.rows if row.gain is not None])
    roles = [role for role in ROLES if found.rows_of(role)]
    data = found.reference.runs[0].summary["data"]
    values: dict[str, object] = {
        "title": f"{_names(found)} on {data}",
        "subtitle": heading(found),
        "tiles": list(_tiles(found)),
        "notes": [*found.doubts, *found.flags, *found.notes],
        "reference": found.reference.name if several else "",
        "axis": f"from {bounds[0]:+.1f} to {bounds[1]:+.1f}",
        "over_images": any(row.gain and row.gain.over_images for row in found.rows),
        "parts": [
            Part(_title(role), [_shown(row, bounds) for row in found.rows_of(role)])
            for role in roles
        ],
        "figures": [figure for role in roles for figure in _figures(found, role)],
        "classes": [_classes(found, role) for role in roles],
        "reading": reading(found),
        "runs": Columns(
            ["variant", "seeds", "folders"],
            [
                [
                    variant.name,
                    ", ".join(map(str, variant.seeds)),
                    ", ".join(str(run.folder) for run in variant.runs),
                ]
                for variant in found.variants
            ],
            [],
        ),
        "program": found.app.name,
    }
    return render("compare.html.j2", values)


def _names(found: Comparison) -> str:
    methods = list(dict.fromkeys(variant.method for variant in found.variants))
    if len(methods) > 3:
        return f"{len(found.variants)} variants of {len(methods)} methods"
    return " and ".join([", ".join(methods[:-1]), methods[-1]] if methods[1:] else methods)


def _title(role: Role) -> str:
    return "Students" if role == "student" else "Averages (teacher, EMA, mean of two students)"


def _tiles(found: Comparison) -> Iterator[Tile]:
    """The reference, the largest gain that holds, and how much there is to go by."""
    first, *others = (row for row in found.rows if row.variant == found.reference.name)
    beside = "".join(f"; {row.network} {row.last.words()}" for row in others)
    more = f"{first.network}{beside}; last, %"
    yield Tile(f"mIoU of {found.reference.name}", first.last.words(), more)
    gains = [(row.gain.spread.mean, row) for row in found.rows if row.gain and row.gain.holds]
    if len(found.variants) > 1:
        best = max(gains, key=lambda item: item[0], default=None)
        if best is not None and best[0] > 0:
            row = best[1]
            yield Tile(
                "largest gain that holds",
                f"{best[0]:+.2f}",
                f"{row.variant}, {row.network} against the reference's {row.role}",
                "up",
            )
        else:
            yield Tile("gains that hold", "none", "beyond seeds and images")
    seeds = sorted({seed for variant in found.variants for seed in variant.seeds})
    number = sum(len(variant.runs) for variant in found.variants)
    listed = ", ".join(map(str, seeds))
    more = f"{number} run{'s' * (number != 1)}, seed{'s' * (len(seeds) != 1)} {listed}"
    yield Tile("variants", str(len(found.variants)), more)
    if found.images is not None:
        yield Tile("scored images", str(found.images), found.evaluation)


def _bounds(gains: list[Gain]) -> tuple[float, float]:
    """The axis of gains: all means and 0, and of the intervals what is not far outside."""
    means = [gain.spread.mean for gain in gains]
    images = [end for gain in gains if gain.over_images for end in gain.over_images]
    near = [0.0, *means, *images]
    room = max(REACH * max(map(abs, near)), 0.5)
    seeds = [end for gain in gains if gain.over_seeds for end in gain.over_seeds]
    ends = [*near, *(min(max(end, -room), room) for end in seeds)]
    low, high = min(ends), max(ends)
    return low - 0.03 * (high - low) - 0.1, high + 0.03 * (high - low) + 0.1


def _shown(row: Row, bounds: tuple[float, float]) -> ShownRow:
    gain = row.gain
    over_seeds = gain.over_seeds if gain else None
    over_images = gain.over_images if gain else None
    return ShownRow(
        row.variant,
        row.last.words(),
        spread_words(gain.spread, "+") if gain else "",
        _kind(gain.spread.mean) if gain and gain.holds else "",
        _drawing(row, gain, bounds) if gain else Markup(""),
        row.words,
        spread_words(row.best),
        len(row.seeds),
        f"{row.minutes:.1f}",
        interval_words(over_seeds),
        interval_words(over_images),
    )


def _drawing(row: Row, gain: Gain, bounds: tuple[float, float]) -> Markup:
    said = [
        f"{row.variant}: {gain.spread.words('+')}",
        *_said("over seeds", gain.over_seeds),
        *_said("over images", gain.over_images),
    ]
    return interval_chart(
        ", ".join(said), gain.spread.mean, bounds, gain.over_images, gain.over_seeds
    )


def _said(what: str, interval: Interval | None) -> list[str]:
    return [f"{what} {interval_words(interval)}"] if interval is not None else []


def _kind(value: float) -> str:
    return "up" if value > 0 else "down"


def _figures(found: Comparison, role: Role) -> Iterator[Figure]:
    """Curves of all variants, as many in a chart as there are colours; the reference in each."""
    curves = [each for each in (_curve(variant, role) for variant in found.variants) if each.x]
    if not any(len(each.x) > 1 for each in curves):
        return
    own = [each for each in curves if each.name == found.reference.name]
    others = [each for each in curves if each.name != found.reference.name]
    size = COLOURS - len(own)
    groups = [others[i : i + size] for i in range(0, len(others), size)] or [[]]
    for number, group in enumerate(groups, 1):
        title = f"mIoU of the {role}s" + (f", {number} of {len(groups)}" if groups[1:] else "")
        drawing = line_chart(title, [*own, *group], x_name="steps done", bounds=(0, 100))
        yield Figure(title, drawing, "")


def _curve(variant: Variant, role: Role) -> Series:
    """The mean over the seeds, at the steps that all of them have."""
    curves = [curve for run in variant.runs if (curve := run.curve(role))]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    means = [sum(curve[step] for curve in curves) / len(curves) for step in steps]
    return Series(variant.name, steps, means)


def _classes(found: Comparison, role: Role) -> Classes:
    rows = [row for row in found.rows_of(role) if row.gain is not None]
    gains = [
        ClassRow(name, [_cell(row.per_class_gain[id]) for row in rows])
        for id, name in enumerate(found.classes)
    ]
    names = [row.variant for row in rows]
    return Classes(role, names, gains if rows else [], class_table(found, role))


def _cell(spread: Spread | None) -> Cell:
    if spread is None:
        return Cell("", "")
    sure = not math.isnan(spread.deviation) and abs(spread.mean) > spread.deviation
    return Cell(spread.words("+"), _kind(spread.mean) if sure else "")
