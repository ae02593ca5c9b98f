"""A method is one file: what it needs besides is nothing.

The file in `newcomers/` is one that nothing else in this repository knows. It has no options.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from harness.commands import logged_steps, losses
from harness.contract import MethodContract
from harness.newcomers import Newcomers
from harness.tiny import Tiny
from u2pl.cli.program import new_program
from u2pl.run.app import App
from u2pl_ws.app import APP
from u2pl_ws.batches import TagBatch

NEWCOMERS = Newcomers.of(APP, Path(__file__).with_name("newcomers"))


@pytest.fixture(scope="module", autouse=True)
def app() -> Iterator[App]:
    """The app with other methods than its own."""
    with NEWCOMERS.importable():
        yield NEWCOMERS


class TestNewcomers(MethodContract):
    app = NEWCOMERS
    unlogged = 1

    def spoilt(self, batch: TagBatch) -> dict[str, TagBatch]:
        return {"no tag": batch._replace(tags=torch.zeros_like(batch.tags))}


def test_it_trains_from_the_command_line(tiny: Tiny, folder: Path, tmp_path: Path) -> None:
    run, out = "train tags_alone --preset demo --steps 3 --cpu", tmp_path / "run"
    words = [*run.split(), "--data", folder, "--out", out, *tiny("tags_alone")]
    result = CliRunner().invoke(new_program(NEWCOMERS), [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert json.loads((out / "summary.json").read_text())["networks"].keys() == {"student"}
    assert [losses(entry) for entry in logged_steps(out)] == [{"tags"}] * 3
