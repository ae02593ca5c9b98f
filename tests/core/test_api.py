from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import u2pl
from core.toy.app import APP, ToyRequest
from harness.runs import write_run
from u2pl import api
from u2pl.cli.console import ConsoleReporter
from u2pl.run.app import APPS
from u2pl.run.run import Run


def test_public_names_are_those_of_their_modules() -> None:
    for name in u2pl.__all__:
        value = getattr(u2pl, name)
        assert value is getattr(import_module(value.__module__), name)
    assert set(u2pl.__all__) <= set(dir(u2pl))
    with pytest.raises(AttributeError, match="module 'u2pl' has no attribute 'trian'"):
        _ = u2pl.trian  # type: ignore[attr-defined]


def test_torch_is_imported_when_something_is_used() -> None:
    code = "import sys, u2pl; u2pl.UserError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be trained."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setitem(APPS, "toy", "core.toy.app")
    monkeypatch.setattr(api, "start_training", lambda *call: calls.append(call) or Run(Path("a")))
    return calls


def test_train_takes_the_options_of_the_command(started: list[tuple[Any, ...]]) -> None:
    run = u2pl.train("toy", method="plain", data="x", steps=3, set={"train.lr": 0.1}, verbose=False)
    assert run == Run(Path("a"))
    request = ToyRequest(method="plain", data="x", steps=3, set=["train.lr=0.1"])
    assert started == [(APP, request, None)]
    u2pl.train("u2pl-toy")
    assert started[1][:2] == (APP, ToyRequest()) and isinstance(started[1][2], ConsoleReporter)


def test_compare_takes_runs_and_folders_alone_or_in_a_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(APPS, "toy", "core.toy.app")
    one, other = (
        write_run(tmp_path / method, method=method, images=40) for method in ("plain", "other")
    )
    for given in (tmp_path, str(tmp_path), [Run(one), other], (one, str(other))):
        found = u2pl.compare(given)
        assert isinstance(found, u2pl.Comparison)
        assert {row.variant for row in found.rows} == {"plain", "other"}
    assert u2pl.compare(Run(one)).rows[0].seeds == (0,)
    assert u2pl.compare(tmp_path, against="other").reference.name == "other"


@pytest.mark.parametrize(
    ("app", "options", "says"),
    [
        ("tyo", {}, r"no app 'tyo' \(did you mean toy\?\)"),
        ("toy", {"stepz": 1}, r"no option 'stepz' \(did you mean steps\?\)"),
        ("toy", {"steps": 0}, "steps: 0 is below"),
    ],
)
def test_mistakes_are_said_before_anything_starts(
    started: list[tuple[Any, ...]], app: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(u2pl.UserError, match=says):
        u2pl.train(app, **options)
    assert started == []
