from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from u2pl import distributed
from u2pl.cli.console import ConsoleReporter, PlainReporter, SafeConsole, TerminalReporter
from u2pl.evaluate.confusion import Score


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr("u2pl.cli.console.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def reporter() -> ConsoleReporter:
    return ConsoleReporter(Console(file=StringIO(), width=100))


def said(reporter: ConsoleReporter) -> list[str]:
    file: Any = reporter.console.file
    return file.getvalue().splitlines()


def test_what_is_counted_quickly_is_not_mentioned(
    clock: list[float], reporter: ConsoleReporter, capsys: pytest.CaptureFixture[str]
) -> None:
    with reporter.counting("counting stars") as progress:
        for done in range(5):
            progress(done + 1, 5)
    assert capsys.readouterr() == ("", "")


def test_what_takes_a_while_is_said_once_on_standard_error(
    clock: list[float], reporter: ConsoleReporter, capsys: pytest.CaptureFixture[str]
) -> None:
    with reporter.counting("counting stars") as progress:
        for done in range(5):
            clock[0] += 0.6
            progress(done + 1, 5)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "counting stars: 5\n")


def test_one_process_speaks_for_all(
    clock: list[float],
    reporter: ConsoleReporter,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    with reporter.counting("counting stars") as progress:
        clock[0] += 60
        progress(1, 5)
    assert capsys.readouterr() == ("", "")


def test_an_error_while_counting_goes_through(
    clock: list[float], reporter: ConsoleReporter
) -> None:
    with pytest.raises(ValueError, match="a broken star"), reporter.counting("counting stars"):
        raise ValueError("a broken star")


def test_a_line_is_printed_as_it_is(reporter: ConsoleReporter) -> None:
    line = "[bold] " + 30 * "long "
    reporter.say(line)
    assert said(reporter) == [line]


def test_a_file_gets_a_line_every_few_seconds_and_the_last(
    clock: list[float], reporter: ConsoleReporter
) -> None:
    with reporter.training() as progress:
        assert isinstance(progress, PlainReporter)
        for step in range(1, 9):
            left = None if step == 1 else 90.0 * (8 - step)
            progress.step(step, 8, {"loss/sup": 1 / step, "lr": 0.1}, left)
            clock[0] += 2
        progress.phase("the warm start is over")
        progress.evaluating(1, 2)
        both = {"teacher": Score([50.0], 50.0, 60.0), "student": Score([51.0], 51.0, 60.0)}
        progress.scored(8, both, best=True)
        progress.scored(9, both, best=False)
    assert said(reporter) == [
        "step 1/8  sup 1.000",
        "step 4/8  sup 0.250  6.0 min left",
        "step 7/8  sup 0.143  1.5 min left",
        "step 8/8  sup 0.125",
        "the warm start is over",
        "step 8: mIoU teacher 50.00, student 51.00 (best teacher so far)",
        "step 9: mIoU teacher 50.00, student 51.00",
    ]


def test_a_terminal_gets_a_bar() -> None:
    reporter = ConsoleReporter(
        Console(file=StringIO(), width=100, force_terminal=True, color_system=None)
    )
    with reporter.training() as progress:
        assert isinstance(progress, TerminalReporter)
        progress.step(1, 2, {"loss/sup": 0.5}, 200.0)
        progress.phase("the warm start is over")
        for done in (1, 2):
            progress.evaluating(done, 2)
        progress.scored(2, {"student": Score([50.0], 50.0, 60.0)}, best=False)
    text = "\n".join(said(reporter))
    assert "training" in text and "sup 0.500" in text and "mIoU student 50.00" in text
    assert "3.3 min left" in text and "the warm start is over" in text


def test_names_of_others_command_no_terminal() -> None:
    file = StringIO()
    console = SafeConsole(file=file, width=60, force_terminal=True, color_system="standard")
    table = Table("a\x1b[2J")
    table.add_row(Text("b\x1b]0;c\x07"), "d\u202ee")
    ConsoleReporter(console).say("written: \x1b[2J\r\x9b.png")
    console.print(table)
    console.print("[bold]ours[/bold]\nand two lines")
    said = file.getvalue()
    assert "\x1b[1mours\x1b[0m\nand two lines" in said  # its own codes stay
    assert "written:  [2J .png" in said  # rich drops the carriage return
    for code in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e", "\r"):
        assert code not in said
