from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from u2pl.report.charts import (
    HEIGHT,
    WIDTH,
    Band,
    Series,
    class_strip,
    interval_chart,
    line_chart,
    matrix_chart,
    number,
    tick_texts,
    ticks,
)

HOSTILE = '<img onerror="x"> & "q"'


def drawn(text: str) -> ET.Element:
    """The drawing, and what is beside it, as XML: whatever is not well-formed fails here."""
    return ET.fromstring(f"<div>{text}</div>")


def lines(chart: ET.Element) -> list[ET.Element]:
    """The lines of a chart, without those of its key."""
    paths = [p for p in chart.iter("path") if str(p.get("class")).startswith("line")]
    return [p for p in paths if p.get("d") != "M1 3H21"]


def test_a_line_goes_through_its_values():
    chart = drawn(line_chart("loss", [Series("a", [0, 10, 20], [1.0, 3.0, 2.0])]))
    (line,) = lines(chart)
    places = re.findall(r"[ML]([\d.]+) ([\d.]+)", line.get("d"))
    (x0, y0), (x1, y1), (x2, y2) = ((float(x), float(y)) for x, y in places)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    # up is high, and differences are to scale
    assert (y0 - y1) == pytest.approx(2 * (y2 - y1), abs=0.3) and y1 < y2 < y0
    assert 0 < x0 < x2 <= WIDTH and 0 <= y1 < y0 <= HEIGHT


def test_gaps_interrupt_a_line():
    chart = drawn(line_chart("x", [Series("a", [0, 1, 2, 3], [1.0, None, math.nan, 2.0])]))
    (line,) = (path.get("d") for path in lines(chart))
    assert line.count("M") == 2 and "L" not in line and "nan" not in line


def test_nothing_measured_draws_nothing():
    assert line_chart("x", [Series("a", [0, 1], [None, math.nan])]) == ""
    assert line_chart("x", []) == ""


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [5.0], [-1e-9, 1e9], [1e-7, 2e-7], [math.inf, 1.0], [-1e308, 1e308, 0.0]]
)
def test_any_values_can_be_drawn(values):
    text = line_chart("x", [Series("a", list(range(len(values))), values)])
    drawn(text)
    assert "nan" not in text and "inf" not in text


def test_steps_are_whole():
    chart = drawn(line_chart("x", [Series("a", [5, 6], [0.1, 0.9])], bounds=(0, 1)))
    axis = [t.text for t in chart.iter("text") if t.get("text-anchor") == "middle"]
    assert axis == ["5", "6"]


def test_axis_stays_within_the_bounds_of_a_share():
    chart = line_chart("share", [Series("a", [0, 1], [0.98, 1.0])], bounds=(0, 1))
    labels = [float(t.text) for t in drawn(chart).iter("text") if re.fullmatch(r"[\d.]+", t.text)]
    assert max(labels) <= 1


def test_a_screen_reader_hears_name_and_last_values():
    chart = drawn(
        line_chart("mIoU", [Series("teacher", [0, 1], [10.0, 20.5])], band=Band("warm start", 0, 1))
    )
    (svg,) = (each for each in chart.iter("svg") if each.get("role") == "img")
    assert svg.get("aria-label") == "mIoU: teacher 20.5 at the end"
    assert "warm start" in [title.text for title in chart.iter("title")]


def test_many_lines_differ_by_colour_or_dash():
    chart = drawn(line_chart("x", [Series(f"l{i}", [0, 1], [i, i + 1.0]) for i in range(14)]))
    looks = {(path.get("class"), path.get("stroke-dasharray")) for path in lines(chart)}
    assert len(looks) == 14


def test_a_strip_is_as_strong_as_its_values():
    chart = drawn(class_strip("queues", ["a", "b"], [10, 20], [[0.0, 5.0], [10.0, math.nan]]))
    cells = [(r.find("title").text, r.get("style")) for r in chart.iter("rect")]
    assert cells == [
        ("a, step 10: 0", "--v:0.000"),
        ("a, step 20: 10", "--v:1.000"),
        ("b, step 10: 5", "--v:0.500"),
    ]


def test_a_matrix_says_what_is_taken_for_what():
    chart = drawn(matrix_chart("confusion", ["a", "b"], [[0.9, 0.1], [0.25, 0.75]]))
    said = [rect.find("title").text for rect in chart.iter("rect")]
    assert said == [
        "90.0 % of a is right",
        "10.0 % of a is taken for b",
        "25.0 % of b is taken for a",
        "75.0 % of b is right",
    ]


def test_intervals_are_drawn_in_place_and_cut_at_the_axis():
    chart = drawn(interval_chart("gain", 1.0, (-2.0, 2.0), inner=(0.0, 2.0), outer=(-9.0, 1.5)))
    (dot,), (band,), (zero, line) = (list(chart.iter(kind)) for kind in ("circle", "rect", "path"))
    middle, unit = 90.0, (180 - 14) / 4
    assert float(dot.get("cx")) == pytest.approx(middle + unit, abs=0.1)
    assert float(band.get("x")) == pytest.approx(middle, abs=0.1)
    assert float(band.get("width")) == pytest.approx(2 * unit, abs=0.1)
    assert zero.get("d").startswith(f"M{middle} ")
    start, end = re.match(r"M([\d.]+) 11H([\d.]+)", line.get("d")).groups()
    assert (float(start), float(end)) == pytest.approx((7, middle + 1.5 * unit), abs=0.1)
    assert line.get("d").count("l") == 2 and line.get("d").count("v") == 1  # an arrow and a stop
    (svg,) = chart.iter("svg")
    assert svg.get("aria-label") == "gain" == next(chart.iter("title")).text


def test_a_value_without_intervals_is_a_dot():
    chart = drawn(interval_chart(HOSTILE, 0.0, (-1.0, 1.0)))
    assert len(list(chart.iter("circle"))) == 1 and not list(chart.iter("rect"))
    assert next(chart.iter("svg")).get("aria-label") == HOSTILE


def test_names_cannot_break_out():
    one, two = Series(HOSTILE, [0, 1], [1.0, 2.0]), Series("b", [0, 1], [2.0, 1.0])
    for text in (
        line_chart(HOSTILE, [one, two], band=Band(HOSTILE, 0, 1)),
        class_strip(HOSTILE, [HOSTILE], [0], [[1.0]]),
        matrix_chart(HOSTILE, [HOSTILE], [[1.0]]),
    ):
        drawn(text)
        assert "<img" not in text


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.93, 0.99), (-3, 250), (0, 1e-6), (1e5, 1e7)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 8
    assert all(low - 1e-12 <= tick <= high * (1 + 1e-9) for tick in found)
    steps = {round((b - a) / (high - low), 9) for a, b in pairwise(found)}
    assert len(steps) == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.07, 1.075, 1.08], ["1.070", "1.075", "1.080"]),
        ([18.75, 19.0, 19.25], ["18.75", "19.00", "19.25"]),
        ([0, 2000, 4000], ["0", "2000", "4000"]),
        ([0, 2.5e-5, 5e-5], ["0", "2.5e-5", "5e-5"]),
        ([0.0, 5e6], ["0", "5e+06"]),
    ],
)
def test_texts_of_ticks_differ_and_are_exact(values, expected):
    assert tick_texts(values) == expected


def test_numbers_are_short():
    assert [number(v) for v in (None, math.nan, 0.0, 3.0, 0.12345, 12.34, 123.45, 5e-5, 2e7)] == [
        "–", "–", "0", "3", "0.123", "12.3", "123.5", "5e-05", "2e+07",
    ]  # fmt: skip
