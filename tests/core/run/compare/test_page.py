from __future__ import annotations

from pathlib import Path

import pytest

from core.toy.app import APP
from harness.browser import look
from harness.runs import write_run
from u2pl.run.compare.comparison import Comparison, compare


def several(folder: Path, variants: int, seeds: int = 2) -> Comparison:
    """The baseline and variants of another method, each better than the one before."""
    for seed in range(seeds):
        for i in range(variants):
            write_run(
                folder / f"{i}-{seed}",
                method="other" if i else "plain",
                seed=seed,
                student=0.5 + 0.02 * i + 0.001 * seed * i,
                averaged="teacher" if i else "ema",
                options={"method.strength": 0.5 + i} if i else {},
            )
    return compare([folder], app=APP)


def test_a_page_names_the_largest_gain_that_holds(tmp_path: Path) -> None:
    found = several(tmp_path, 3)
    html = found.html()
    best = found.rows[2]
    assert best.gain is not None and best.gain.holds
    assert f"{best.gain.spread.mean:+.2f}" in html and "largest gain that holds" in html
    assert html.count('class="interval"') == 4  # two variants, two roles
    assert html.count("<figure") == 2 and "Gain in IoU of each class over plain" in html


def test_one_run_is_a_page_without_gains(tmp_path: Path) -> None:
    html = several(tmp_path, 1, 1).html()
    assert "gain" not in html.partition("<main")[2].partition("How to read it")[0]
    assert 'class="interval"' not in html


def test_one_seed_shows_no_gain_that_holds(tmp_path: Path) -> None:
    html = several(tmp_path, 2, 1).html()
    assert "every gain is of a single seed" in html and "gains that hold" in html


def test_many_variants_get_charts_whose_colours_differ(tmp_path: Path) -> None:
    html = several(tmp_path, 30, 1).html()
    assert "mIoU of the students, 6 of 6" in html and html.count("<figure") == 12
    assert "stroke-dasharray" not in html


def test_what_is_written_in_a_folder_is_no_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "<b>run", summary={"device": "<i>x"}, method="plain")
    html = compare([folder, write_run(tmp_path / "other", method="other")], app=APP).html()
    assert "<b>run" not in html and "&lt;b&gt;run" in html and "<i>x" not in html


@pytest.mark.parametrize(("variants", "seeds"), [(1, 1), (4, 2), (30, 1)])
def test_a_browser_shows_it_well(tmp_path: Path, variants: int, seeds: int) -> None:
    (tmp_path / "page.html").write_text(several(tmp_path / "runs", variants, seeds).html())
    look(tmp_path / "page.html", images=0)
