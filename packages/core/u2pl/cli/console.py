"""What a person sees during a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from u2pl.counting import OnProgress, duration
from u2pl.errors import one_line

if TYPE_CHECKING:
    from u2pl.evaluate.confusion import Score
    from u2pl.run.recipe import OptionRow
    from u2pl.training.journal import Entries

#: Seconds between two plain lines.
PAUSE = 5.0
#: Show the progress of a preparatory step only after this many seconds.
SOON = 1.0
#: Seconds between two lines of such a step in a file.
LONG = 30.0


def loss_words(entries: Entries) -> str:
    """The loss terms of a step in a few words."""
    terms = [
        f"{name.removeprefix('loss/')} {value:.3f}"
        for name, value in entries.items()
        if name.startswith("loss/")
    ]
    return "  ".join(terms)


def score_words(step: int, scores: dict[str, Score], best: bool) -> str:
    """An evaluation in a few words; the first network is the run's result."""
    words = ", ".join(f"{name} {score.miou:.2f}" for name, score in scores.items())
    return f"step {step}: mIoU {words}" + (f" (best {next(iter(scores))} so far)" if best else "")


def left_words(left: float | None) -> str:
    """The time that a run still takes."""
    return f"{duration(left)} left" if left else ""


class TerminalReporter:
    """A bar with loss terms and time left."""

    def __init__(self, console: Console) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self.training: TaskID | None = None
        self.scoring: TaskID | None = None

    def __enter__(self) -> TerminalReporter:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, step: int, total: int, entries: Entries, left: float | None) -> None:
        """Show a logged step."""
        if self.training is None:
            self.training = self.bar.add_task(
                "training", total=total, completed=step, note="", left=""
            )
        note, words = loss_words(entries), left_words(left)
        self.bar.update(self.training, completed=step, note=note, left=words)

    def evaluating(self, done: float, total: int) -> None:
        """Show the progress of an evaluation."""
        if self.scoring is None:
            self.scoring = self.bar.add_task("scoring", total=total, note="", left="")
        self.bar.update(self.scoring, completed=done, total=total)
        if done == total:
            self.bar.remove_task(self.scoring)
            self.scoring = None

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None:
        """Show an evaluation's result."""
        self.bar.console.print(score_words(step, scores, best))

    def phase(self, text: str) -> None:
        """Print that another phase of training begins."""
        self.bar.console.print(text, highlight=False, markup=False)

    def note(self, text: str) -> None:
        """Print something to act on."""
        self.bar.console.print(f"note: {text}", highlight=False, markup=False)


class PlainReporter:
    """A line every few seconds, for files and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.shown = 0.0

    def __enter__(self) -> PlainReporter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, step: int, total: int, entries: Entries, left: float | None) -> None:
        """Print a logged step, at most every few seconds."""
        now = time.monotonic()
        if now - self.shown < PAUSE and step < total:
            return
        self.shown = now
        words = [f"step {step}/{total}", loss_words(entries), left_words(left)]
        self.console.print("  ".join(filter(None, words)), soft_wrap=True, highlight=False)

    def evaluating(self, done: float, total: int) -> None:
        """Stay silent: an evaluation is short."""

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None:
        """Print an evaluation's result."""
        self.console.print(score_words(step, scores, best), soft_wrap=True, highlight=False)

    def phase(self, text: str) -> None:
        """Print that another phase of training begins."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def note(self, text: str) -> None:
        """Print something to act on."""
        self.console.print(f"note: {text}", soft_wrap=True, highlight=False, markup=False)


class ConsoleReporter:
    """Tells a person what happens: a bar on a terminal, plain lines elsewhere.

    Args:
        console: standard output.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        """Print a line as it is, however long."""
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def training(self) -> AbstractContextManager[TerminalReporter | PlainReporter]:
        """What fits where the output goes."""
        terminal = self.console.is_terminal
        return TerminalReporter(self.console) if terminal else PlainReporter(self.console)

    @contextmanager
    def counting(self, what: str) -> Iterator[OnProgress]:
        """Progress with the time left, once a step takes a while; on standard error."""
        from u2pl import distributed

        if distributed.rank() != 0:
            yield lambda done, total: None
            return
        console, begin, said = SafeConsole(stderr=True), time.monotonic(), 0.0
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=console, transient=True)
        task = bar.add_task(what)

        def show(done: float, total: int) -> None:
            nonlocal said
            bar.update(task, completed=done, total=total)
            now = time.monotonic()
            if not said and now - begin > SOON:
                said = now
                if console.is_terminal:
                    bar.start()
                else:
                    console.print(f"{what}: {total}", soft_wrap=True)
            elif said and now - said > LONG and not console.is_terminal:
                said = now
                left = (now - begin) * (total - done) / done if done else None
                words = [f"{what}: {int(done)}/{total}", left_words(left)]
                console.print("  ".join(filter(None, words)), soft_wrap=True, highlight=False)

        try:
            yield show
        finally:
            if bar.live.is_started:  # else it would leave an empty line in a file
                bar.stop()


class SafeConsole(Console):
    """A console that shows a space for whatever in names of others would command a terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich renders it; its own codes are in styles and controls, not in the text."""
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control or text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(one_line, text.split("\n"))), segment.style)


def standard_output() -> Console:
    """Standard output; wide enough for tables if it is no terminal."""
    plain = not sys.stdout.isatty()
    return SafeConsole(width=160 if plain and "COLUMNS" not in os.environ else None)


def option_table(rows: Sequence[OptionRow]) -> Table:
    """Options with their meaning."""
    table = Table("option", "value", "meaning", box=None)
    for row in rows:
        table.add_row(row.key, Text(row.value), Text(row.meaning))
    return table
