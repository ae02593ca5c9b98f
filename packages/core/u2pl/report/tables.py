"""Scores for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from u2pl.evaluate.confusion import Score


def score_table(
    classes: Sequence[str],
    scores: Mapping[str, Score],
    subsets: Mapping[str, Mapping[str, float | None]] | None = None,
) -> Table:
    """IoU per class, mIoU and pixel accuracy of each network, in percent.

    Classes that do not occur in the ground truth are `absent`.

    Args:
        classes: names by id.
        scores: by network.
        subsets: by network, the mIoU over each named subset of the classes.
    """
    table = Table()
    table.add_column("IoU %")
    for name in scores:
        table.add_column(Text(name), justify="right")
    for id, name in enumerate(classes):
        table.add_row(Text(name), *(_cell(score.per_class_iou[id]) for score in scores.values()))
    table.add_section()
    table.add_row("mIoU", *(_cell(score.miou) for score in scores.values()), style="bold")
    means = [subsets[name] for name in scores] if subsets else []
    for name in means[0] if means else ():
        table.add_row(Text(f"mIoU, {name}"), *(_cell(mean[name]) for mean in means))
    table.add_row("pixel accuracy", *(_cell(score.pixel_accuracy) for score in scores.values()))
    return table


def _cell(percent: float | None) -> Text:
    return Text("absent", style="dim") if percent is None else Text(f"{percent:.2f}")
