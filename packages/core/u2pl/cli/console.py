"""What a person sees while a run goes on: a progress bar on a terminal, plain lines elsewhere, nothing on the other processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from u2pl.evaluate.confusion import Score

#: Seconds between two plain lines.
PAUSE = 5.0
#: Seconds after which something that was quick in most cases is worth a word.
SOON = 1.0


def loss_words(entries: dict[str, Any]) -> str:
    """The loss terms of a step in a few words."""
    terms = [f"{name.removeprefix('loss/')} {value:.3f}" for name, value in entries.items() if name.startswith("loss/")]
    return "  ".join(terms)


def score_words(step: int, scores: dict[str, Score], best: bool) -> str:
    """An evaluation in a few words."""
    words = ", ".join(f"{name} {score.miou:.2f}" for name, score in scores.items())
    return f"step {step}: mIoU {words}" + (" (best so far)" if best else "")


class TerminalReporter:
    """A bar with loss terms and time left."""

    def __init__(self, console: Console) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"), console=console,
        )  # fmt: skip
        self.training: TaskID | None = None
        self.scoring: TaskID | None = None

    def __enter__(self) -> TerminalReporter:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, step: int, total: int, entries: dict[str, Any]) -> None:
        """Show a logged step."""
        if self.training is None:
            self.training = self.bar.add_task("training", total=total, completed=step, note="")
        self.bar.update(self.training, completed=step, note=loss_words(entries))

    def evaluating(self, done: int, total: int) -> None:
        """Show how far an evaluation is."""
        if self.scoring is None:
            self.scoring = self.bar.add_task("scoring", total=total, note="")
        self.bar.update(self.scoring, completed=done, total=total)
        if done == total:
            self.bar.remove_task(self.scoring)
            self.scoring = None

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None:
        """Show an evaluation's result."""
        self.bar.console.print(score_words(step, scores, best))


class PlainReporter:
    """A line now and then, for files and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.first: tuple[int, float] | None = None
        self.shown = 0.0

    def __enter__(self) -> PlainReporter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, step: int, total: int, entries: dict[str, Any]) -> None:
        """Print a logged step, at most every few seconds."""
        now = time.monotonic()
        self.first = self.first or (step, now)
        if now - self.shown < PAUSE and step < total:
            return
        self.shown = now
        done = step - self.first[0]
        left = f"  {(now - self.first[1]) / done * (total - step):.0f} s left" if done > 0 and step < total else ""
        self.console.print(f"step {step}/{total}  {loss_words(entries)}{left}", soft_wrap=True, highlight=False)

    def evaluating(self, done: int, total: int) -> None:
        """Stay silent: an evaluation is short."""

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None:
        """Print an evaluation's result."""
        self.console.print(score_words(step, scores, best), soft_wrap=True, highlight=False)


class SilentReporter:
    """Nothing at all."""

    def __enter__(self) -> SilentReporter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, step: int, total: int, entries: dict[str, Any]) -> None:
        """Say nothing."""

    def evaluating(self, done: int, total: int) -> None:
        """Say nothing."""

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None:
        """Say nothing."""


def make_reporter(console: Console, main: bool) -> TerminalReporter | PlainReporter | SilentReporter:
    """The reporter that fits where the output goes."""
    if not main:
        return SilentReporter()
    return TerminalReporter(console) if console.is_terminal else PlainReporter(console)


@contextmanager
def counting(what: str, main: bool) -> Iterator[Callable[[int, int], None]]:
    """Tell how far something goes that has to be done before anything else: a bar on a terminal, a line elsewhere, once it takes a while.

    Yields what is to be called with (done, to do).
    """
    console, begin, said = Console(stderr=True), time.monotonic(), False
    bar = Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True)
    task = bar.add_task(what)

    def show(done: int, total: int) -> None:
        nonlocal said
        if not main:
            return
        bar.update(task, completed=done, total=total)
        if not said and time.monotonic() - begin > SOON:
            said = True
            if console.is_terminal:
                bar.start()
            else:
                console.print(f"{what}: {total}", soft_wrap=True)

    try:
        yield show
    finally:
        if bar.live.is_started:  # else it would leave an empty line in a file
            bar.stop()
