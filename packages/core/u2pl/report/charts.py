"""Charts as SVG: text that scales, and colours that follow the page's light or dark style.

Colours are classes of the page's style sheet: `s0` to `s5`, `grid`, `axis`, `heat`. Every chart
has a name for screen readers, and every point says its value when it is pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

#: Size of a line chart in SVG units; it is drawn about as wide on a phone.
WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 34
#: Values from here on are not drawn; no number of 32 bits reaches it.
HUGE = 1e100
#: Colours that differ; later series repeat them, dashed.
COLOURS = 6
_DASHES = ("", "5 3", "2 2")


class Series(NamedTuple):
    """A line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]  # None where nothing was measured


class Band(NamedTuple):
    """A range of x that is told apart, such as the warm start."""

    name: str
    low: float
    high: float


def line_chart(
    name: str,
    series: Sequence[Series],
    *,
    x_name: str = "step",
    bounds: tuple[float | None, float | None] = (None, None),
    band: Band | None = None,
) -> Markup:
    """Lines over a common axis, with a key of their names.

    Args:
        name: what the chart shows, for screen readers.
        series: lines; those without a single value are left out.
        x_name: what the horizontal axis counts.
        bounds: lowest and highest value of the vertical axis, where they are known.
        band: a range of x that is shaded.
    """
    lines = [each for each in series if any(_finite(y) for y in each.y)]
    if not lines:
        return Markup("")
    xs = [x for each in lines for x in each.x]
    ys = [y for each in lines for y in each.y if y is not None and _finite(y)]
    low, high = _padded(min(ys), max(ys), bounds)
    left, right = min(xs), max(max(xs), min(xs) + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - left) / (right - left) * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM),
        )

    parts = [Markup("")]
    if band is not None:
        start, end = (place(min(max(x, left), right), low)[0] for x in (band.low, band.high))
        parts.append(
            Markup(
                '<rect class="band" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title>'
                "</rect>"
            ).format(start, _TOP, end - start, HEIGHT - _TOP - _BOTTOM, band.name)
        )
    levels = ticks(low, high)
    parts += [
        _y_tick(text, place(left, value)[1])
        for value, text in zip(levels, tick_texts(levels), strict=True)
    ]
    steps = [value for value in ticks(left, right, 4) if value == int(value)]
    parts += [_x_tick(value, place(value, low)[0]) for value in steps]
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(
            WIDTH - _RIGHT, HEIGHT - 4, x_name
        )
    )
    for index, line in enumerate(lines):
        parts.append(_path(line, index, place))
        parts += _points(line, index, place) if len(lines) * len(line.x) <= 120 else []
    values = ", ".join(f"{each.name} {number(_last(each))} at the end" for each in lines[:8])
    drawing = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, f"{name}: {values}", Markup("").join(parts))
    names = [each.name for each in lines]
    return drawing + (key(names) if len(names) > 1 or names[0] not in name else Markup(""))


def interval_chart(
    name: str,
    value: float,
    bounds: tuple[float, float],
    inner: tuple[float, float] | None = None,
    outer: tuple[float, float] | None = None,
) -> Markup:
    """A value with one or two intervals on an axis that has 0, to stand in a row of a table.

    What leaves the axis ends in an arrow.

    Args:
        name: what is shown, for screen readers and for whoever points at it.
        value: the dot.
        bounds: lowest and highest value of the axis, the same for all rows.
        inner: drawn as a broad band.
        outer: drawn as a line with ends.
    """
    width, height, room = 180, 22, 7
    low, high = bounds

    def place(x: float) -> float:
        return room + (min(max(x, low), high) - low) / (high - low) * (width - 2 * room)

    parts = [Markup('<path class="grid" d="M{:.1f} 1V{}"/>').format(place(0), height - 1)]
    if inner is not None:
        start, end = map(place, inner)
        parts.append(
            Markup('<rect class="inner" x="{:.1f}" y="6" width="{:.1f}" height="10"/>').format(
                start, max(end - start, 1)
            )
        )
    if outer is not None:
        start, end = map(place, outer)
        left = "m4 -4l-4 4l4 4" if outer[0] < low else "m0 -5v10"
        right = "m-4 -4l4 4l-4 4" if outer[1] > high else "m0 -5v10"
        parts.append(
            Markup('<path class="outer" d="M{:.1f} 11H{:.1f}M{:.1f} 11{}M{:.1f} 11{}"/>').format(
                start, end, start, left, end, right
            )
        )
    parts.append(Markup('<circle class="dot" cx="{:.1f}" cy="11" r="3.5"/>').format(place(value)))
    return Markup(
        '<svg class="interval" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}'
        "</svg>"
    ).format(width, height, name, name, Markup("").join(parts))


