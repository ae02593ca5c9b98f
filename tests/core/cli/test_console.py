from __future__ import annotations

import pytest

from u2pl.cli.console import counting


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr("u2pl.cli.console.time.monotonic", lambda: now[0])
    return now


def test_what_is_counted_quickly_is_not_mentioned(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with counting("counting stars", True) as progress:
        for done in range(5):
            progress(done + 1, 5)
    assert capsys.readouterr() == ("", "")


def test_what_takes_a_while_is_said_once_on_standard_error(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with counting("counting stars", True) as progress:
        for done in range(5):
            clock[0] += 0.6
            progress(done + 1, 5)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "counting stars: 5\n")


def test_one_process_speaks_for_all(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with counting("counting stars", False) as progress:
        clock[0] += 60
        progress(1, 5)
    assert capsys.readouterr() == ("", "")


def test_an_error_while_counting_goes_through(clock: list[float]) -> None:
    with pytest.raises(ValueError, match="a broken star"), counting("counting stars", True):
        raise ValueError("a broken star")
