"""A run that was stopped or killed goes on as if nothing had happened.

The same weights, the same journal, the same summary.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from harness.commands import Launcher, journal
from harness.methods import EveryMethod
from harness.tiny import Options, Tiny
from u2pl.run.app import App

MOST = 300.0  # seconds to wait for anything

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


def wait_for(path: Path, lines: int = 0) -> None:
    """Until the file is there and has so many lines."""
    end = time.monotonic() + MOST
    while not path.exists() or (lines and path.read_bytes().count(b"\n") < lines):
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.005)


class Commands:
    """Commands of an app on so many threads."""

    def __init__(self, launcher: Launcher, app: App, threads: int) -> None:
        self.launcher, self.threads = launcher, threads
        self.file = app.folder.parent / "cli.py"

    def start(self, log: Path, *args: Any) -> int:
        """Start one; returns its process id."""
        return self.launcher.start(log, self.file, *args, threads=self.threads)

    def wait(self, pid: int) -> int:
        """Its exit code."""
        return self.launcher.wait(pid)

    def run(self, log: Path, *args: Any) -> None:
        """Run one that must succeed."""
        self.launcher.run(log, self.file, *args, threads=self.threads)


class ResumedRuns(EveryMethod):
    """Needs the fixtures `tiny` and `request_words`; a subclass says how long its runs are."""

    steps: ClassVar[int]
    #: Options on top of a small run's, for every method that has them.
    usual: ClassVar[Options] = {}
    #: Workers of the runs that are killed; a state is written alike in every app.
    kills: ClassVar[tuple[int, ...]] = (2,)
    #: The method that is killed, and the only one that runs on two threads: it computes all that
    #: the others of its app compute, and how threads share the work decides how floats are summed.
    everything: ClassVar[str] = "u2plplus"

    @pytest.fixture(scope="class")
    @classmethod
    def commands(cls, launcher: Launcher) -> Callable[[str], Commands]:
        """The commands of a method: on two threads of one method, on one of the others."""
        return lambda method: Commands(launcher, cls.app, 2 if method == cls.everything else 1)

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
        commands: Callable[[str], Commands],
        train: Train,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Callable[[str], Path]:
        """The uninterrupted run of a method.

        How often a run writes its state, and its workers, change nothing in it.
        """
        root, done = tmp_path_factory.mktemp("whole"), set()

        def run(method: str) -> Path:
            if method not in done:
                commands(method).run(root / "log", *train(method, root / method))
                done.add(method)
            return root / method

        return run

    def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(
        self,
        method: str,
        commands: Callable[[str], Commands],
        train: Train,
        whole: Callable[[str], Path],
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
        assert_same(run_of(whole(method)), found)

    def test_a_run_that_is_killed_goes_on_from_its_last_state(
        self,
        commands: Callable[[str], Commands],
        train: Train,
        whole: Callable[[str], Path],
        tmp_path: Path,
    ) -> None:
        method, log = self.everything, tmp_path / "log"
        own, expected = commands(method), run_of(whole(method))
        seconds = json.loads((whole(method) / "summary.json").read_text())["seconds"]
        for workers in self.kills:
            killed = tmp_path / f"killed{workers}"
            changes = {"train_checkpoint_every": 1, "data_workers": workers}
            pid = own.start(log, *train(method, killed, **changes))
            wait_for(killed / "config.json")
            # any moment: before the first step, in the middle of a file, after the end
            time.sleep(random.uniform(0.0, 1.2 * seconds))
            os.killpg(pid, signal.SIGKILL)
            assert own.wait(pid) in (-signal.SIGKILL, 0)

            own.run(log, *train(method, killed, "--resume", **changes))
            assert_same(expected, run_of(killed))
        # nothing is left to do, nothing is changed
        own.run(log, *train(method, killed, "--resume", train_checkpoint_every=1))
        assert_same(expected, run_of(killed))
