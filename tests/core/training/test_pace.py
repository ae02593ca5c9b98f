"""The time left, with a clock that is set by hand."""

from __future__ import annotations

import pytest

from u2pl.training.pace import LATER, Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("u2pl.training.pace.time.monotonic", lambda: now[0])
    return now


def walk(pace: Pace, clock: list[float], steps: int, seconds: float) -> None:
    for _ in range(steps):
        clock[0] += seconds
        pace.stepped()


def test_scoring_that_is_to_come_counts_estimated_then_measured(clock: list[float]) -> None:
    pace = Pace(20, {10, 20}, scoring=5.0)
    assert pace.left(0) is None
    clock[0] += 60  # much is set up in the first step
    pace.stepped()
    assert pace.left(1) is None
    walk(pace, clock, 9, 2.0)
    assert pace.left(9) == 11 * 2.0 + 2 * 5 * 2.0
    assert pace.left(10) == 10 * 2.0 + 1 * 5 * 2.0
    clock[0] += 30
    pace.scored()
    assert pace.left(10) == 10 * 2.0 + 30
    walk(pace, clock, 10, 2.0)
    assert pace.left(20) == 0


def test_steps_of_a_phase_to_come_are_expected_to_take_longer(clock: list[float]) -> None:
    pace = Pace(20, {20}, scoring=0.0, phases={8})
    walk(pace, clock, 5, 1.0)
    assert pace.left(5) == pytest.approx(3 * 1.0 + 12 * LATER * 1.0)
    walk(pace, clock, 3, 1.0)
    pace.restart()
    walk(pace, clock, 2, 2.5)
    assert pace.left(10) == 10 * 2.5


def test_steps_of_another_phase_take_another_time(clock: list[float]) -> None:
    pace = Pace(20, {20}, scoring=0.0)
    walk(pace, clock, 5, 1.0)
    pace.restart()
    assert pace.left(5) == 15 * 1.0  # until one of the new ones is done
    walk(pace, clock, 2, 4.0)
    assert pace.left(7) == 13 * 4.0
