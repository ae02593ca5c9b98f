"""Training the runs of a sweep: each in a process of its own, one after another or some at once."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal, NamedTuple

from u2pl.counting import silently
from u2pl.errors import UserError
from u2pl.files import make_folder
from u2pl.run.app import App
from u2pl.run.run import Run
from u2pl.run.sweep.plan import Planned
from u2pl.run.train import make_task
from u2pl.training.run_folder import (
    CONFIG,
    SUMMARY,
    differences,
    holds_nothing,
    read_config,
)

#: Seconds between two looks at the processes.
LOOK = 0.2
State = Literal["new", "unfinished", "finished"]


class Failure(NamedTuple):
    """A run that did not end as it should."""

    name: str
    reason: str


class Interrupted(Exception):
    """The sweep was stopped by a signal, after its processes had written their states."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number  # of the program


def state_of(app: App, planned: Planned) -> State:
    """What there is of a run; UserError if its folder holds something else."""
    folder = planned.folder
    if not (folder / CONFIG).exists():
        if folder.exists() and not (folder.is_dir() and holds_nothing(folder)):
            raise UserError(
                f"{folder} is no folder of a run: move it away, or choose another --out"
            )
        return "new"
    config = read_config(folder)
    # the same command is the same run; for another one the data tell, which takes a while
    words = planned.request.words("out", "resume", "baseline")
    if config.get("command") != shlex.join([app.name, "train", *words]):
        changed = differences(config, make_task(app, planned.request, silently).config())
        if changed:
            raise UserError(
                f"{folder} holds a run with another {', '.join(changed[:3])}: choose another --out"
            )
    return "finished" if (folder / SUMMARY).exists() else "unfinished"


class Pace:
    """How long runs take, from those that have ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def add(self, planned: Planned) -> None:
        """Note a finished run."""
        seconds = float(Run(planned.folder).summary["seconds"])
        self.seconds.setdefault(planned.variant, []).append(seconds)

    def left(self, waiting: Sequence[Planned], jobs: int) -> str:
        """How long some runs will take, in words; empty as long as none has ended."""
        known = [value for values in self.seconds.values() for value in values]
        if not known or not waiting:
            return ""
        usual = sum(known) / len(known)
        own = {name: sum(values) / len(values) for name, values in self.seconds.items()}
        total = sum(own.get(each.variant, usual) for each in waiting)
        return f"about {duration(total / min(jobs, len(waiting)))} to go"


def duration(seconds: float) -> str:
    """Seconds in words of a person."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Process:
    """A run in training.

    Its errors are read as they come: the last line says why it failed. With a log everything goes
    there, without one to where this program's output goes.
    """

    def __init__(self, app: App, planned: Planned, resume: bool, log: Path | None) -> None:
        self.planned, self.last = planned, ""
        self._log: IO[str] | None = open(log, "a", encoding="utf-8") if log else None  # noqa: SIM115
        # a session of its own: Ctrl-C reaches this program alone, which lets the run save its state
        self.process = subprocess.Popen(
            _line(app, planned, resume),
            stdout=self._log,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=_environment(one_thread=log is not None),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            print(line, end="", file=self._log or sys.stderr, flush=True)
            self.last = line.strip() or self.last

    def end(self) -> Failure | None:
        """Wait for the end; what went wrong, if something did."""
        code = self.process.wait()
        self._reader.join(timeout=5)
        if self._log is not None:
            self._log.close()
        if code == 0 and (self.planned.folder / SUMMARY).exists():
            return None
        reason = self.last.removeprefix("error: ") or f"exit code {code}"
        if code < 0:
            reason = f"ended by signal {-code} ({signal.strsignal(-code)})"
        return Failure(self.planned.name, reason)


def execute(
    app: App,
    runs: Sequence[tuple[Planned, State]],
    jobs: int,
    say: Callable[[str], None],
    done: Callable[[Planned], None] = lambda _: None,
) -> list[Failure]:
    """Train what is not finished; one that fails does not stop the others.

    Args:
        app: of the runs.
        runs: with what there is of each.
        jobs: processes at once; with more than one each has one thread and a log beside its folder.
        say: prints a line.
        done: called with each run that has ended well.

    Raises:
        Interrupted: After SIGINT or SIGTERM, once all processes have ended.
        UserError: A log cannot be written.
    """
    pace, failures, number = Pace(), [], 0
    for planned, state in runs:
        if state == "finished":
            pace.add(planned)
    waiting = [each for each in runs if each[1] != "finished"]
    total, running = len(waiting), list[Process]()
    left = pace.left([planned for planned, _ in waiting], jobs)
    if left:
        say(left)
    with _signals(running) as stopped:
        while (waiting and not stopped) or running:
            while waiting and not stopped and len(running) < jobs:
                planned, state = waiting.pop(0)
                number += 1
                log = planned.folder.with_name(f"{planned.name}.log") if jobs > 1 else None
                make_folder(planned.folder.parent)
                begun = f"[{number}/{total}] {planned.command(app, state == 'unfinished')}"
                say(begun + (f" (log: {log})" if log else ""))
                running.append(Process(app, planned, state == "unfinished", log))
                if stopped:  # while it was started
                    running[-1].process.terminate()
            time.sleep(LOOK)
            for process in [each for each in running if each.process.poll() is not None]:
                failure = process.end()
                running.remove(process)
                if failure is not None:
                    if not stopped:
                        failures.append(failure)
                        say(f"{failure.name} failed: {failure.reason}")
                    continue
                pace.add(process.planned)
                todo = [*(each.planned for each in running), *(each for each, _ in waiting)]
                say(_ended(process.planned, pace.left(todo, jobs)))
                done(process.planned)
    if stopped:
        raise Interrupted(stopped[0])
    return failures


def _ended(planned: Planned, left: str) -> str:
    summary = Run(planned.folder).summary
    score = f"mIoU {summary['miou_last']:.2f}" if "miou_last" in summary else "not scored"
    words = f"{planned.name}: {score} after {duration(summary['seconds'])}"
    return f"{words}; {left}" if left else words


@contextmanager
def _signals(running: Sequence[Process]) -> Iterator[list[int]]:
    """Yields the signals that have come; the first lets the processes save, the second kills."""
    came: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        came.append(number)
        for each in running:
            each.process.send_signal(signal.SIGTERM if len(came) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for each in running:  # an error of our own
            each.process.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)


def _line(app: App, planned: Planned, resume: bool) -> list[str]:
    """Starts the app's program from where this process has it."""
    code = f"from {app.package}.app import program; program()"
    return [sys.executable, "-P", "-c", code, *planned.words(resume)]


def _environment(one_thread: bool) -> Mapping[str, str]:
    """Such that a process imports what this one would."""
    found: dict[str, Any] = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return found | ({"OMP_NUM_THREADS": "1"} if one_thread else {})
