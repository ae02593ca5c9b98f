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

from harness.commands import Launcher, journal, logged_steps
from harness.tiny import Tiny
from u2pl.methods.discovery import method_names
from u2pl_semi.app import APP

STEPS = 6

Command = Callable[..., Any]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def trained(
    command: Command, tiny: Tiny, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A finished run, and what was printed."""
    out = tmp_path_factory.mktemp("run") / "run"
    options = tiny("u2plplus", method_warm_start=0.3)
    run = f"train --preset demo --steps {STEPS} --seed 3 --cpu"
    result = command(run, "--data", folder, "--out", out, *options)
    assert result.exit_code == 0, result.output
    return out, result.stdout


def test_a_run_leaves_what_a_later_command_needs(trained: Any, folder: Path) -> None:
    out, printed = trained
    summary = json.loads((out / "summary.json").read_text())
    assert summary["method"] == "u2plplus"
    facts = [summary[key] for key in ("seed", "steps", "world_size", "threads")]
    assert facts == [3, STEPS, 1, 1]
    assert (summary["labeled"], summary["unlabeled"]) == (4, 3)
    assert summary["classes"] == ["class0", "class1", "class2", "class3"]
    assert len(summary["per_class_iou"]) == 4
    assert 0 <= summary["miou_last"] <= summary["miou_best"] <= 100
    assert summary["evaluation"] == "blocks val, whole image, single scale"
    assert len(summary["data_fingerprint"]) == 12
    assert {"torch", "python"} <= summary["versions"].keys()
    config = json.loads((out / "config.json").read_text())
    assert config["data"] == str(folder)  # as typed
    for kind in ("last", "best"):
        files = {path.name for path in (out / kind).iterdir()}
        assert files == {"model.safetensors", "config.json", "README.md"}
    lines = journal(out)
    assert [line["step"] for line in logged_steps(out)] == list(range(STEPS))
    assert {
        "alpha_t",
        "gamma_t",
        "reliable_share",
        "queue_fill",
        "anchors",
        "negatives",
        "accuracy/reliable",
    } <= lines[-2].keys()
    assert lines[-1]["evaluation"]["step"] == STEPS
    Image.open(out / "predictions.png").verify()
    assert not list(out.rglob("*.part"))

    assert "note: with 4 classes the contrast's ranks r_l 3, r_h 20 become 2, 4" in printed
    assert f"mIoU of the teacher: last {summary['miou_last']:.2f}" in printed
    following, kept = printed.strip().splitlines()[-2:]
    assert kept.startswith("kept: the teacher, in last/ and best/")
    assert following == f"next: u2pl-semi predict {out} IMAGE_OR_FOLDER --out predictions"


def test_evaluating_a_run_gives_its_own_score_again(
    trained: Any, command: Command, tmp_path: Path, monkeypatch: Any
) -> None:
    out, _ = trained
    monkeypatch.chdir(tmp_path)
    summary = json.loads((out / "summary.json").read_text())
    for given in (out, out / "last", out / "last" / "model.safetensors"):
        result = command("evaluate", given, "--cpu")
        assert result.exit_code == 0, result.output
        assert summary["evaluation"].partition(", ")[2] in result.stdout
        written = json.loads(next((out / "last").glob("evaluation-*.json")).read_text())
        assert (written["miou"], written["per_class_iou"]) == (
            summary["miou_last"],
            summary["per_class_iou"],
        )
        next((out / "last").glob("evaluation-*.json")).unlink()
    assert command("evaluate", out / "best", "--cpu").exit_code == 0
    written = json.loads(next((out / "best").glob("evaluation-*.json")).read_text())
    assert written["miou"] == summary["miou_best"]


def test_a_run_is_evaluated_in_other_ways_too(trained: Any, command: Command) -> None:
    out, _ = trained
    ways = {
        "sliding window 32, stride 22": ["--mode", "slide"],
        "center crop 24": ["--mode", "center-crop", "--crop", 24],
    }
    ways |= {"scales 0.75 1": ["--scales", 0.75, "--scales", 1], "with flip": ["--flip"]}
    for words, options in ways.items():
        result = command("evaluate", out, "--cpu", "--split", "labeled", *options)
        assert result.exit_code == 0, result.output
        assert words in result.stdout
        assert "split labeled (4 images" in result.stdout


def test_predictions_have_the_size_and_the_ids(
    trained: Any, command: Command, tmp_path: Path
) -> None:
    out, _ = trained
    (tmp_path / "photos").mkdir()
    sizes = {"a.png": (33, 50), "b.jpg": (64, 31), "c.png": (7, 9)}
    for name, size in sizes.items():
        Image.new("RGB", size, (90, 120, 30)).save(tmp_path / "photos" / name)
    result = command("predict", out, tmp_path / "photos", "--out", tmp_path / "predicted", "--cpu")
    assert result.exit_code == 0, result.output
    for name, size in sizes.items():
        ids = Image.open(tmp_path / "predicted" / "ids" / f"{name[0]}.png")
        assert ids.size == size
        assert np.asarray(ids).max() < 4
        assert Image.open(tmp_path / "predicted" / "overlay" / f"{name[0]}.jpg").size == size
    assert "3 images" in result.stdout


def test_a_broken_image_does_not_stop_the_others(
    trained: Any, refused: Refused, tmp_path: Path
) -> None:
    out, _ = trained
    Image.new("RGB", (20, 20)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    images = [tmp_path / "bad.png", tmp_path / "good.png"]
    line = refused("predict --cpu", out, *images, "--out", tmp_path / "to")
    assert "1 of the images could not be predicted" in line
    assert "bad.png" in line
    assert [path.name for path in (tmp_path / "to" / "ids").iterdir()] == ["good.png"]


def test_lists_name_every_method_and_every_recipe(command: Command) -> None:
    methods, presets = command("methods"), command("presets")
    assert methods.exit_code == presets.exit_code == 0
    for name in method_names(APP.methods):
        assert name in methods.stdout
    for path in APP.recipes.glob("*.toml"):
        assert path.stem in presets.stdout


def test_show_prints_every_option_with_its_value(command: Command) -> None:
    changes = "--set train.lr=0.125 --set method.contrast.tau=0.75"
    result = command(f"show u2plplus --preset demo {changes}")
    assert result.exit_code == 0, result.output
    rows = {
        line.split()[0]: line.split()[1] for line in result.stdout.splitlines() if line[1:2].strip()
    }
    shown = [rows[key] for key in ("train.lr", "method.contrast.tau", "network.encoder")]
    assert shown == ["0.125", "0.75", "resnet10t"]
    others = {"data.crop", "evaluate.mode", "method.prototypes.denoise", "method.supervised.loss"}
    assert others <= rows.keys()


def test_runs_are_numbered_and_the_latest_of_a_command_is_resumed(
    command: Command, refused: Refused, tiny: Tiny, folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    options = tiny("suponly", train_evaluations=1)
    base = ["train suponly --preset demo --cpu", "--data", folder, *options]
    for seed in (0, 1, 0):
        assert command(*base, "--steps", 1, "--seed", seed).exit_code == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        f"blocks-suponly-{n}" for n in (1, 2, 3)
    ]

    Path("runs/blocks-suponly-2/summary.json").unlink()
    Path("runs/blocks-suponly-3/summary.json").unlink()
    result = command(*base, "--steps", 1, "--seed", 1, "--resume")
    assert result.exit_code == 0, result.output
    assert "writing to runs/blocks-suponly-2" in result.stdout
    assert Path("runs/blocks-suponly-2/summary.json").exists()
    assert not Path("runs/blocks-suponly-3/summary.json").exists()
    # what changes no result may change
    assert (
        "runs/blocks-suponly-3"
        in command(*base, "--steps", 1, "--resume", "--set", "train.checkpoint_every=7").stdout
    )
    assert "no run runs/blocks-suponly-<n> was started with this command" in refused(
        *base, "--steps", 2, "--resume"
    )
    assert len(list(Path("runs").iterdir())) == 3


@pytest.mark.parametrize(("classes", "limits"), [(2, "1, 2"), (3, "1, 3")])
def test_few_classes_train_with_clamped_ranks(
    classes: int,
    limits: str,
    command: Command,
    make_data: Callable[..., Path],
    tiny: Tiny,
    tmp_path: Path,
) -> None:
    data = make_data(tmp_path / "few", classes=classes)
    options = tiny(
        "u2plplus", method_warm_start=0.3, train_evaluations=1, **{"method_contrast.delta_p": 0}
    )
    out = tmp_path / "run"
    result = command("train --preset demo --steps 4 --cpu", "--data", data, "--out", out, *options)
    assert result.exit_code == 0, result.output
    ranks = f"note: with {classes} classes the contrast's ranks r_l 3, r_h 20 become {limits}"
    assert result.stdout.count(ranks) == 1
    assert logged_steps(out)[3]["loss/contrast"] > 0


def test_images_of_every_kind_train(
    command: Command, make_data: Callable[..., Path], tiny: Tiny, tmp_path: Path
) -> None:
    data = make_data(tmp_path / "kinds")
    for number in range(3, 10):
        path = data / "images" / f"{number}.png"
        image = Image.open(path)
        grey = np.asarray(image.convert("L"))
        sixteen_bit = Image.fromarray(grey.astype(np.uint16) * 257)
        others = [image.convert(mode) for mode in ("RGBA", "L", "P", "LA")]
        [*others, sixteen_bit][number % 5].save(path)
    modes = {Image.open(path).mode for path in (data / "images").iterdir()}
    assert {"RGBA", "L", "P", "LA"} <= modes
    assert any(mode.startswith("I") for mode in modes)
    options = tiny("cutmix", method_warm_start=0, train_evaluations=1)
    run = ["train cutmix --preset demo --steps 4 --cpu", "--data", data, "--out", tmp_path / "run"]
    result = command(*run, *options)
    assert result.exit_code == 0, result.output


def test_a_class_that_no_labelled_image_holds_stops_the_run_unless_allowed(
    command: Command, make_data: Callable[..., Path], tiny: Tiny, tmp_path: Path
) -> None:
    data = make_data(tmp_path / "absent")
    (data / "classes.txt").write_text("".join(f"class{index}\n" for index in range(6)))
    options = tiny("u2plplus", method_warm_start=0, train_evaluations=1)
    base = ["train --preset demo --steps 2 --cpu", "--data", data, *options]
    refused = command(*base, "--out", tmp_path / "run", "--labeled", 2)
    assert refused.exit_code == 2 and "no labelled mask holds class4, class5" in refused.stderr
    assert not (tmp_path / "run").exists()
    base += ["--set", "data.allow_absent_classes=true"]
    result = command(*base, "--out", tmp_path / "run", "--labeled", 2)
    assert result.exit_code == 0, result.output
    assert "without class4, class5" in result.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["per_class_iou"][4:] == [None, None]
    assert command(*base, "--out", tmp_path / "list").exit_code == 0


def test_by_path_from_any_directory(tmp_path: Path) -> None:
    """The real program: exit code, one line on standard error, nothing left behind."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(APP.folder.parent / "cli.py"), "train", "--sed", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "--seed" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_mistake_that_is_found_later_is_one_line_too(launcher: Launcher, tmp_path: Path) -> None:
    """The real program again, in a process that has loaded torch."""
    log = tmp_path / "log"
    pid = launcher.start(log, APP.folder.parent / "cli.py", "train", "u2plpluss")
    assert launcher.wait(pid) == 2
    assert log.read_text().startswith("error: no method 'u2plpluss' (did you mean u2plplus?)")
    assert log.read_text().count("\n") == 1
