"""The curves of a run: what its journal holds, each with a sentence on how to read it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

from markupsafe import Markup

from u2pl.report.charts import Band, Series, class_strip, line_chart

#: Points of a line, and columns of a strip, at most; more are averaged.
POINTS, COLUMNS = 120, 40
#: Entries of a journal line that are no curves of their own.
_APART = ("step", "seconds", "evaluation")


class Figure(NamedTuple):
    """A drawing and how to read it."""

    title: str
    drawing: Markup
    text: str


class Panel(NamedTuple):
    """Entries of the journal that share a chart."""

    title: str
    keys: tuple[str, ...]  # patterns
    text: str
    bounds: tuple[float | None, float | None] = (None, None)


_SHARE = (0.0, 1.0)
#: In the order of the page; an entry belongs to the first panel that names it.
PANELS = (
    Panel(
        "Loss on labels",
        ("loss/sup", "loss/sup_second"),
        "Falls quickly, then slowly. If it is near 0 while the mIoU stands still, the labels are "
        "learnt by heart: more of them, or stronger augmentation, would help.",
        (0.0, None),
    ),
    Panel(
        "Loss on tags",
        ("loss/tags",),
        "How well the classifier names what an image shows; the maps come from it.",
        (0.0, None),
    ),
    Panel(
        "Loss on pseudo-labels",
        ("loss/unsup", "loss/s1", "loss/s2", "loss/fp", "loss/cps", "loss/seg"),
        "Disagreement with labels that the method made itself, before its weight. It may rise: "
        "the labels change while they are learnt.",
        (0.0, None),
    ),
    Panel(
        "Contrastive loss",
        ("loss/contrast",),
        "Falls while representations of a class move together and away from the negatives. "
        "Constant at 0: no class had anchors and negatives.",
        (0.0, None),
    ),
    Panel(
        "Accuracy of the pseudo-labels",
        ("accuracy/*",),
        "Share of right labels among the pixels of each kind, where images without labels have "
        "masks to compare with; training never sees them. Unreliable pixels should be clearly "
        "below reliable ones: that is why they are no labels.",
        _SHARE,
    ),
    Panel(
        "Shares of the pixels",
        (
            "reliable_share",
            "confident_share",
            "soft_share",
            "agreeing_share",
            "agreement",
            "q",
        ),
        "How much of the images is learnt from. Near 0 the method hardly uses the images without "
        "labels; near 1 it believes everything, right or wrong.",
        _SHARE,
    ),
    Panel(
        "Share called unreliable, alpha_t",
        ("alpha_t",),
        "Share of pixels that are called unreliable; it falls to 0 as the teacher gets better.",
        (0.0, None),
    ),
    Panel(
        "Threshold of doubt, gamma_t",
        ("gamma_t",),
        "Entropy in nats above which a pixel is unreliable: the percentile 1 - alpha_t. It falls "
        "as the teacher gets surer, and rises as alpha_t falls.",
        (0.0, None),
    ),
    Panel(
        "Weights",
        ("lambda_u", "weight/*"),
        "lambda_u: of the loss on all pseudo-labels. Of single ones: those of wrong labels should "
        "lie below those of right ones.",
        (0.0, None),
    ),
    Panel(
        "Filled memories",
        ("memory_fill", "parts_fill"),
        "Filled share of what the method keeps of former steps.",
        _SHARE,
    ),
    Panel(
        "Classes in the contrast",
        ("contrast_classes",),
        "Classes that had anchors and negatives in a step.",
        (0.0, None),
    ),
    Panel(
        "Queues",
        ("queue_fill",),
        "Filled share of each class's queue of negative keys. A class that stays pale meets few "
        "negatives of its own.",
    ),
    Panel(
        "Anchors",
        ("anchors",),
        "Pixels per class that were pulled to their class in a step. A pale class is hardly in "
        "the contrast.",
    ),
    Panel(
        "Negatives",
        ("negatives",),
        "New negative keys per class in a step: pixels that are unreliable, but surely not of "
        "this class.",
    ),
    Panel(
        "Confidence of the classes",
        ("bank/*",),
        "How sure the network is of each class; pale classes are shown and learnt more often.",
    ),
    Panel(
        "Other losses",
        ("loss/*",),
        "Further terms, before their weights; the method's page explains them.",
        (0.0, None),
    ),
    Panel(
        "Learning rate",
        ("lr",),
        "Of the encoder.",
        (0.0, None),
    ),
)
_OWN = "Logged by the method."


def figures(
    lines: Sequence[Mapping[str, Any]], classes: Sequence[str], warm_steps: int = 0
) -> list[Figure]:
    """The curves of a journal in the order of `PANELS`, then whatever else was logged.

    Args:
        lines: of the journal.
        classes: names by class id.
        warm_steps: steps of the warm start, which are shaded.
    """
    logged = [line for line in lines if "lr" in line]
    names = list(dict.fromkeys(name for line in logged for name in line if name not in _APART))
    band = Band("warm start", 0, warm_steps) if warm_steps else None
    found: list[Figure] = []
    for panel in PANELS:
        mine = [name for name in names if any(fnmatch(name, key) for key in panel.keys)]
        names = [name for name in names if name not in mine]
        found += _drawn(panel, mine, logged, classes, band)
    for name in names:
        found += _drawn(Panel(name, (name,), _OWN), [name], logged, classes, band)
    return found


def score_figure(lines: Sequence[Mapping[str, Any]], warm_steps: int = 0) -> list[Figure]:
    """mIoU after each evaluation of the journal; none if nothing was scored."""
    scored = [line["evaluation"] for line in lines if "evaluation" in line]
    if not scored:
        return []
    roles = [name for name in scored[-1] if name != "step"]
    steps = [each["step"] for each in scored]
    series = [
        Series(role, steps, [each.get(role, {}).get("miou") for each in scored]) for role in roles
    ]
    band = Band("warm start", 0, warm_steps) if warm_steps else None
    text = (
        "In percent, on the images that are scored, after each evaluation. A line that still "
        "rises at its end asks for more steps; one that falls, for fewer, or for another method."
    )
    drawing = line_chart("mIoU", series, x_name="steps done", bounds=(0, 100), band=band)
    return [Figure("mIoU", drawing, text)]


def _drawn(
    panel: Panel,
    names: Sequence[str],
    logged: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    band: Band | None,
) -> Iterator[Figure]:
    """The chart of the panel's numbers, and a strip for each of its lists."""
    series = []
    for name in names:
        entries = [(line["step"], line[name]) for line in logged if name in line]
        if any(isinstance(value, list) for _, value in entries):
            title = panel.title if len(names) == 1 else f"{panel.title}: {_short(name)}"
            yield _strip(title, entries, classes, panel.text)
        else:
            steps, values = _thinned(entries)
            series.append(Series(_short(name), steps, values))
    drawing = line_chart(panel.title, series, bounds=panel.bounds, band=band)
    if drawing:
        yield Figure(panel.title, drawing, panel.text)


