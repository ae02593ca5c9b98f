"""What works: a run from the command line, and what can be done with it afterwards."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.commands import logged_steps, losses
from harness.contract import Build
from harness.tiny import Tiny, method_of
from u2pl.data.file_source import FileSource
from u2pl.methods.discovery import method_names
from u2pl.model.folder import load_folder, save_folder
from u2pl.model.model import Model
from u2pl_ws import map_scores
from u2pl_ws.app import APP

STEPS = 4

Command = Callable[..., Any]
Refused = Callable[..., str]


def line(name: str, data: Path, tiny: Tiny, out: Path, **changes: Any) -> list[Any]:
    """The command of a short run of a method, or of `u2plplus on cam`."""
    run = f"train {method_of(name)} --preset demo --steps {STEPS} --seed 3 --cpu"
    options = tiny(name, **{"method_warm_start": 0.25, **changes})
    return [run, "--data", data, "--out", out, *options]


@pytest.fixture(scope="module")
def trained(
    command: Command, tiny: Tiny, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A finished run, and what was printed."""
    out = tmp_path_factory.mktemp("run") / "run"
    result = command(*line("u2plplus on cam", folder, tiny, out))
    assert result.exit_code == 0, result.output
    return out, result.stdout


def columns(out: Path) -> dict[str, dict[str, Any]]:
    """What `evaluate` wrote down, by protocol."""
    return {
        entry["protocol"]: entry
        for entry in (
            json.loads(path.read_text()) for path in sorted((out / "last").glob("evaluation-*"))
        )
    }


@pytest.fixture
def copied(trained: tuple[Path, str], tmp_path: Path) -> Path:
    """The run, where others may write into it."""
    return Path(shutil.copytree(trained[0], tmp_path / "copy"))


PLAIN, SEVERAL = "whole image, single scale", "whole image, scales 0.5 1 1.5, with flip"


def test_a_run_leaves_what_a_later_command_needs(trained: tuple[Path, str], folder: Path) -> None:
    out, printed = trained
    summary, config = (
        json.loads((out / name).read_text()) for name in ("summary.json", "config.json")
    )
    facts = {
        "method": "u2plplus",
        "data": "street",
        "split": "train, tags from tags.csv",
        "labeled": 0,
        "unlabeled": 9,
        "preset": "demo",
        "seed": 3,
        "steps": STEPS,
        "network": "student",
    }
    assert {key: summary[key] for key in facts} == facts
    assert summary["evaluation"] == f"street val, {PLAIN}" and len(summary["per_class_iou"]) == 4
    assert (config["app"], config["data"], config["tags"]) == ("u2pl-ws", str(folder), None)
    assert len(config["tags_fingerprint"]) == 12
    assert config["tags_fingerprint"] == summary["tags_fingerprint"]
    rows = (folder / "tags.csv").read_text().splitlines()[1:]
    most = max(len(row.partition(",")[2].split()) for row in rows)
    assert config["options"]["method"]["cam"]["most_tags"] == most > 1
    network, card = load_folder(out)
    assert network.tagger is not None and card.network.tag_classes == 3
    terms = [losses(entry) for entry in logged_steps(out)]
    assert terms == [{"tags"}, *[{"tags", "seg", "contrast"}] * 3]
    Image.open(out / "predictions.png").verify()

    assert "9 tagged, 3 to score on, 4 classes" in printed
    assert "note: 1 of 9 images have no tag: all of them is background" in printed
    following, kept = printed.strip().splitlines()[-2:]
    assert kept.startswith("kept: the student, in last/ and best/")
    assert following == f"next: u2pl-ws predict {out} IMAGE_OR_FOLDER --out predictions"