def key(names: Sequence[str]) -> Markup:
    """Names of lines with their colours."""
    entries = [
        Markup('<li><svg viewBox="0 0 22 6" aria-hidden="true">{}</svg>{}</li>').format(
            Markup('<path class="line s{}" d="M1 3H21"{}/>').format(i % COLOURS, _dashed(i)), name
        )
        for i, name in enumerate(names)
    ]
    return Markup('<ul class="key">{}</ul>').format(Markup("").join(entries))


def class_strip(
    name: str, classes: Sequence[str], steps: Sequence[float], values: Sequence[Sequence[float]]
) -> Markup:
    """A row for each class and a column for each moment; strong colours are high values.

    Args:
        name: what the chart shows, for screen readers.
        classes: names of the rows.
        steps: of the columns.
        values: of each column a value per class; NaN or None is left empty.
    """
    rows, columns = len(classes), len(steps)
    top = max((v for column in values for v in column if v is not None and _finite(v)), default=0)
    left, row = 104, 14
    cell = (WIDTH - left - 6) / max(1, columns)
    parts = []
    for c, label in enumerate(classes):
        y = c * row
        parts.append(
            Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(
                left - 6, y + 10.5, shortened(label, 16)
            )
        )
        for t, column in enumerate(values):
            value = column[c]
            if value is None or not _finite(value):
                continue
            parts.append(
                Markup(
                    '<rect class="heat" style="--v:{:.3f}" x="{:.1f}" y="{}" width="{:.2f}" '
                    'height="{}"><title>{}</title></rect>'
                ).format(
                    value / top if top > 0 else 0,
                    left + t * cell,
                    y + 1,
                    cell + 0.05,
                    row - 2,
                    f"{label}, step {steps[t]:g}: {number(value)}",
                )
            )
    height = rows * row + 18
    ends = [
        (left, "start", f"step {steps[0]:g}"),
        ((left + WIDTH - 6) / 2, "middle", f"full colour: {number(top)}"),
        (WIDTH - 6, "end", f"{steps[-1]:g}"),
    ]
    parts += [
        Markup('<text class="axis" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            x, height - 5, anchor, text
        )
        for x, anchor, text in ends
    ]
    label = f"{name}, of {rows} classes over {columns} moments; the highest value is {number(top)}"
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, height, label, Markup("").join(parts))


