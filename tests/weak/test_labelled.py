"""Tags of images that a labelling program labelled, by hand or from its shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.labelled import blocks
from harness.tiny import Tiny


def test_two_steps_on_tags_of_shapes(
    command: Callable[..., Any], tiny: Tiny, tmp_path: Path
) -> None:
    data, run = blocks(tmp_path / "set", "cvat"), tmp_path / "run"
    lists, tags = tmp_path / "set" / "splits", tmp_path / "set" / "tags.csv"
    lists.mkdir()
    (lists / "train.txt").write_text("00\n01\n02\n03\n")
    tagged = command("tags", "--data", data, "--out", tags)
    assert tagged.exit_code == 0, tagged.output
    assert tags.read_text().splitlines()[1] == "00,cat;dog"
    line = ["train cam --preset demo --steps 2 --cpu", "--data", data, "--out", run]
    done = command(*line, *tiny("cam", train_evaluations=1))
    assert done.exit_code == 0, done.output
    assert json.loads((run / "summary.json").read_text())["scored"] == 2
