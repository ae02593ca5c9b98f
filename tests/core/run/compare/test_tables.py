from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from core.toy.app import APP
from harness.runs import CLASSES, write_run
from u2pl.run.compare.comparison import Comparison, compare
from u2pl.run.compare.tables import class_table, main_table, plain_text


@pytest.fixture
def found(tmp_path: Path) -> Comparison:
    """Two methods with two seeds, on different devices."""
    for seed in (0, 1):
        base = {"seed": seed, "student": 0.5 + 0.01 * seed, "images": 40}
        write_run(tmp_path / f"base-{seed}", **base)
        write_run(tmp_path / f"a|b-{seed}", method="other", summary={"device": "a | GPU"}, **base)
    return compare([tmp_path], app=APP)


def test_every_output_has_the_numbers_and_the_flags(found: Comparison) -> None:
    row = found.rows[1]
    flag = "device: a CPU in plain; a | GPU in other"
    assert list(found.flags) == [flag]
    for text in (str(found), found.markdown().replace("\\|", "|"), found.html()):
        assert row.last.words() in text and flag in text and "the reference" in text
    assert "4 runs of 2 variants, scored on demo val, whole image, single scale, 40 images" in str(
        found
    )
    assert "drawn from" in found.html() and "<script" not in found.html()


def test_a_narrow_terminal_has_lists_with_whole_numbers(found: Comparison) -> None:
    text, row = plain_text(found, width=70), found.rows[1]
    assert "…" not in text and max(map(len, text.splitlines())) <= 70
    assert row.gain is not None
    for part in (row.last.words(), row.gain.spread.words("+"), row.words):
        assert part in text
    assert "95 % over seeds" in text and "┃ IoU %" in text  # a table that fits stays one


def test_markdown_is_made_of_whole_tables(found: Comparison) -> None:
    lines = [line for line in found.markdown().splitlines() if line.startswith("|")]
    assert len(lines) == (2 + 4) + 2 * (2 + len(CLASSES))
    assert lines[0].startswith("| variant | network | seeds | last | best | gain over plain | ")
    assert "an EMA" not in found.markdown() and "paired by seed" in found.markdown()


def test_names_of_others_end_no_line_and_begin_no_html(tmp_path: Path) -> None:
    names = ["b|", "<img src=x>", "[x](http://y)"]
    for seed, method in enumerate(("plain", "<b>\n# other\x1b[2J")):
        write_run(tmp_path / f"{seed}", method=method, seed=seed, summary={"classes": names})
    found = compare([tmp_path], app=APP)
    for text in (str(found), found.markdown()):
        assert "\x1b" not in text
        assert not [line for line in text.splitlines() if line.startswith(("#", "b|"))]
    assert "<" not in found.markdown() and "](" not in found.markdown()
    assert "<img" not in found.html() and "<b>" not in found.html().partition("<h1>")[2][:99]


def test_csv_holds_a_line_for_each_row(found: Comparison) -> None:
    first, *others = csv.DictReader(io.StringIO(found.csv()))
    assert len(others) == 3 and first["variant"] == "plain" and first["gain"] == ""
    gained = others[0]
    assert gained["variant"] == "other" and gained["role"] == "student"
    assert float(gained["gain"]) == 0 and float(gained["last"]) == pytest.approx(
        found.rows[1].last.mean, abs=1e-4
    )
    assert gained["seeds"] == "0 1" and float(gained["iou_gain cat"]) == 0
    assert all("device: " in each["flags"] for each in (first, *others))


def test_what_would_be_empty_is_no_column(tmp_path: Path) -> None:
    alone = compare([write_run(tmp_path / "a", counted=False, average=None)], app=APP)
    assert main_table(alone).heads == ["variant", "network", "seeds", "last", "best", "minutes"]
    assert len(alone.rows) == 1 and "paired by seed" not in alone.markdown()
    assert "no intervals over images" not in str(alone)


def test_of_classes_and_variants_the_more_numerous_are_the_rows(found: Comparison) -> None:
    assert class_table(found, "student").heads == ["IoU %", "plain", "other"]
    few = Comparison(found.app, found.variants * 2, found.flags, found.notes)
    assert class_table(few, "student").heads == ["IoU %", *CLASSES]