def test_evaluate_has_a_column_for_each_way_and_leaves_out_a_crf_that_is_not_there(
    copied: Path, command: Command, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pydensecrf", "pydensecrf.densecrf"):
        monkeypatch.setitem(sys.modules, name, None)
    result = command("evaluate", copied, "--cpu")
    assert result.exit_code == 0, result.output
    reason = "left out: dense CRF needs the optional package pydensecrf2, which is not installed"
    assert f"{reason}: uv sync --extra crf" in result.stdout
    found = columns(copied)
    assert found.keys() == {PLAIN, SEVERAL}
    summary = json.loads((copied / "summary.json").read_text())
    assert (found[PLAIN]["miou"], found[PLAIN]["per_class_iou"]) == (
        summary["miou_last"],
        summary["per_class_iou"],
    )
    assert "dense CRF needs" in refused("evaluate", copied, "--cpu", "--crf")


def test_evaluate_has_a_third_column_with_a_crf(
    copied: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AllSky:
        """A CRF that answers class 0 everywhere."""

        def __init__(self, *shape: int) -> None:
            self.shape = shape

        def inference(self, steps: int) -> np.ndarray:
            width, height, classes = self.shape
            return np.eye(1, classes).T.repeat(height * width, axis=1)

        def setUnaryEnergy(self, energy: np.ndarray) -> None: ...
        def addPairwiseGaussian(self, **_: Any) -> None: ...
        def addPairwiseBilateral(self, **_: Any) -> None: ...

    module = ModuleType("pydensecrf.densecrf")
    module.DenseCRF2D = AllSky  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pydensecrf", ModuleType("pydensecrf"))
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", module)
    result = command("evaluate", copied, "--cpu")
    assert result.exit_code == 0, result.output
    assert "left out" not in result.stdout
    found = columns(copied)
    assert found.keys() == {PLAIN, SEVERAL, f"{SEVERAL}, dense CRF"}
    assert found[f"{SEVERAL}, dense CRF"]["per_class_iou"][1:] == [0, 0, 0]
    assert found[f"{SEVERAL}, dense CRF"]["per_class_iou"][0] > 0


def test_evaluate_as_told_has_one_column(copied: Path, command: Command) -> None:
    result = command("evaluate", copied, "--cpu", "--flip")
    assert result.exit_code == 0, result.output
    assert columns(copied).keys() == {f"{PLAIN}, with flip"}


def test_predict_writes_masks_of_any_size(
    trained: tuple[Path, str], command: Command, tmp_path: Path
) -> None:
    Image.new("RGB", (70, 33), (90, 120, 30)).save(tmp_path / "photo.png")
    result = command(
        "predict", trained[0], tmp_path / "photo.png", "--out", tmp_path / "to", "--cpu"
    )
    assert result.exit_code == 0, result.output
    ids = Image.open(tmp_path / "to" / "ids" / "photo.png")
    assert ids.size == (70, 33) and np.asarray(ids).dtype == np.uint8 and np.asarray(ids).max() < 4


COLUMNS = ("CAM", "refined", "certain labels", "masks")


def test_cams_scores_what_training_learnt_from(copied: Path, command: Command) -> None:
    result = command("cams", copied, "--cpu")
    assert result.exit_code == 0, result.output
    assert (
        "on 3 tagged images of street train; " in result.stdout
        and "% of the pixels have a certain label" in result.stdout
    )
    assert all(name in result.stdout for name in COLUMNS)
    (file,) = (copied / "last").glob("cams-street-train-3-images-*.json")
    written = json.loads(file.read_text())
    assert (written["data"], written["images"]) == ("street", 3) and 0 < written["certain"] <= 100
    for name in COLUMNS:
        assert 0 <= written[name]["miou"] <= 100 and len(written[name]["per_class_iou"]) == 4


def test_cams_of_a_list_and_of_a_few(
    copied: Path, command: Command, refused: Refused, broken: Path
) -> None:
    (broken / "splits" / "some.txt").write_text("4\n5\n6\n")  # the last one has no mask
    result = command("cams", copied, "--cpu", "--data", broken, "--split", "some")
    assert result.exit_code == 0, result.output
    assert "on 2 tagged images" in result.stdout and list(
        (copied / "last").glob("cams-street-some-2-images-*")
    )
    result = command("cams", copied, "--cpu", "--limit", 1)
    assert "on 1 tagged images" in result.stdout, result.output
    assert len(list((copied / "last").glob("cams-*"))) == 2
    (broken / "splits" / "bare.txt").write_text("6\n7\n")
    assert "no image of bare has a mask" in refused(
        "cams", copied, "--cpu", "--data", broken, "--split", "bare"
    )


def test_cams_of_a_network_that_was_replaced_meanwhile_are_not_put_beside_the_new_one(
    copied: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = map_scores.load

    def replaced(folder: Path, device: str) -> Model:
        """A run that goes on writes its network after each evaluation."""
        model = load(folder, device)
        scores = {**model.card.scores, "step": 7}
        save_folder(folder, model.network, model.card.model_copy(update={"scores": scores}))
        return model

    monkeypatch.setattr(map_scores, "load", replaced)
    result = command("cams", copied, "--cpu", "--limit", 1)
    assert result.exit_code == 0 and "certain labels" in result.stdout
    assert "note: not written down: training has written another network" in result.stdout
    assert not list((copied / "last").glob("cams-*"))


def test_cams_needs_a_classifier_and_the_same_classes(
    copied: Path, refused: Refused, broken: Path
) -> None:
    network, card = load_folder(copied)
    network.tagger = None
    bare = card.network.model_copy(update={"tag_classes": 0})
    card = card.model_copy(update={"app": "u2pl-semi", "network": bare})
    save_folder(copied / "last", network, card)
    reason = "has no image-level classifier, so no activation maps: give a run of u2pl-ws"
    assert reason in refused("cams", copied, "--cpu")


def test_cams_refuses_other_classes(copied: Path, refused: Refused, broken: Path) -> None:
    (broken / "classes.txt").write_text("sky\ncar\ntree\nperson\n")
    error = refused("cams", copied, "--cpu", "--data", broken)
    assert "street has 4 classes (sky, car, tree, person" in error
    assert "the network has 4 classes (sky, tree, car, person" in error


def test_tags_of_masks_are_a_file_that_train_reads(
    broken: Path, command: Command, refused: Refused, tiny: Tiny, tmp_path: Path
) -> None:
    for number in range(6, 12):
        Image.fromarray(np.full((48, 56), number % 4, np.uint8)).save(
            broken / "masks" / f"{number}.png"
        )
    out = tmp_path / "made.csv"
    result = command("tags", "--data", broken, "--out", out)
    assert result.exit_code == 0, result.output
    assert "9 images tagged in" in result.stdout
    rows = dict(row.split(",") for row in out.read_text().splitlines()[1:])
    assert list(rows) == [str(number) for number in range(3, 12)] or sorted(rows, key=int) == [
        str(number) for number in range(3, 12)
    ]
    assert {number: rows[number] for number in ("6", "7", "8", "9", "11")} == {
        **{"6": "car", "7": "person", "8": "", "9": "tree", "11": "person"}
    }
    before = out.read_bytes()
    assert "is there already: remove it, or write another file with --out" in refused(
        "tags", "--data", broken, "--out", out
    )
    assert out.read_bytes() == before

    (broken / "tags.csv").unlink()
    assert "street has no tags: name a file with --tags" in refused(
        *line("cam", broken, tiny, tmp_path / "run")
    )
    result = command(
        *line("cam", broken, tiny, tmp_path / "run", train_evaluations=1), "--tags", out
    )
    assert result.exit_code == 0, result.output
    assert (
        "tags from made.csv" in result.stdout and "note: 1 of 9 images have no tag" in result.stdout
    )


def test_tags_of_images_without_masks_are_refused(
    folder: Path, refused: Refused, tmp_path: Path
) -> None:
    error = refused("tags", "--data", folder, "--out", tmp_path / "tags.csv")
    assert "street: 6 of 9 images have no mask" in error and not (tmp_path / "tags.csv").exists()


def test_training_opens_no_mask(
    broken: Path, command: Command, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken masks of training images, in a run of every phase: those of val alone are opened."""
    for number in range(3, 12):
        (broken / "masks" / f"{number}.png").write_bytes(b"no mask")
    opened: set[str] = set()
    mask = FileSource.mask

    def watched(self: FileSource, id: str) -> np.ndarray:
        opened.add(id)
        return mask(self, id)

    monkeypatch.setattr(FileSource, "mask", watched)
    out = tmp_path / "run"
    result = command(*line("u2plplus", broken, tiny, out, **{"method_affinity.walk_start": 0.5}))
    assert result.exit_code == 0, result.output
    assert opened == {"0", "1", "2"}
    assert losses(logged_steps(out)[-1]) == {"tags", "seg", "affinity", "contrast"}


def test_without_any_mask_a_run_is_not_scored(
    broken: Path, command: Command, tiny: Tiny, tmp_path: Path
) -> None:
    shutil.rmtree(broken / "masks")
    out = tmp_path / "run"
    result = command(*line("cam", broken, tiny, out))
    assert result.exit_code == 0, result.output
    assert (
        "note: no image of street has a mask: the network is not scored, and the last one is kept"
        in result.stdout
    )
    assert "0 to score on" in result.stdout
    assert "not scored: no image has a mask to score on" in result.stdout
    assert "miou_last" not in json.loads((out / "summary.json").read_text())
    assert (out / "last" / "model.safetensors").exists() and not (out / "best").exists()
    assert (
        command(
            "predict", out, broken / "images" / "0.png", "--out", tmp_path / "to", "--cpu"
        ).exit_code
        == 0
    )


def without(path: Path, start: str, instead: str = "") -> None:
    """Change the line of a file that starts with something."""
    lines = path.read_text().splitlines()
    path.write_text(
        "".join(
            f"{row}\n"
            for row in (instead if row.startswith(start) else row for row in lines)
            if row
        )
    )


def test_wrong_tags_are_one_line(
    broken: Path, refused: Refused, tiny: Tiny, tmp_path: Path
) -> None:
    words, tags = line("cam", broken, tiny, tmp_path / "run"), broken / "tags.csv"
    right = tags.read_text()
    without(tags, "4,", "4,trea")
    error = refused(*words)
    assert (
        "tags.csv names unknown classes: 'trea'" in error
        and "(did you mean 'tree' by the first?)" in error
    )
    tags.write_text(right)
    without(tags, "4,")
    assert "tags.csv has no tags of 1 of the 9 training images: '4'" in refused(*words)
    tags.write_text(right.replace("person", "car"))
    assert (
        "street: no image is tagged with person: tag some, or take the classes out of classes.txt"
        in refused(*words)
    )
    tags.write_text("image,classes\n" + "".join(f"{number},\n" for number in range(3, 12)))
    assert "street: no image is tagged with tree, car, person" in refused(*words)
    assert "does not exist" in refused(*words, "--tags", "/nowhere.csv")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["afa", "u2plplus"])
def test_an_encoder_without_attention_is_one_line(
    method: str, folder: Path, refused: Refused, tiny: Tiny, tmp_path: Path
) -> None:
    error = refused(*line(method, folder, tiny, tmp_path / "run", network_encoder="test_resnet"))
    assert (
        "set network.encoder=mit_b1" in error
        and "use method cam (u2plplus: --set method.host=cam)" in error
    )
    assert not (tmp_path / "run").exists()


def test_a_finished_run_resumed_changes_nothing_and_other_tags_are_refused(
    command: Command, refused: Refused, tiny: Tiny, broken: Path, tmp_path: Path
) -> None:
    words = line("cam", broken, tiny, tmp_path / "run", train_evaluations=1)
    assert command(*words).exit_code == 0
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.safetensors")}
    result = command(*words, "--resume")
    assert result.exit_code == 0, result.output
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.safetensors")} == files
    assert "is not empty; add --resume" in refused(*words)
    (broken / "tags.csv").write_text((broken / "tags.csv").read_text().replace("11,\n", "11,car\n"))
    error = refused(*words, "--resume")
    assert "was started with another tags_fingerprint (" in error


def test_doctor_ends_with_the_command_that_trains(
    command: Command, tiny: Tiny, folder: Path, build: Build, patience: None
) -> None:
    options = tiny("u2plplus on cam", method_warm_start=0.25, train_steps=80)
    result = command("doctor --cpu --preset demo --seed 3", "--data", folder, *options)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "looked at: 9 of 9 tagged, 3 of 3 val images" in lines
    assert any(row.startswith("tags per image: 1 have 0, ") for row in lines)
    assert any(row.split()[:2] == ["3", "person"] for row in lines)
    assert "warm start: the first 20 steps are on tags alone" in lines
    # a queue of 40 for each of three foreground classes, whose table has one spare row
    (queue,) = build("u2plplus on cam")[0].queues()
    assert len(queue.rows) - 1 == 3 * 40
    assert any(row.startswith("queues: 120 keys of 16 float32 numbers, ") for row in lines)
    words = shlex.split(lines[-1].removeprefix("ready: "))
    asked = ["--preset", "demo", "--data", str(folder), *options, "--seed", "3", "--cpu"]
    assert words == ["u2pl-ws", "train", "u2plplus", *asked]


def test_doctor_lists_what_is_to_be_fixed(
    command: Command, refused: Refused, tiny: Tiny, broken: Path, patience: None
) -> None:
    (broken / "tags.csv").write_text((broken / "tags.csv").read_text().replace("person", "car"))
    file = broken / "images" / "5.png"
    file.write_bytes(file.read_bytes()[:200])
    words = ["doctor --cpu --method cam --preset demo", "--data", broken, *tiny("cam")]
    result = command(*words)
    assert result.exit_code == 2, result.output
    assert (
        "no image is tagged with person" in result.stdout and "street/images/5.png" in result.stdout
    )
    (broken / "tags.csv").unlink()
    assert "street has no tags" in refused(*words)


def test_lists_and_help_name_what_there_is(command: Command) -> None:
    printed = {name: command(name) for name in ("methods", "presets", "--help")}
    assert all(result.exit_code == 0 for result in printed.values())
    for name in method_names(APP.methods):
        assert name in printed["methods"].stdout
    for path in APP.recipes.glob("*.toml"):
        assert path.stem in printed["presets"].stdout
    for name in ("train", "doctor", "evaluate", "predict", "cams", "tags", "methods", "show"):
        assert name in printed["--help"].stdout
    shown = command("show u2plplus --preset voc --set method.beta=0.5")
    rows = {row.split()[0]: row.split()[1] for row in shown.stdout.splitlines() if row[1:2].strip()}
    found = [rows[key] for key in ("method.beta", "method.contrast.keys", "method.host")]
    assert found == ["0.5", "512", "afa"]


def test_by_path_from_any_directory(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(APP.folder.parent / "cli.py"), "methods"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
    assert all(name in done.stdout for name in method_names(APP.methods))
