from __future__ import annotations

import json
from typing import Any

import pytest

from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.training.history import Evaluation, History

SCORES = {"student": Score([50.0, None], 50.0, 60.0), "teacher": Score([40.0, 1.0], 20.5, 60.0)}
FIRST, LAST = Evaluation(2, SCORES), Evaluation(4, SCORES)
HISTORY = History(5, 1.5, [FIRST, LAST], FIRST, {"scale": 65536.0, "growth_interval": 2000}, 2)


def stored(history: History) -> dict[str, Any]:
    """As a state gives it back."""
    facts: dict[str, Any] = json.loads(json.dumps(history.dump()))
    return facts


@pytest.mark.parametrize("history", [HISTORY, History(), History(3, 1.0)])
def test_a_history_is_read_as_it_was_written(history: History) -> None:
    found = History.parse(stored(history))
    assert found == history
    assert all(type(found.scaler[key]) is type(value) for key, value in history.scaler.items())


def test_older_versions_wrote_less() -> None:
    facts = stored(HISTORY)
    del facts["scaler"], facts["threads"]
    assert History.parse(facts) == History(5, 1.5, [FIRST, LAST], FIRST)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": -1}, "step: Input should be greater than or equal to 0"),
        ({"step": "5"}, "step: Input should be a valid integer, not '5'"),
        ({"step": True}, "step: Input should be a valid integer"),
        ({"step": 3}, r"evaluations after \[2, 4\] of 3 steps"),
        ({"step": ...}, "step: Field required"),
        ({"seconds": -1}, "seconds: "),
        ({"seconds": float("nan")}, "seconds: Input should be a finite number"),
        ({"evaluations": None}, "evaluations: Input should be a valid list"),
        ({"evaluations": []}, "the best evaluation is none of them"),
        ({"evaluations": [LAST.entry(), FIRST.entry()]}, r"evaluations after \[4, 2\]"),
        ({"evaluations": [FIRST.entry()] * 2}, r"evaluations after \[2, 2\]"),
        ({"evaluations": [{"step": 2, "student": {"miou": 1.0}}]}, "student.per_class_iou: Field"),
        ({"best": {}}, "the best evaluation is none of them"),
        ({"best": {**FIRST.entry(), "step": 3}}, "the best evaluation is none of them"),
        ({"scaler": {"scale": "x"}}, "scaler.scale"),
        ({"threads": 1.5}, "threads: Input should be a valid integer"),
        ({"what": 1}, "what: Extra inputs are not permitted"),
    ],
    ids=str,
)
def test_facts_that_are_none_are_one_line(change: dict[str, Any], says: str) -> None:
    facts = {key: value for key, value in (stored(HISTORY) | change).items() if value is not ...}
    with pytest.raises(UserError, match=f"no history of a run \\(.*{says}") as refused:
        History.parse(facts)
    assert "\n" not in str(refused.value)