def matrix_chart(name: str, classes: Sequence[str], shares: Sequence[Sequence[float]]) -> Markup:
    """A square of shares from 0 to 1; rows and columns are classes.

    Args:
        name: what the chart shows, for screen readers.
        classes: names of rows and columns.
        shares: row by row; the rows are the truth.
    """
    count, left, top = len(classes), 104, 92
    cell = min(34.0, (460 - left) / count)
    parts = []
    for r, label in enumerate(classes):
        y = top + r * cell
        parts.append(
            Markup('<text class="axis" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                left - 6, y + cell / 2 + 4, shortened(label, 16)
            )
        )
        parts.append(
            Markup(
                '<text class="axis" transform="translate({:.1f} {}) rotate(-60)">{}</text>'
            ).format(left + r * cell + cell / 2 + 3, top - 6, shortened(label, 14))
        )
        for c, share in enumerate(shares[r]):
            parts.append(
                Markup(
                    '<rect class="heat{}" style="--v:{:.3f}" x="{:.1f}" y="{:.1f}" width="{:.1f}" '
                    'height="{:.1f}"><title>{}</title></rect>'
                ).format(
                    " right" if r == c else "",
                    share,
                    left + c * cell + 0.5,
                    y + 0.5,
                    cell - 1,
                    cell - 1,
                    f"{100 * share:.1f} % of {label} is taken for {classes[c]}"
                    if r != c
                    else f"{100 * share:.1f} % of {label} is right",
                )
            )
    width, height = round(left + count * cell + 56), round(top + count * cell + 6)
    frame = (
        '<svg class="chart" style="max-width: {}px" viewBox="0 0 {} {}" role="img" '
        'aria-label="{}">{}</svg>'
    )
    return Markup(frame).format(width, width, height, name, Markup("").join(parts))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between two bounds."""
    raw = (high - low) / max(1, about)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """Evenly spaced values with as many digits as tell them apart, and no more.

    Powers of ten where plain digits would not fit beside an axis.
    """
    step = abs(values[1] - values[0]) if len(values) > 1 else 0
    largest = max(map(abs, values), default=0)
    if not step or largest < 1e-3 or largest >= 1e6:
        return [number(value).replace("e-0", "e-") for value in values]
    places = next((n for n in range(6) if abs(round(step, n) - step) < 1e-6 * step), 6)
    return [f"{value:.{places}f}" if value else "0" for value in values]


def number(value: float | None) -> str:
    """A value in about three digits."""
    if value is None or not _finite(value):
        return "–"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.2g}"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def shortened(text: str, length: int) -> str:
    """The text, cut with an ellipsis if it is longer than `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _finite(value: float | None) -> bool:
    return value is not None and abs(value) < HUGE  # not of NaN


def _last(line: Series) -> float | None:
    return next((y for y in reversed(line.y) if _finite(y)), None)


def _padded(
    low: float, high: float, bounds: tuple[float | None, float | None]
) -> tuple[float, float]:
    """The range of the vertical axis: a little more than the values, up to the bounds."""
    room = 0.06 * (high - low) or max(0.05 * abs(high), 1e-3)
    lowest, highest = bounds
    low = low - room if lowest is None else max(lowest, low - room)
    high = high + room if highest is None else min(highest, high + room)
    return (low, high) if high > low else (low - room, low + room)


def _dashed(index: int) -> Markup:
    dash = _DASHES[index // COLOURS % len(_DASHES)]
    return Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup("")


def _path(line: Series, index: int, place: Callable[[float, float], tuple[float, float]]) -> Markup:
    pieces, pen = [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        if y is None or not _finite(y):
            pen = "M"
            continue
        across, down = place(x, y)
        pieces.append(f"{pen}{across:.1f} {down:.1f}")
        pen = "L"
    return Markup('<path class="line s{}" d="{}"{}/>').format(
        index % COLOURS, "".join(pieces), _dashed(index)
    )


def _points(
    line: Series, index: int, place: Callable[[float, float], tuple[float, float]]
) -> list[Markup]:
    points = []
    for x, y in zip(line.x, line.y, strict=True):
        if y is None or not _finite(y):
            continue
        across, down = place(x, y)
        points.append(
            Markup(
                '<circle class="point s{}" cx="{:.1f}" cy="{:.1f}" r="2.4"><title>{}</title>'
                "</circle>"
            ).format(index % COLOURS, across, down, f"{line.name}, {x:g}: {number(y)}")
        )
    return points


def _y_tick(text: str, y: float) -> Markup:
    return Markup(
        '<path class="grid" d="M{} {:.1f}H{}"/><text class="axis" x="{}" y="{:.1f}" '
        'text-anchor="end">{}</text>'
    ).format(_LEFT, y, WIDTH - _RIGHT, _LEFT - 6, y + 4, text)


def _x_tick(value: float, x: float) -> Markup:
    return Markup('<text class="axis" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
        x, HEIGHT - _BOTTOM + 15, number(value)
    )
