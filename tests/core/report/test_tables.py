from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from u2pl.evaluate.confusion import Score, subset_mious
from u2pl.report.tables import score_table


def cells(table) -> dict[str, list[str]]:
    """What is printed in each row, by its first cell."""
    out = StringIO()
    Console(file=out, width=100).print(table)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in out.getvalue().splitlines()
        if line.startswith("│")
    ]
    return {first: others for first, *others in rows}


def test_every_class_and_network_has_its_number():
    scores = {
        "teacher": Score([91.234, None, 0.0], 45.617, 88.0),
        "student": Score([90.0, None, 1.5], 45.75, 87.125),
    }
    assert cells(score_table(("sky", "[bold]sea", "sun"), scores)) == {
        "sky": ["91.23", "90.00"],
        "[bold]sea": ["absent", "absent"],
        "sun": ["0.00", "1.50"],
        "mIoU": ["45.62", "45.75"],
        "pixel accuracy": ["88.00", "87.12"],
    }


def test_means_over_subsets_follow_the_mean_over_all():
    scores = {
        "teacher": Score([90.0, None, 10.0], 50.0, 80.0),
        "student": Score([60.0, None, 20.0], 40.0, 70.0),
    }
    classes = ("sky", "sea", "sun")
    subsets = {"2 [old]": ("sky", "sun"), "1": ("sky",), "0": ("sea",)}
    means = {name: subset_mious(score, classes, subsets) for name, score in scores.items()}
    rows = cells(score_table(classes, scores, means))
    assert list(rows)[3:] == ["mIoU", "mIoU, 2 [old]", "mIoU, 1", "mIoU, 0", "pixel accuracy"]
    assert rows["mIoU, 2 [old]"] == ["50.00", "40.00"]
    assert rows["mIoU, 1"] == ["90.00", "60.00"]
    assert rows["mIoU, 0"] == ["absent", "absent"]


@pytest.mark.parametrize("subsets", [None, {}, {"teacher": {}}])
def test_without_subsets_there_are_no_means_over_them(subsets):
    table = score_table(("sky", "sea"), {"teacher": Score([90.0, 10.0], 50.0, 80.0)}, subsets)
    assert list(cells(table)) == ["sky", "sea", "mIoU", "pixel accuracy"]
