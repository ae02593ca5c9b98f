from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.tiny import Tiny


@pytest.fixture(scope="module")
def run(
    command: Callable[..., Any], tiny: Tiny, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that was trained on images 3 to 6; 7 to 9 have no mask."""
    out = tmp_path_factory.mktemp("suggesting") / "run"
    options = tiny("suponly", train_evaluations=1)
    line = ["train suponly --preset demo --steps 2 --cpu", "--data", folder, *options, "--out"]
    assert command(*line, out).exit_code == 0
    return out


def test_a_list_is_written_that_training_takes(
    run: Path, command: Callable[..., Any], tiny: Tiny, make_data: Any, tmp_path: Path
) -> None:
    out = tmp_path / "lists" / "next.txt"
    line = ["suggest", run, "--count", 2, "--cpu"]
    result = command(*line, "--out", out)
    assert result.exit_code == 0, result.output
    ids = out.read_text().splitlines()
    assert len(ids) == 2 and set(ids) < {"7", "8", "9"}
    assert "2 of 3 images to label next; 4 are labelled" in result.stdout
    rows = re.findall(r"^ *(\d) +(0\.\d+) +(0\.\d+) +([012]\.\d+)", result.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == ids
    again = command(*line, "--with-labeled", "--out", tmp_path / "all.txt")
    assert (tmp_path / "all.txt").read_text().splitlines() == ["3", "4", "5", "6", *ids]
    typed = shlex.split(again.stdout.rpartition("when they have masks: ")[2])
    # with masks for all
    data = make_data(tmp_path / "mine")
    for id in ids:
        shutil.copy(data / "masks" / "3.png", data / "masks" / f"{id}.png")
    typed[typed.index("--data") + 1] = str(data)
    options = ["--preset", "demo", "--steps", 2, "--cpu", "--out", tmp_path / "next"]
    trained = command(*typed[1:2], "suponly", *typed[2:], *options, *tiny("suponly"))
    assert trained.exit_code == 0, trained.output


def test_a_folder_of_a_model_will_do_if_the_labelled_are_named(
    run: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    line = [run / "last", "--labeled", "labeled", "--count", 1, "--cpu"]
    result = command("suggest", *line)
    assert result.exit_code == 0 and "1 of 3 images" in result.stdout
    chosen = command("suggest", run, "--split", "labeled", "--labeled", 2, "--count", 1, "--cpu")
    assert chosen.exit_code == 0 and "1 of 2 images" in chosen.stdout


def test_what_cannot_be_suggested(
    run: Path, refused: Callable[..., str], make_data: Any, tmp_path: Path
) -> None:
    taken = tmp_path / "mine.txt"
    taken.write_text("3\n")
    assert "mine.txt exists: choose another file" in refused("suggest", run, "--out", taken)
    assert taken.read_text() == "3\n"
    assert "--count 9: blocks has 3 images without a label" in refused(
        "suggest", run, "--count", 9, "--cpu"
    )
    other = make_data(tmp_path / "other", classes=3)
    assert "other has other classes than the network" in refused(
        "suggest", run, "--data", other, "--cpu"
    )
    assert "has no split 'pool'" in refused("suggest", run, "--split", "pool", "--cpu")
    assert "no trained network at" in refused("suggest", tmp_path / "none", "--cpu")
    (run / "config.json").rename(run / "kept.json")
    (run / "config.json").write_text("[")
    assert "config.json cannot be read" in refused("suggest", run, "--cpu")
    (run / "kept.json").replace(run / "config.json")
    (tmp_path / "file").touch()
    assert "cannot make the folder" in refused(
        "suggest", run, "--count", 1, "--out", tmp_path / "file" / "a.txt", "--cpu"
    )
