"""The benchmarks' stages and commands exist: what they time or run is called by name."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.run.app import App, find_app
from u2pl.run.recipe import Recipe
from u2pl.run.request import Request

ROOT = Path(__file__).resolve().parents[2]

#: The methods that `step.py` measures by default, of each app.
METHODS = [
    *(("semi", name) for name in ("mean_teacher", "cutmix", "fixmatch", "unimatch", "augseg")),
    *(("semi", name) for name in ("ael", "esl", "cps", "u2pl", "u2plplus")),
    *(("semi", f"{name} weighted") for name in ("fixmatch", "unimatch", "augseg", "ael")),
    *(("semi", f"{name} weighted") for name in ("u2pl", "u2plplus")),
    ("domain_adapt", "daformer"),
    ("domain_adapt", "u2plplus"),
    ("weak", "cam"),
    ("weak", "afa"),
    ("weak", "u2plplus"),
]


@pytest.fixture(autouse=True)
def _scripts() -> Iterator[None]:
    """The scripts import each other by name, as they do when one is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


@pytest.fixture
def step() -> ModuleType:
    """The script `step.py`."""
    return import_module("step")


def make_rival(step: ModuleType, app: str, method: str) -> Any:
    """A method as `step.py` sets it up, on images of 32 pixels."""
    defaults = step.APPS[app].defaults(cuda=False)
    small = {"batch": 2, "size": 32, "device": torch.device("cpu"), "seed": 0}
    return step.APPS[app](method, Namespace(**{**defaults, **small, "precision": "float32"}))


def test_these_are_the_methods_that_are_measured(step: ModuleType) -> None:
    measured = {app: rival.defaults(cuda=False)["methods"] for app, rival in step.APPS.items()}
    assert [(app, method) for app, methods in measured.items() for method in methods] == METHODS


@pytest.mark.parametrize(("app", "method"), METHODS)
def test_every_stage_that_is_watched_is_part_of_some_step(
    step: ModuleType, app: str, method: str
) -> None:
    rival = make_rival(step, app, method)
    seen: set[str] = set()
    for progress in rival.phases().values():
        rival.progress = progress
        seen |= rival.stages(1, torch.device("cpu"))["step"].keys()
    assert rival.inside().keys() - seen == set()


def test_a_stage_that_does_not_exist_is_an_error_that_names_it(
    step: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = make_rival(step, "semi", "u2pl")
    wrong = {**rival.inside(), "contrast: selection": (PixelContrast, "select")}
    monkeypatch.setattr(rival, "inside", lambda: wrong)
    with pytest.raises(
        AttributeError, match="stage 'contrast: selection': PixelContrast has no 'select'"
    ):
        rival.stages(1, torch.device("cpu"))


def test_the_commands_of_every_study_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, accepted = import_module("evidence"), 0

    def resolve(app: App, request: Request) -> int:
        nonlocal accepted
        Recipe.of_request(app, request)
        accepted += 1
        return 0

    monkeypatch.setattr("u2pl.cli.commands.train", resolve)
    for name, study in evidence.STUDIES.items():
        program = import_module(f"{find_app(study.app).package}.app").program
        given = (None, None) if "demo" in name else ("DATA", "WEIGHTS.safetensors")
        for method in {method for method, _ in study.runs}:
            line = evidence.command(study, method, 0, *given, Path("runs/evidence"))
            result = CliRunner().invoke(program, line[2:])
            assert result.exit_code == 0, f"{shlex.join(line)}: {result.output}"
    assert accepted > len(evidence.STUDIES)
