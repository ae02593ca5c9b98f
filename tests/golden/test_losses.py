"""The losses of every method's first steps are those recorded in `losses.json`.

A changed seed, initialisation, schedule or loss fails here. If the change is intended, record
again: `python tests/golden/record.py tests/golden/losses.json --brief`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden.record import FEW, cases, train

RECORDED = json.loads((Path(__file__).parent / "losses.json").read_text(encoding="utf-8"))
CASES = cases(brief=True)


def test_every_method_is_recorded() -> None:
    assert RECORDED.keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_losses_of_the_first_steps_are_unchanged(name: str) -> None:
    steps = train(CASES[name], FEW)
    assert len(steps) == len(RECORDED[name])
    for step, (now, before) in enumerate(zip(steps, RECORDED[name], strict=True)):
        # rounding differs between processors (up to 3e-4 between instruction sets)
        assert now == pytest.approx(before, rel=1e-3), f"step {step}"
        assert now["lr"] == pytest.approx(before["lr"], rel=1e-9), f"step {step}"