def _strip(
    title: str, entries: Sequence[tuple[int, Any]], classes: Sequence[str], text: str
) -> Figure:
    entries = [(step, value) for step, value in entries if isinstance(value, list)]
    rows = len(entries[-1][1])
    entries = [(step, value) for step, value in entries if len(value) == rows]
    entries = (
        [entries[i * len(entries) // COLUMNS] for i in range(COLUMNS)]
        if len(entries) > COLUMNS
        else list(entries)
    )
    # tags leave out background, the first class
    names = classes[len(classes) - rows :] if rows <= len(classes) else list(map(str, range(rows)))
    steps = [step for step, _ in entries]
    return Figure(title, class_strip(title, names, steps, [value for _, value in entries]), text)


def _thinned(entries: Sequence[tuple[int, float | None]]) -> tuple[list[float], list[float | None]]:
    """Steps and values, each the mean of neighbours if there are more than `POINTS`."""
    size = math.ceil(len(entries) / POINTS)
    steps: list[float] = []
    values: list[float | None] = []
    for start in range(0, len(entries), max(1, size)):
        part = entries[start : start + size]
        known = [value for _, value in part if value is not None]
        steps.append(part[-1][0])
        values.append(sum(known) / len(known) if known else None)
    return steps, values


def _short(name: str) -> str:
    return name.rpartition("/")[2]
