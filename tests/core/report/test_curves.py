from __future__ import annotations

import re

from u2pl.report.curves import COLUMNS, PANELS, POINTS, figures, score_figure

CLASSES = ("background", "fish", "star")


def journal(steps: int, **entries: object) -> list[dict[str, object]]:
    """Lines with these entries: numbers that grow by the step, or lists."""
    return [
        {
            "step": step,
            "lr": 0.1,
            "seconds": step,
            **{k: v if isinstance(v, list) else v + step for k, v in entries.items()},
        }
        for step in range(steps)
    ]


def test_each_entry_is_drawn_once_with_how_to_read_it():
    names = {
        "loss/sup": 1.0, "loss/unsup": 1.0, "loss/contrast": 1.0, "loss/new": 1.0,
        "accuracy/reliable": 0.0, "accuracy/unreliable": 0.0, "gamma_t": 1.0,
        "queue_fill": [0.1, 0.2, 0.3], "mine": 4.0,
    }  # fmt: skip
    found = figures(journal(5, **names), CLASSES)
    titles = [figure.title for figure in found]
    assert len(set(titles)) == len(titles)
    assert titles[-1] == "mine" and "Other losses" in titles and "Queues" in titles
    assert all(len(figure.text) > 8 and "<svg" in figure.drawing for figure in found)
    accuracy = next(f for f in found if f.title == "Accuracy of the pseudo-labels")
    assert "unreliable" in accuracy.drawing and accuracy.drawing.count('class="line') == 4


def test_every_panel_is_explained():
    assert all(panel.text.endswith(".") for panel in PANELS)
    assert len({panel.title for panel in PANELS}) == len(PANELS)


def test_lists_of_the_foreground_have_its_names():
    (_, strip) = figures(journal(3, queue_fill=[0.5, 1.0]), CLASSES)[::-1]
    assert "fish, step" in strip.drawing and "background, step" not in strip.drawing


def test_long_journals_are_averaged():
    long = journal(POINTS * 5, **{"loss/sup": 0.0, "anchors": [1.0, 2.0, 3.0]})
    loss, anchors, _ = figures(long, CLASSES)
    (path,) = (d for d in re.findall(r' d="([^"]+)"', loss.drawing) if d.count("L") > 5)
    assert path.count("L") == POINTS - 1
    assert anchors.drawing.count("<rect") == 3 * COLUMNS
    # the mean of the last five entries
    last = sum(range(POINTS * 5 - 5, POINTS * 5)) / 5
    assert f"sup {last:.0f} at the end" in loss.drawing


def test_scores_of_all_networks_share_a_chart():
    mious = {10: (30.0, 31.0), 20: (40.0, 35.0)}
    lines = [
        {"evaluation": {"step": step, "teacher": {"miou": one}, "student": {"miou": other}}}
        for step, (one, other) in mious.items()
    ]
    (figure,) = score_figure(lines, warm_steps=10)
    assert "teacher 40 at the end, student 35 at the end" in figure.drawing
    assert "warm start" in figure.drawing
    assert score_figure(journal(2)) == []


def test_unknown_values_are_left_out():
    lines = journal(3, **{"accuracy/reliable": 0.1})
    for line in lines:
        line["accuracy/reliable"] = None
    assert [f.title for f in figures(lines, CLASSES)] == ["Learning rate"]
    assert figures([], CLASSES) == []
