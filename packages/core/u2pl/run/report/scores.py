"""The numbers of a report: tiles, table of classes, confusions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from u2pl.data.classes import listed
from u2pl.evaluate.confusion import Score
from u2pl.evaluate.statistics import FEW, LEAST, bootstrap_interval, scored_words
from u2pl.report.charts import matrix_chart
from u2pl.report.page import Tile
from u2pl.run.report.finding import Finding
from u2pl.run.run import Run

#: Classes of a confusion matrix that is drawn, at most; shares of a row that are put into words.
MATRIX, WORTH = 40, 0.05
#: Share of the resamples that a class is missing from, from which on it is said.
OFTEN = 0.05


class ScoreRow(NamedTuple):
    """A line of the table."""

    name: str
    bar: str  # width in percent
    cells: list[str]  # of each network
    gain: str
    kind: str  # `up` or `down`: colour of the gain
    share: str
    total: bool


class ScoreTable(NamedTuple):
    """IoU of each class, by network; the first network is the result."""

    text: str
    networks: list[str]
    rows: list[ScoreRow]
    baseline: str


class Confusions(NamedTuple):
    """What is taken for what."""

    lines: list[str]
    drawing: Markup


def tiles(run: Finding) -> list[Tile]:
    """The score, how sure it is, what it gains, and how long it took."""
    total, found = int(run.config["steps"]), []
    last = next((e["evaluation"] for e in reversed(run.journal) if "evaluation" in e), None)
    if last is not None and run.result in last:
        miou = last[run.result]["miou"]
        scored = [e["evaluation"] for e in run.journal if "evaluation" in e]
        best = max(each[run.result]["miou"] for each in scored if run.result in each)
        more = f"of the {run.result} after {last['step']} steps; best {best:.2f}"
        found.append(Tile("mIoU, %", f"{miou:.2f}", more))
        if run.counts is not None:
            interval = bootstrap_interval(run.counts.images)
            if interval is not None:
                found.append(
                    Tile(
                        "95 % interval",
                        f"{interval.low:.1f} to {interval.high:.1f}",
                        f"by the choice of the {len(run.counts.images)} scored images",
                    )
                )
        if run.baseline is not None and run.summary:
            gain = miou - run.baseline.miou
            words = (
                f"same data, seed and steps; its {run.baseline.network}, the better network, has "
                f"{run.baseline.miou:.2f} ({run.baseline.where})"
            )
            pairs = run.baseline.like_with_like_words(Run(run.folder).scores)
            found.append(
                Tile(
                    f"over {run.baseline.method}",
                    f"{gain:+.2f}",
                    "; ".join(filter(None, [words, pairs])),
                    "up" if gain > 0 else "down",
                )
            )
    seconds = run.summary.get("seconds") or next(
        (line["seconds"] for line in reversed(run.journal) if "seconds" in line), 0
    )
    state = "finished" if run.summary else f"{total - run.done} to go"
    found.append(Tile("steps", f"{run.done} of {total}", f"{state}, {seconds / 60:.1f} minutes"))
    return found


def notes(run: Finding) -> list[str]:
    """What to keep in mind when reading the report."""
    found = []
    if not run.summary:
        found.append(
            "The run has not finished. Build this page anew with: "
            f"{shlex.join([run.app.name, 'report', str(run.folder)])}"
        )
    if run.doubt:
        found.append(f"{run.doubt}.")
    counts = run.counts
    if counts is not None and len(counts.images) < FEW:
        words = scored_words(len(counts.images)).capitalize()
        known = bootstrap_interval(counts.images) is not None
        found.append(
            f"{words}, so {'the interval is wide' if known else 'there is no interval'}, and a "
            "difference of a few points between two runs says nothing."
        )
    if counts is not None and run.model is not None and len(counts.images) >= LEAST:
        shown, number = (counts.images[:, 1] > 0).sum(0).tolist(), len(counts.images)
        rare = [
            run.model.classes[c]
            for c, images in enumerate(shown)
            if images and (1 - images / number) ** number >= OFTEN
        ]
        if rare:
            found.append(
                f"Few of the scored images show {listed(rare)}: when they are drawn anew, such a "
                "class is often missing and then not counted, so the interval leans to one side."
            )
    if run.summary and run.baseline is None and run.config["method_name"] != run.app.baseline:
        found.append(
            f"No run of {run.app.baseline} with the same data, seed and steps lies beside this "
            f"one, so nothing tells whether the method helped. Train it: "
            f"{shlex.join([run.app.name, 'train', '--resume', str(run.folder), '--baseline'])}"
        )
    return found


def score_table(run: Finding) -> ScoreTable | None:
    """The table of IoU per class."""
    if run.scored is None or run.model is None or run.result not in run.scored.networks:
        return None
    others = [name for name in run.scored.networks if name != run.result]
    names = [run.result, *others]
    scores: list[Score] = [run.scored.networks[name].score() for name in names]
    base = run.baseline if run.summary else None
    pixels = run.scored.networks[run.result].confusion.sum(1).double()
    shares = (100 * pixels / pixels.sum()).tolist()
    rows = []
    for c, name in enumerate(run.model.classes):
        values = [score.per_class_iou[c] for score in scores]
        was = base.per_class_iou[c] if base else None
        rows.append(_row(name, values, was, f"{shares[c]:.1f} %"))
    rows.append(_row("mIoU", [s.miou for s in scores], base.miou if base else None, "", total=True))
    rows.append(_row("pixel accuracy", [s.pixel_accuracy for s in scores], None, "", total=True))
    text = f"IoU of each class in percent on {run.model.card.evaluation}."
    if len(names) > 1:
        text += f" The {run.result} is the result; {', '.join(others)} was scored beside it."
    if base is not None:
        text += f" The gain is over the {base.network} of {base.method}, its better network."
    return ScoreTable(text, names, rows, f"{base.method}'s {base.network}" if base else "")


def _row(
    name: str,
    values: Sequence[float | None],
    base: float | None,
    share: str,
    total: bool = False,
) -> ScoreRow:
    first = values[0]
    gain = first - base if first is not None and base is not None else None
    kind = "" if gain is None or round(gain, 1) == 0 else "up" if gain > 0 else "down"
    cells = ["absent" if value is None else f"{value:.1f}" for value in values]
    difference = "" if gain is None else f"{gain:+.1f}"
    return ScoreRow(name, f"{first or 0:.1f}", cells, difference, kind, share, total)


def confusions(run: Finding) -> Confusions | None:
    """The confusion matrix, and its largest entries in words."""
    counts, model = run.counts, run.model
    if counts is None or model is None:
        return None
    matrix = counts.confusion.double()
    shares = (matrix / matrix.sum(1, keepdim=True).clamp(min=1)).numpy()
    classes = model.classes
    wrong = [
        (float(shares[t, p]), t, p)
        for t in range(len(classes))
        for p in range(len(classes))
        if t != p and shares[t, p] >= WORTH
    ]
    lines = [
        f"{100 * share:.0f} % of {classes[t]} is taken for {classes[p]}"
        for share, t, p in sorted(wrong, reverse=True)[:6]
    ]
    drawing = (
        matrix_chart("Confusion matrix: rows are the truth", classes, shares.tolist())
        if len(classes) <= MATRIX
        else Markup("")
    )
    return Confusions(lines, drawing)
