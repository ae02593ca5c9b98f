"""What works: a run from the command line, and what can be done with it afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.commands import logged_steps, losses
from u2pl.methods.discovery import method_names
from u2pl_da.app import APP

STEPS = 4

Command = Callable[..., Any]
Line = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def line(words: Callable[..., list[Any]]) -> Line:
    """The command of a run of STEPS steps."""

    def make(method: str, domains: dict[str, Any], out: Path, **changes: Any) -> list[Any]:
        return [*words(method, domains, STEPS, out, **changes), "--seed", 3]

    return make


@pytest.fixture(scope="module")
def trained(
    command: Command, line: Line, domains: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A finished run, and what was printed."""
    out = tmp_path_factory.mktemp("run") / "run"
    result = command(*line("u2plplus", domains, out))
    assert result.exit_code == 0, result.output
    return out, result.stdout


def test_a_run_leaves_what_a_later_command_needs(
    trained: tuple[Path, str], domains: dict[str, str]
) -> None:
    out, printed = trained
    summary = json.loads((out / "summary.json").read_text())
    facts = {
        "method": "u2plplus",
        "data": "day to dusk",
        "split": "train to train",
        "labeled": 7,
        "unlabeled": 7,
        "preset": "demo",
        "seed": 3,
        "steps": STEPS,
        "network": "teacher",
    }
    assert {key: summary[key] for key in facts} == facts
    assert [len(digits) for digits in summary["data_fingerprint"].split()] == [12, 12]
    assert summary["classes"] == ["road", "tree", "car", "person"]
    assert summary["evaluation"] == "dusk val, whole image, single scale"
    assert summary["networks"].keys() == {"teacher", "student"}
    assert 0 <= summary["miou_last"] <= summary["miou_best"] <= 100
    assert len(summary["per_class_iou"]) == 4
    assert "subset_miou" not in summary  # no benchmark names any of these classes

    config = json.loads((out / "config.json").read_text())
    typed = {"app": "u2pl-da", **domains, "score_split": "val"}
    assert {key: config[key] for key in typed} == typed
    for kind in ("last", "best"):
        files = {path.name for path in (out / kind).iterdir()}
        assert files == {"model.safetensors", "config.json", "README.md"}
    steps = logged_steps(out)
    assert [entry["step"] for entry in steps] == list(range(STEPS))
    assert losses(steps[-1]) == {"sup", "unsup", "distance", "contrast"}
    assert {"q", "alpha_t", "gamma_t", "accuracy/reliable"} <= steps[-1].keys()
    Image.open(out / "predictions.png").verify()

    assert "7 source, 7 target, 3 to score on, 4 classes" in printed
    assert "note: the feature distance compares with an encoder of random weights" in printed
    assert "note: with 4 classes the contrast's ranks r_l 3, r_h 20 become 2, 4" in printed
    following, kept = printed.strip().splitlines()[-2:]
    assert kept.startswith("kept: the teacher, in last/ and best/")
    assert following == f"next: u2pl-da predict {out} IMAGE_OR_FOLDER --out predictions"


def test_evaluate_asks_again_what_the_run_was_scored_on(
    trained: tuple[Path, str], command: Command
) -> None:
    out, _ = trained
    result = command("evaluate", out, "--cpu")
    assert result.exit_code == 0, result.output
    assert "on dusk, split val (3 images" in result.stdout
    summary, written = (
        json.loads(path.read_text())
        for path in (out / "summary.json", next((out / "last").glob("evaluation-dusk-val*")))
    )
    assert (written["miou"], written["per_class_iou"]) == (
        summary["miou_last"],
        summary["per_class_iou"],
    )


def test_evaluate_on_other_images(
    trained: tuple[Path, str],
    command: Command,
    refused: Callable[..., str],
    domains: dict[str, str],
) -> None:
    out, _ = trained
    result = command("evaluate", out, "--cpu", "--data", domains["source"], "--split", "train")
    assert result.exit_code == 0, result.output
    assert "on day, split train (7 images" in result.stdout
    assert "dusk: images without mask: '3', '4', '5'" in refused(
        "evaluate", out, "--cpu", "--split", "train"
    )
    assert "dusk has no split 'test'" in refused("evaluate", out, "--cpu", "--split", "test")


