"""A run that was stopped or killed goes on as if nothing had happened.

The same weights, the same journal, the same summary. With `--kills N` there are N runs that are
killed, of the three apps in turn. What is done to each is the same every time, but for how far it
is by then.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from harness.commands import Launcher, journal
from harness.methods import EveryMethod
from harness.tiny import Options, Tiny
from u2pl.run.app import App
from u2pl.training.run_lock import LOCK

MOST = 300.0  # seconds to wait for anything
#: Seconds within which everything has ended when one of several processes has.
ENDED = 30.0
#: Seed of the first kill: the second of two processes, then in the middle of a state, then all.
FIRST = 58805
#: `accelerate launch` for two processes.
TWO = ("--multi_gpu", "--num_processes", 2, "--main_process_port", 0)
#: What the others say then.
GONE = "error: another process of this run has ended or does not answer"

#: The command of a run of a method in a folder, more words, and options that it must have.
Train = Callable[..., list[Any]]


def history_of(folder: Path) -> dict[str, Any]:
    """What a state knows beyond its tensors."""
    with safe_open(folder / "resume.safetensors", "pt") as file:
        return {k: v for k, v in json.loads(file.metadata()["facts"]).items() if k != "seconds"}


def run_of(folder: Path) -> dict[str, Any]:
    """What must not depend on interruptions.

    Every tensor of both networks and of the state, the journal, the summary.
    """
    tensors = {
        f"{name} {key}": value
        for name in ("resume.safetensors", "last/model.safetensors", "best/model.safetensors")
        for key, value in load_file(folder / name).items()
    }
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "tensors": tensors,
        "journal": journal(folder),
        "summary": {k: v for k, v in summary.items() if k not in ("seconds", "commit", "options")},
        "history": history_of(folder),
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("journal", "history", "summary"):
        assert one[part] == other[part], part
    ours, theirs = one["tensors"], other["tensors"]
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def hidden(folder: Path) -> set[str]:
    """Names of what is only for a moment in a run's folder."""
    return {each.name for each in folder.rglob(".*")}


def wait_for(path: Path, lines: int = 0) -> None:
    """Until the file is there and has so many lines."""
    end = time.monotonic() + MOST
    while not path.exists() or (lines and path.read_bytes().count(b"\n") < lines):
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.005)


class Commands:
    """Commands of an app on so many threads.

    Args:
        launcher: starts them.
        app: whose.
        threads: of each process.
        options: of `accelerate launch`, if that is to start them.
    """

    def __init__(
        self, launcher: Launcher, app: App, threads: int, options: Sequence[Any] = ()
    ) -> None:
        self.launcher, self.threads = launcher, threads
        self.file = app.folder.parent / "cli.py"
        accelerated = Path(__file__).with_name("accelerated.py")
        self.first = [accelerated, *options, self.file] if options else [self.file]

    def start(self, log: Path, *args: Any, dies: tuple[int, float] | None = None) -> int:
        """Start one; returns its process id."""
        return self.launcher.start(log, *self.first, *args, threads=self.threads, dies=dies)

    def wait(self, pid: int) -> int:
        """Its exit code."""
        return self.launcher.wait(pid)

    def run(self, log: Path, *args: Any) -> None:
        """Run one that must succeed."""
        self.launcher.run(log, *self.first, *args, threads=self.threads)


class Death(NamedTuple):
    """When which processes of a run are killed."""

    #: `all`, the `launcher` of several, or the `first` or `second` of those that it has started; of
    #: a run in one process the first is that one without its data workers.
    victim: str
    #: The share of an undisturbed run's time that has passed by then.
    when: float
    #: Instead of a time: the file that the first is writing, from 1, and the share that is written.
    writes: tuple[int, float] | None

    @classmethod
    def drawn(cls, draw: random.Random, processes: int) -> Death:
        """Half of them while one of the first twenty files is written."""
        if draw.random() < 0.5:
            share = draw.choice((0.0, draw.random(), 1.0))  # 1: all but the renaming
            return cls("first", 0.0, (draw.randrange(1, 21), share))
        victims = ("launcher", "first", "second", "all") if processes > 1 else ("first", "all")
        return cls(draw.choice(victims), draw.uniform(0.0, 1.2), None)

    def befall(self, own: Commands, seconds: float, log: Path, *args: Any) -> None:
        """Start a command and kill it; of several processes none is left then.

        Args:
            own: starts it.
            seconds: that an undisturbed run takes.
            log: of the command.
            args: of the command.
        """
        pid, several = own.start(log, *args, dies=self.writes), len(own.first) > 1
        started, others = psutil.Process(pid), []
        if self.writes is None:
            time.sleep(self.when * seconds)
            with suppress(psutil.NoSuchProcess):
                others = sorted(started.children(), key=lambda each: each.pid)
            for each in self._victims(started, others, several):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        begin = time.monotonic()
        code, text = own.wait(pid), log.read_text()
        assert code in (0, 1 if several else -signal.SIGKILL, -signal.SIGKILL), text
        if several:
            _, left = psutil.wait_procs(others, ENDED)
            assert not left and time.monotonic() - begin < ENDED, text
            # the launcher has a traceback of its own
            assert text.count(GONE) <= 1 and f'{own.file.name}", line' not in text, text

    def _victims(
        self, started: psutil.Process, others: list[psutil.Process], several: bool
    ) -> list[psutil.Process]:
        """Before it has started any the launcher stands for them."""
        if self.victim == "all":
            return [started, *others]
        if several and self.victim in (
            ranks := dict(zip(("first", "second"), others, strict=False))
        ):
            return [ranks[self.victim]]
        return [started]


