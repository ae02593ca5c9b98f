"""What became of an input that was mutated: four verdicts, two of which are faults.

A case is named by its subject and its number, which decides all that is drawn for it, so that one
case can be repeated alone.
"""

from __future__ import annotations

import io
import random
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import typer

from harness.mutations import Mutate, Mutated
from u2pl.cli.errors import guarded
from u2pl.errors import LONGEST, one_line

#: Seconds that a case may take; the slowest good ones take two.
MOST = 30.0


class Verdict(Enum):
    """What became of a case."""

    CLEAR = "clear line"  # one line says what is wrong, exit code 2, nothing is half written
    EQUAL = "accepted and right"  # what a slow reference makes of the input too
    WRONG = "silently wrong"
    CRASH = "crash or hang"

    @property
    def fault(self) -> bool:
        """Whether it is one of ours."""
        return self in (Verdict.WRONG, Verdict.CRASH)


class Judged(NamedTuple):
    """A verdict, and what there is to say about it."""

    verdict: Verdict
    said: str


class Refused(NamedTuple):
    """The input was refused in this line."""

    line: str


class OutOfTime(BaseException):
    """No `except Exception` may take a case that hangs for a damaged file."""


class Wrong(Exception):
    """What was accepted is not what it should be."""


@dataclass(frozen=True)
class Subject:
    """A kind of input that is mutated.

    Args:
        name: of the kind.
        prepare: what a case begins with, in a folder of its own: the mutation in words.
        act: the program's part, in that folder; what it returns is checked.
        check: raises Wrong if what was accepted is not what a slow reference makes of it.
        cases: how many there are by default.
        untouched: what a case begins with if nothing is mutated; that must be accepted.
    """

    name: str
    prepare: Callable[[random.Random, Path], str]
    act: Callable[[Path], Any]
    check: Callable[[Path, Any], None]
    cases: int = 10
    untouched: Callable[[Path], str] | None = None

    @classmethod
    def of_file(
        cls,
        name: str,
        write: Callable[[Mutate, random.Random, Path], str],
        mutate: Mutate,
        act: Callable[[Path], Any],
        check: Callable[[Path, Any], None],
        cases: int = 10,
    ) -> Subject:
        """A file whose content is mutated.

        Args:
            name, act, check, cases: as above.
            write: puts the file into a folder.
            mutate: its content.
        """
        return cls(
            name, partial(write, mutate), act, check, cases, partial(write, as_it_is, LIKE_ANY)
        )


#: Draws nothing.
LIKE_ANY = random.Random(0)


def as_it_is(_: random.Random, content: bytes) -> Mutated:
    """No mutation."""
    return Mutated(content, "nothing")


class Fault(NamedTuple):
    """A case that went wrong."""

    subject: str
    number: int
    mutation: str
    judged: Judged

    def __str__(self) -> str:
        return (
            f"{self.judged.verdict.value}: {self.subject}, case {self.number}: {self.mutation}\n"
            f"    {self.judged.said}\n"
            f"    alone: pytest tests/fuzz --fuzz-case '{self.subject}:{self.number}'"
        )


def judge(
    act: Callable[[], Any], check: Callable[[Any], None], folder: Path, most: float = MOST
) -> Judged:
    """Run the program's part on an input, and say what came of it.

    Args:
        act: returns what it made of the input, or the result of a command.
        check: raises Wrong if that is not right.
        folder: all that it may write into; a refusal must leave it as it was.
        most: seconds that it may take.
    """
    before = contents(folder)
    try:
        with _within(most), warnings.catch_warnings(record=True) as warned:
            # as when the program starts; pytest has filters of its own
            warnings.filterwarnings("ignore", module=r"PIL\.")
            made = _said_or_made(act)
            if isinstance(made, Refused):
                return _refused(made.line, before, folder)
            _check(made, check, warned)
    except OutOfTime as error:
        return Judged(Verdict.CRASH, f"not done after {most:g} seconds: {_where(error)}")
    except Wrong as error:
        return Judged(Verdict.WRONG, str(error))
    except (Exception, SystemExit) as error:
        return Judged(Verdict.CRASH, _where(error))
    return Judged(Verdict.EQUAL, "")


def contents(folder: Path) -> dict[Path, bytes]:
    """All files below a folder."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def expect(right: object, said: object) -> None:
    """Wrong, with these words, if something is not right."""
    if not right:
        raise Wrong(str(said))


def judge_cases(
    subject: Subject, numbers: Iterable[int], root: Path
) -> tuple[Counter[Verdict], list[Fault]]:
    """Judge cases, each in a folder of its own below `root`, of which that of a fault stays."""
    counts, faults = Counter[Verdict](), list[Fault]()
    for number in numbers:
        folder = root / f"{subject.name.replace(' ', '-')}-{number}"
        folder.mkdir()
        mutation = subject.prepare(random.Random(f"{subject.name} {number}"), folder)
        found = judge(partial(subject.act, folder), partial(subject.check, folder), folder)
        counts[found.verdict] += 1
        if found.verdict.fault:
            faults.append(Fault(subject.name, number, mutation, found))
        else:
            _remove(folder)
    return counts, faults


def judge_untouched(subject: Subject, folder: Path) -> Judged:
    """What becomes of the input that is not mutated, in a folder that is made."""
    assert subject.untouched is not None
    folder.mkdir()
    subject.untouched(folder)
    return judge(partial(subject.act, folder), partial(subject.check, folder), folder)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    folder.rmdir()


def _said_or_made(act: Callable[[], Any]) -> Any:
    """What was made, or the line in which it was refused; an error of anything else is raised."""
    told = io.StringIO()
    made: list[Any] = []
    try:
        with redirect_stderr(told):
            guarded(lambda: made.append(act()))
    except typer.Exit as stop:
        return _line(told.getvalue(), stop.exit_code)
    (result,) = made
    if not hasattr(result, "exit_code"):
        return result
    if isinstance(result.exception, SystemExit) or result.exception is None:
        if "fix this first:\n" in result.stdout and result.exit_code == 2:  # doctor's list
            return Refused(result.stdout.rpartition("fix this first:\n")[2].splitlines()[0])
        return result if result.exit_code == 0 else _line(result.stderr, result.exit_code)
    raise result.exception


def _line(told: str, code: int) -> Refused:
    lines = told.splitlines()
    if code != 2 or len(lines) != 1 or not lines[0].startswith("error: "):
        raise AssertionError(f"exit code {code}, and on standard error: {told[-1000:]!r}")
    return Refused(lines[0])


def _refused(line: str, before: dict[Path, bytes], folder: Path) -> Judged:
    if one_line(line) != line or len(line) > LONGEST:
        return Judged(Verdict.WRONG, f"no line to read, of {len(line)} characters: {line[:300]!r}")
    now = contents(folder)
    changed = [path for path in before if now.get(path) != before[path]]
    unfinished = [path for path in now if path.name.endswith(".part")]
    if changed or unfinished:
        return Judged(Verdict.WRONG, f"refused, but changed {[*changed, *unfinished]}: {line}")
    return Judged(Verdict.CLEAR, line)


def _check(made: Any, check: Callable[[Any], None], warned: list[warnings.WarningMessage]) -> None:
    lines = [f"{each.category.__name__}: {each.message}" for each in warned]
    expect(not lines, f"accepted, with a library's warning: {lines[:2]}")
    try:
        check(made)
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(f"accepted, but not by the reference: {_where(error)}") from error


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise OutOfTime where the program is once the time is over."""

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _where(error: BaseException) -> str:
    """An error, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    way = " > ".join(f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in frames)
    return f"{type(error).__name__}: {str(error)[:500]} ({way})"
