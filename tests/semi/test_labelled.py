"""Networks are trained on what labelling programs wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.labelled import CLASSES, PROGRAMS, blocks
from harness.tiny import Tiny


@pytest.mark.parametrize("program", PROGRAMS)
def test_two_steps_on_what_a_program_wrote(
    program: str, command: Callable[..., Any], tiny: Tiny, tmp_path: Path
) -> None:
    """Photos that it does not label are the unlabelled ones, and a part of the others is scored."""
    data, run = blocks(tmp_path / "set", program), tmp_path / "run"
    options = tiny("fixmatch", {"method.warm_start": 0}, train_evaluations=1)
    line = ["train fixmatch --preset demo --steps 2 --cpu", "--data", data, "--out", run, *options]
    done = command(*line)
    assert done.exit_code == 0, done.output
    assert "7 of 10 images have shapes, 3 have no annotation" in done.output
    summary = json.loads((run / "summary.json").read_text())
    assert tuple(summary["classes"]) == CLASSES and summary["scored"] == 2
    assert (run / "report.html").is_file()
    doctor = command("doctor --method fixmatch --preset demo --cpu", "--data", data, *options)
    assert doctor.exit_code == 0 and "ready: " in doctor.output, doctor.output
    scored = command("evaluate", run, "--cpu")
    assert scored.exit_code == 0 and "(2 images, data " in scored.output, scored.output
