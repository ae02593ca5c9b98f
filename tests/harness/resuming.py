"""A run that was stopped or killed goes on as if nothing had happened: same weights, same journal, same summary."""

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

from harness.commands import Launcher
from harness.methods import EveryMethod

MOST = 300.0  # seconds to wait for anything

#: The command of a run of a method in a folder, all but the last steps behind its warm start; `train_lr=1` changes an option.
Train = Callable[..., list[Any]]


def run_of(folder: Path) -> dict[str, Any]:
    """What must not depend on interruptions: every tensor of both networks and of the state, the journal, the summary."""
    tensors = {
        f"{name} {key}": value
        for name in ("resume.safetensors", "last/model.safetensors", "best/model.safetensors")
        for key, value in load_file(folder / name).items()
    }
    journal = [
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in (folder / "journal.jsonl").read_text().splitlines()
    ]
    summary = {
        k: v
        for k, v in json.loads((folder / "summary.json").read_text()).items()
        if k not in ("seconds", "commit")
    }
    with safe_open(folder / "resume.safetensors", "pt") as file:
        facts = {k: v for k, v in json.loads(file.metadata()["facts"]).items() if k != "seconds"}
    return {"tensors": tensors, "journal": journal, "summary": summary, "facts": facts}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["journal"] == other["journal"]
    assert one["facts"] == other["facts"]
    options = [run["summary"].pop("options", None) for run in (one, other)]
    assert one["summary"] == other["summary"]
    for run, option in zip((one, other), options, strict=True):
        run["summary"]["options"] = option
    assert one["tensors"].keys() == other["tensors"].keys()
    different = [
        name
        for name, value in one["tensors"].items()
        if not torch.equal(value, other["tensors"][name])
    ]
    assert not different


def wait_for(path: Path, lines: int = 0) -> None:
    """Until the file is there and has so many lines."""
    end = time.monotonic() + MOST
    while not path.exists() or (lines and path.read_bytes().count(b"\n") < lines):
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.005)


class ResumedRuns(EveryMethod):
    """Needs a fixture `train`; a subclass says how long its runs are."""

    steps: ClassVar[int]

    @pytest.fixture(scope="class")
    @classmethod
    def whole(
        cls, launcher: Launcher, tmp_path_factory: pytest.TempPathFactory
    ) -> Callable[[str, Train], Path]:
        """The uninterrupted run of a method; how often a run writes its state, and its workers, change nothing in it."""
        root, done = tmp_path_factory.mktemp("whole"), set()

        def run(method: str, train: Train) -> Path:
            if method not in done:
                launcher.run(root / "log", *train(method, root / method))
                done.add(method)
            return root / method

        return run

    def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(
        self,
        method: str,
        launcher: Launcher,
        train: Train,
        whole: Callable[[str, Train], Path],
        tmp_path: Path,
    ) -> None:
        stopped, log = tmp_path / "stopped", tmp_path / "log"

        # SIGTERM to the whole group, workers too, as a scheduler or `timeout` sends it
        pid = launcher.start(log, *train(method, stopped, data_workers=2))
        wait_for(
            stopped / "journal.jsonl", lines=random.Random(method).randrange(1, self.steps // 2)
        )
        os.killpg(pid, signal.SIGTERM)
        assert launcher.wait(pid) == 143, log.read_text()
        assert f"--out {stopped} --resume" in log.read_text()
        with safe_open(stopped / "resume.safetensors", "pt") as file:
            assert 0 < json.loads(file.metadata()["facts"])["step"] < self.steps
        assert not (stopped / "summary.json").exists()

        launcher.run(log, *train(method, stopped, "--resume", data_workers=2))
        assert_same(run_of(whole(method, train)), run_of(stopped))

    def test_a_run_that_is_killed_goes_on_from_its_last_state(
        self, launcher: Launcher, train: Train, whole: Callable[[str, Train], Path], tmp_path: Path
    ) -> None:
        method, log = "u2plplus", tmp_path / "log"
        expected = run_of(whole(method, train))
        for workers in (0, 2):
            killed = tmp_path / f"killed{workers}"
            pid = launcher.start(
                log, *train(method, killed, train_checkpoint_every=1, data_workers=workers)
            )
            wait_for(killed / "config.json")
            time.sleep(
                random.uniform(0.0, 1.5)
            )  # any moment: before the first step, in the middle of a file, after the end
            os.killpg(pid, signal.SIGKILL)
            assert launcher.wait(pid) in (-signal.SIGKILL, 0)

            launcher.run(
                log,
                *train(method, killed, "--resume", train_checkpoint_every=1, data_workers=workers),
            )
            assert_same(expected, run_of(killed))
        launcher.run(
            log, *train(method, killed, "--resume", train_checkpoint_every=1)
        )  # nothing is left to do, nothing is changed
        assert_same(expected, run_of(killed))
