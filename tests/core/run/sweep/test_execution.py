"""Sweeps of a program that acts like training, but takes no time."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from core.toy.app import APP, ToyRequest
from u2pl.counting import silently
from u2pl.errors import UserError
from u2pl.run.sweep import execution
from u2pl.run.sweep.execution import (
    Failure,
    Interrupted,
    Pace,
    State,
    duration,
    execute,
    state_of,
)
from u2pl.run.sweep.plan import Planned
from u2pl.run.train import make_task

#: Acts by the seed: 1 fails, 2 dies, 3 goes on until it is stopped, all others finish.
ACT = """
import json, os, pathlib, signal, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 0
print("training", os.environ.get("OMP_NUM_THREADS"), "--resume" in sys.argv, flush=True)
if seed == 1:
    print("counting", file=sys.stderr)
    sys.exit("error: the images are gone")
if seed == 2:
    os.kill(os.getpid(), signal.SIGKILL)
out.mkdir(parents=True, exist_ok=True)
(out / "config.json").write_text("{}")
if seed == 3:
    def stop(*_):
        (out / "state").touch()
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    (out / "begun").touch()
    time.sleep(60)
(out / "summary.json").write_text(json.dumps({"seconds": 120, "miou_last": 50 + seed}))
"""


@pytest.fixture(autouse=True)
def _acting(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(_: object, planned: Planned, resume: bool) -> list[str]:
        return [sys.executable, "-c", ACT, *planned.words(resume)]

    monkeypatch.setattr(execution, "_line", line)
    monkeypatch.setattr(execution, "LOOK", 0.01)


def planned(folder: Path, *seeds: int) -> list[tuple[Planned, State]]:
    return [
        (Planned("plain", ToyRequest(method="plain", seed=s, out=folder / f"plain-seed{s}")), "new")
        for s in seeds
    ]


def test_one_that_fails_does_not_stop_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    done: list[str] = []
    runs = planned(tmp_path / "out", 1, 2, 0)
    failures = execute(APP, runs, 1, said.append, lambda run: done.append(run.name))
    assert failures == [
        Failure("plain-seed1", "the images are gone"),
        Failure("plain-seed2", "ended by signal 9 (Killed)"),
    ]
    assert done == ["plain-seed0"]
    assert said[0] == f"[1/3] {runs[0][0].command(APP)}"
    assert said[1] == "plain-seed1 failed: the images are gone"
    assert said[-1] == "plain-seed0: mIoU 50.00 after 2 min"
    shown = capfd.readouterr()
    assert shown.out.count("training") == 3 and "counting\n" in shown.err


def test_several_at_once_have_a_thread_and_a_log_each(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    runs = planned(tmp_path, 1, 4, 5)
    assert len(execute(APP, runs, 3, said.append)) == 1
    assert (tmp_path / "plain-seed4.log").read_text() == "training 1 False\n"
    assert "the images are gone" in (tmp_path / "plain-seed1.log").read_text()
    assert all("(log: " in line for line in said[:3])
    assert "training" not in capfd.readouterr().out


def test_what_is_finished_is_skipped_and_tells_how_long_the_rest_takes(tmp_path: Path) -> None:
    first, other = planned(tmp_path, 0, 4)
    execute(APP, [first], 1, lambda _: None)
    said: list[str] = []
    state: State = "unfinished"
    assert execute(APP, [(first[0], "finished"), (other[0], state)], 1, said.append) == []
    assert said[0] == "about 2 min to go"
    assert len(said) == 3 and "--resume" in said[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_runs_save_their_state_and_starts_no_other(
    tmp_path: Path, number: signal.Signals
) -> None:
    runs, said = planned(tmp_path, 3, 0), list[str]()

    def stop() -> None:
        while not (runs[0][0].folder / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted) as stopped:
        execute(APP, runs, 1, said.append)
    thread.join()
    assert stopped.value.code == 128 + number
    assert (runs[0][0].folder / "state").exists() and not runs[1][0].folder.exists()
    assert not any("failed" in line for line in said)
    assert signal.getsignal(number) == before


def test_an_error_of_our_own_leaves_no_process_behind(tmp_path: Path) -> None:
    runs = planned(tmp_path, 3, 0)

    def wait_for(name: str) -> None:
        deadline = time.monotonic() + 20
        while not (runs[0][0].folder / name).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def broken(_: Planned) -> None:
        wait_for("begun")  # before that, it would end without a state
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        execute(APP, runs, 2, lambda _: None, broken)
    wait_for("state")


def test_a_run_is_known_by_its_command_or_by_its_config(tmp_path: Path) -> None:
    (run, _), folder = planned(tmp_path, 0)[0], tmp_path / "plain-seed0"
    assert state_of(APP, run) == "new"
    folder.mkdir()
    (folder / ".config.json.part").touch()
    assert state_of(APP, run) == "new"
    config = {"command": "u2pl-toy train plain"}
    (folder / "config.json").write_text(json.dumps(config))
    assert state_of(APP, run) == "unfinished"
    (folder / "summary.json").write_text("{}")
    assert state_of(APP, run) == "finished"
    longer = replace(run, request=replace(run.request, preset="light", most_images=4))
    with pytest.raises(UserError, match=r"holds a run with another .*: choose another --out"):
        state_of(APP, longer)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="is no folder of a run: move it away"):
        state_of(APP, run)


def test_a_run_that_was_typed_in_another_way_is_the_same(tmp_path: Path) -> None:
    out = tmp_path / "plain-seed0"
    request = ToyRequest(method="plain", preset="light", most_images=4, out=out)
    config = make_task(APP, request, silently).config() | {"command": "u2pl-toy train plain --cpu"}
    out.mkdir()
    (out / "config.json").write_text(json.dumps(config))
    assert state_of(APP, Planned("plain", request)) == "unfinished"


def test_the_pace_is_that_of_the_variant_if_it_is_known(tmp_path: Path) -> None:
    runs = [each for each, _ in planned(tmp_path, 0, 4)]
    pace = Pace()
    assert pace.left(runs, 1) == ""
    for variant, seconds in (("fast", 10), ("slow", 190)):
        folder = tmp_path / variant
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps({"seconds": seconds}))
        pace.add(Planned(variant, ToyRequest(out=folder)))
    assert pace.left(runs, 1) == "about 3 min to go"  # 100 s each
    assert pace.left([replace(run, variant="fast") for run in runs], 2) == "about 10 s to go"
    assert pace.left([], 1) == ""


@pytest.mark.parametrize(("seconds", "words"), [(89, "89 s"), (100, "2 min"), (7200, "2.0 h")])
def test_durations_are_in_units_of_a_person(seconds: float, words: str) -> None:
    assert duration(seconds) == words
