"""An adaptation between what two labelling programs wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.labelled import blocks
from harness.tiny import Tiny


def test_two_steps_from_polygons_to_polygons(
    command: Callable[..., Any], tiny: Tiny, tmp_path: Path
) -> None:
    source, target = blocks(tmp_path / "a", "coco"), blocks(tmp_path / "b", "labelme")
    run = tmp_path / "run"
    line = ["train daformer --preset demo --steps 2 --cpu", "--source", source, "--target", target]
    done = command(*line, "--out", run, *tiny("daformer", train_evaluations=1))
    assert done.exit_code == 0, done.output
    assert json.loads((run / "summary.json").read_text())["scored"] == 2