def test_the_split_a_run_was_scored_on_is_remembered(
    command: Command, line: Line, broken: dict[str, Path], tmp_path: Path
) -> None:
    (broken["target"] / "splits" / "test.txt").write_text("1\n2\n")
    result = command(
        *line("source_only", broken, tmp_path / "run", train_evaluations=1), "--score-split", "test"
    )
    assert result.exit_code == 0, result.output
    assert "2 to score on" in result.stdout
    result = command("evaluate", tmp_path / "run", "--cpu")
    assert result.exit_code == 0, result.output
    assert "split test (2 images" in result.stdout


def test_predict_writes_masks_of_any_size(
    trained: tuple[Path, str], command: Command, tmp_path: Path
) -> None:
    out, _ = trained
    Image.new("RGB", (70, 33), (90, 120, 30)).save(tmp_path / "photo.png")
    result = command("predict", out, tmp_path / "photo.png", "--out", tmp_path / "to", "--cpu")
    assert result.exit_code == 0, result.output
    ids = np.asarray(Image.open(tmp_path / "to" / "ids" / "photo.png"))
    assert ids.shape == (33, 70) and ids.max() < 4


def test_a_target_without_any_mask_is_adapted_to_and_not_scored(
    command: Command, line: Line, broken: dict[str, Path], tmp_path: Path
) -> None:
    for mask in (broken["target"] / "masks").iterdir():
        mask.unlink()
    out = tmp_path / "run"
    result = command(*line("daformer", broken, out))
    assert result.exit_code == 0, result.output
    assert "no image of dusk has a mask" in result.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert "miou_last" not in summary and summary["network"] == "teacher"
    assert (out / "last" / "model.safetensors").exists() and not (out / "best").exists()
    Image.open(out / "predictions.png").verify()
    assert (
        command(
            "predict", out, broken["target"] / "images", "--out", tmp_path / "to", "--cpu"
        ).exit_code
        == 0
    )


def test_a_finished_run_resumed_changes_nothing_and_another_command_is_refused(
    trained: tuple[Path, str],
    command: Command,
    refused: Callable[..., str],
    line: Line,
    domains: dict[str, str],
) -> None:
    out, _ = trained
    files = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    for _ in range(2):
        result = command(*line("u2plplus", domains, out), "--resume")
        assert result.exit_code == 0, result.output
    assert {path: path.read_bytes() for path in out.rglob("*.safetensors")} == files
    assert "is not empty; add --resume" in refused(*line("u2plplus", domains, out))
    swapped = {"source": domains["source"], "target": domains["source"]}
    error = refused(*line("u2plplus", swapped, out), "--resume")
    assert "was started with another target;" in error
    assert "; to go on as it began name the folder alone" in error


def test_runs_are_numbered_by_both_domains(
    command: Command,
    line: Line,
    domains: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = line("source_only", domains, Path("none"), train_evaluations=1)
    words = [word for word in words if word not in ("--out", Path("none"))]
    assert command(*words).exit_code == 0
    result = command(*words, "--resume")
    assert result.exit_code == 0, result.output
    assert [path.name for path in Path("runs").iterdir()] == ["day-to-dusk-source_only-1"]


def test_lists_and_help_name_what_there_is(command: Command) -> None:
    printed = {name: command(name) for name in ("methods", "presets", "--help")}
    assert all(result.exit_code == 0 for result in printed.values())
    for name in method_names(APP.methods):
        assert name in printed["methods"].stdout
    for path in APP.recipes.glob("*.toml"):
        assert path.stem in printed["presets"].stdout
    for name in ("train", "doctor", "evaluate", "predict", "methods", "presets", "show"):
        assert name in printed["--help"].stdout
    for option in ("--source", "--target", "--source-split", "--target-split", "--score-split"):
        assert option in command("train", "--help").stdout
    shown = command("show u2plplus --preset gta5-cityscapes --set data.target_long_side=512")
    rows = {row.split()[0]: row.split()[1] for row in shown.stdout.splitlines() if row[1:2].strip()}
    assert (rows["data.target_long_side"], rows["method.pseudo.threshold"]) == ("512", "0.968")
    assert rows["method.negatives.reliable"] == "False"


def test_by_path_from_any_directory(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(APP.folder.parent / "cli.py"), "methods"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
    assert all(name in done.stdout for name in method_names(APP.methods))
