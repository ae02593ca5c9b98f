from __future__ import annotations

from io import StringIO

from rich.console import Console

from u2pl.evaluate.confusion import Score
from u2pl.report.tables import score_table


def printed(table) -> list[str]:
    out = StringIO()
    Console(file=out, width=100).print(table)
    return out.getvalue().splitlines()


def test_every_class_and_network_has_its_number():
    scores = {"teacher": Score([91.234, None, 0.0], 45.617, 88.0), "student": Score([90.0, None, 1.5], 45.75, 87.125)}
    lines = printed(score_table(("sky", "[bold]sea", "sun"), scores))
    cells = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]] for line in lines if line.startswith("│")}
    assert cells == {
        "sky": ["91.23", "90.00"],
        "[bold]sea": ["absent", "absent"],
        "sun": ["0.00", "1.50"],
        "mIoU": ["45.62", "45.75"],
        "pixel accuracy": ["88.00", "87.12"],
    }