class Whole(NamedTuple):
    """An uninterrupted run."""

    folder: Path
    seconds: float


class ResumedRuns(EveryMethod):
    """Needs the fixtures `tiny` and `request_words`; a subclass says how long its runs are."""

    steps: ClassVar[int]
    #: Options on top of a small run's, for every method that has them.
    usual: ClassVar[Options] = {}
    #: Of three kills one is this app's, from 0: which.
    turn: ClassVar[int]
    #: Processes of the runs that are killed, one after the other.
    processes: ClassVar[tuple[int, int]] = (1, 2)
    #: The method that is killed, and the only one that runs on two threads: it computes all that
    #: the others of its app compute, and how threads share the work decides how floats are summed.
    everything: ClassVar[str] = "u2plplus"

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """The values of `kill` besides: the numbers of this app's."""
        super().pytest_generate_tests(metafunc)
        if "kill" in metafunc.fixturenames:
            metafunc.parametrize("kill", range(self.turn, metafunc.config.getoption("--kills"), 3))

    @pytest.fixture(scope="class")
    @classmethod
    def commands(cls, launcher: Launcher) -> Callable[..., Commands]:
        """The commands of a method: on two threads of one method, on one of the others.

        And on one if it is in two processes.
        """

        def make(method: str, processes: int = 1) -> Commands:
            threads = 2 if method == cls.everything and processes == 1 else 1
            return Commands(launcher, cls.app, threads, TWO if processes > 1 else ())

        return make

    @pytest.fixture(scope="class")
    @classmethod
    def train(cls, tiny: Tiny, request_words: list[str]) -> Train:
        """The command of a run, all but the first steps of which are behind the warm start."""
        usual = {"method.warm_start": 0.3, "train.checkpoint_every": 4, **cls.usual}
        usual |= {"method.unsupervised.confidence": 0}  # an untrained teacher is never sure

        def words(method: str, out: Path, *more: Any, **changes: Any) -> list[Any]:
            common = ["--preset", "demo", "--steps", cls.steps, "--cpu", "--out", out]
            options = tiny(method, usual, **changes)
            return ["train", method, *request_words, *common, *options, *more]

        return words

    @pytest.fixture(scope="class")
    @classmethod
    def whole(
        cls,
        commands: Callable[..., Commands],
        train: Train,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Callable[..., Whole]:
        """The uninterrupted run of a method.

        How often a run writes its state, and its workers, change nothing in it.
        """
        root, done = tmp_path_factory.mktemp("whole"), dict[tuple[str, int], Whole]()

        def run(method: str, processes: int = 1) -> Whole:
            if (method, processes) not in done:
                out, begin = root / f"{method}{processes}", time.monotonic()
                own, changes = commands(method, processes), cls.changes(processes)
                own.run(root / "log", *train(method, out, **changes))
                done[method, processes] = Whole(out, time.monotonic() - begin)
            return done[method, processes]

        return run

    @staticmethod
    def changes(processes: int) -> dict[str, Any]:
        """Options of a run in so many processes: each has two labelled images."""
        return {"train_batch": 2 * processes} if processes > 1 else {}

    def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(
        self,
        method: str,
        commands: Callable[..., Commands],
        train: Train,
        whole: Callable[..., Whole],
        tmp_path: Path,
    ) -> None:
        own, stopped, log = commands(method), tmp_path / "stopped", tmp_path / "log"

        # SIGTERM to the whole group, the worker too, as a scheduler or `timeout` sends it
        pid = own.start(log, *train(method, stopped, data_workers=1))
        lines = random.Random(method).randrange(1, self.steps // 2)
        wait_for(stopped / "journal.jsonl", lines)
        os.killpg(pid, signal.SIGTERM)
        assert own.wait(pid) == 143, log.read_text()
        typed = log.read_text().rpartition("; go on with: ")[2].split()
        assert typed == ["python", str(own.file), "train", "--resume", str(stopped)]
        assert 0 < history_of(stopped)["step"] < self.steps
        assert not (stopped / "summary.json").exists()

        own.run(log, *typed[2:])
        found = run_of(stopped)
        assert found["summary"]["threads"] == own.threads
        assert_same(run_of(whole(method).folder), found)

    def test_a_run_that_is_killed_goes_on_from_its_last_state(
        self,
        kill: int,
        commands: Callable[..., Commands],
        train: Train,
        whole: Callable[..., Whole],
        tmp_path: Path,
    ) -> None:
        draw, method = random.Random(FIRST + kill), self.everything
        processes = self.processes[kill // 3 % 2]
        own, expected = commands(method, processes), whole(method, processes)
        killed, log = tmp_path / "killed", tmp_path / "log"
        changes = {**self.changes(processes), "train_checkpoint_every": 1}
        changes["data_workers"] = 2 * draw.randrange(2) if processes == 1 else 0
        deaths = [Death.drawn(draw, processes) for _ in range(draw.choice((1, 1, 2)))]

        def words() -> list[Any]:
            begun = (killed / "config.json").exists()
            return train(method, killed, *(["--resume"] if begun else []), **changes)

        for death in deaths:
            death.befall(own, expected.seconds, log, *words())
            finished = (killed / "summary.json").exists()
            assert hidden(killed) - {LOCK} or finished or not death.writes, death
        own.run(log, *words())
        # the lock of a run that was killed behind its end stays: it holds nobody back
        assert hidden(killed) <= ({LOCK} if finished else set()), deaths
        assert_same(run_of(expected.folder), run_of(killed))
