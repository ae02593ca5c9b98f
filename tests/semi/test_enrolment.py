"""A method is one file: what it needs besides is nothing.

Each file in `newcomers/` is one that nothing else in this repository knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from harness.commands import logged_steps, losses
from harness.contract import Build, MethodContract, passes, trained
from harness.newcomers import Newcomers
from harness.tiny import Tiny
from u2pl.cli.program import new_program
from u2pl.methods.batches import PairBatch
from u2pl.run.app import App
from u2pl_semi.app import APP

NEWCOMERS = Newcomers.of(APP, Path(__file__).with_name("newcomers"))


@pytest.fixture(scope="module", autouse=True)
def app() -> Iterator[App]:
    """The app with other methods than its own."""
    with NEWCOMERS.importable():
        yield NEWCOMERS


class TestNewcomers(MethodContract):
    app = NEWCOMERS

    def spoilt(self, batch: PairBatch) -> dict[str, PairBatch]:
        return {
            "no label": batch._replace(label_l=torch.full_like(batch.label_l, 255)),
            "no valid pixel": batch._replace(valid_u=torch.zeros_like(batch.valid_u)),
        }


def test_both_students_are_trained_and_begin_differently(build: Build) -> None:
    method, _ = build("two_students")
    one, two = method.networks().values()
    names = [key for key, _ in one.named_parameters()]
    assert trained(method).keys() == {
        f"{role}.{key}" for role in ("student", "second") for key in names
    }
    both = zip(names, one.parameters(), two.parameters(), strict=True)
    other = {key for key, a, b in both if not torch.equal(a, b)}
    assert "classifier.weight" in other
    assert not any(key.startswith("encoder.") for key in other)


@pytest.mark.parametrize(
    ("name", "expected"), [("fixmatch_teacher", (2, 1)), ("two_students", (4, 0))]
)
def test_its_passes_are_counted(name: str, expected: tuple[int, int], build: Build) -> None:
    assert passes(*build(name), step=5) == expected


TERMS = {"fixmatch_teacher": {"sup", "unsup"}, "two_students": {"sup", "sup_second", "cps"}}
RESULTS = {"fixmatch_teacher": "teacher", "two_students": "student"}


@pytest.mark.parametrize("method", TERMS)
def test_it_trains_from_the_command_line(
    method: str, tiny: Tiny, folder: Path, tmp_path: Path
) -> None:
    program, out = new_program(NEWCOMERS), tmp_path / "run"

    def typed(words: str, *more: object) -> str:
        result = CliRunner().invoke(program, [*words.split(), *map(str, more)])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert method in typed("methods")
    options = [*tiny(method), "--data", folder]
    printed = typed(f"train {method} --preset demo --steps 3 --cpu", "--out", out, *options)
    summary = json.loads((out / "summary.json").read_text())
    assert f"mIoU of the {RESULTS[method]}: last {summary['miou_last']:.2f}" in printed
    assert len(summary["networks"]) == 2
    assert [losses(entry) for entry in logged_steps(out)] == [TERMS[method]] * 3
    # and what was trained is a model like any other
    typed("predict", out, folder / "images", "--out", tmp_path / "predicted", "--cpu")
    assert len(list((tmp_path / "predicted" / "ids").iterdir())) == 10
