"""A detector from the command line, its boxes, and a run that uses them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from harness.commands import journal, logged_steps
from harness.tiny import Tiny
from u2pl.data.boxes import read_boxes
from u2pl.data.sources.folder import Folder
from u2pl_semi.detector.network import load_detector, save_detector
from u2pl_semi.detector.training import DetectorTraining

Command = Callable[..., Any]
Refused = Callable[..., str]
Words = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def detector(
    command: Command, train_words: Words, things: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run, all boxes of which are in boxes.json beside it."""
    out = tmp_path_factory.mktemp("detector") / "run"
    result = command(*train_words(things, "--out", out))
    assert result.exit_code == 0, result.output
    assert (
        "blocks (labeled (4 images)): 4 labelled images, objects: class2, class1" in result.stdout
    )
    assert result.stdout.splitlines()[-1] == f"next: u2pl-semi detector predict {out}"
    boxes = out.parent / "boxes.json"
    result = command("detector predict --cpu --threshold 0", out, "--out", boxes)
    assert result.exit_code == 0, result.output
    assert f"written to {boxes}" in result.stdout
    return out


@pytest.fixture
def boxes(detector: Path) -> Path:
    return detector.parent / "boxes.json"


def test_a_run_leaves_what_the_other_commands_need(detector: Path, things: Path) -> None:
    names = {path.name for path in detector.iterdir()}
    assert names >= {"config.json", "journal.jsonl", "last", "resume.safetensors", "summary.json"}
    assert not list(detector.rglob("*.part"))
    lines = logged_steps(detector)
    assert [line["step"] for line in lines] == [0, 1, 2]
    terms = {f"loss/{name}" for name in ("class", "box", "objectness", "proposal")}
    assert all(line[term] is not None for line in lines for term in terms)
    summary = json.loads((detector / "summary.json").read_text())
    assert (summary["steps"], summary["data"]) == (3, str(things))
    assert list(summary["classes"]) == ["class2", "class1"]
    card = json.loads((detector / "last" / "detector.json").read_text())
    assert (card["things"], card["scores"]) == ([2, 1], {"step": 3})


def test_boxes_of_all_training_images_are_written(
    detector: Path, boxes: Path, things: Path
) -> None:
    source = Folder(things)
    found = read_boxes(boxes, source)
    assert sorted(found) == sorted(source.split("train"))
    assert sum(map(len, found.values())) > 0
    for rows in found.values():
        assert set(rows[:, 0]) <= {1, 2}
        assert (rows[:, 3] <= 36).all() and (rows[:, 4] <= 40).all()


def test_only_boxes_of_the_threshold_are_written(
    detector: Path, boxes: Path, things: Path, command: Command, tmp_path: Path
) -> None:
    every = read_boxes(boxes, Folder(things))
    scores = np.concatenate([rows[:, 5] for rows in every.values()])
    middle = float(np.median(scores)) + 5e-5  # not a score that rounding moves across
    out = tmp_path / "new" / "some.json"
    result = command("detector predict --cpu", detector, "--out", out, "--threshold", middle)
    assert result.exit_code == 0, result.output
    some = read_boxes(out, Folder(things))
    assert 0 < sum(map(len, some.values())) < len(scores)
    for id, rows in some.items():
        assert rows.tolist() == every[id][: len(rows)].tolist()
    # without --out they lie in the detector's folder, named after the data; val is no training
    copy = shutil.copytree(detector, tmp_path / "copy")
    assert command("detector predict --cpu --split val", copy).exit_code == 0
    found = read_boxes(copy / f"boxes-{Folder(things).fingerprint()}.json", Folder(things))
    assert sorted(found) == ["0", "1", "2"]


def only(folder: Path, pattern: str) -> Any:
    """What the only such file says."""
    (file,) = folder.glob(pattern)
    return json.loads(file.read_text())


def test_precisions_of_a_detector_that_was_replaced_meanwhile_are_said_alone(
    detector: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(detector, tmp_path / "copy")

    def replaced(path: Path) -> Any:
        network, card = load_detector(path)
        save_detector(copy / "last", network, card.model_copy(update={"scores": {"ap50": 7.0}}))
        return network, card

    monkeypatch.setattr("u2pl_semi.detector.commands.load_detector", replaced)
    result = command("detector evaluate --cpu --limit 1", copy)
    assert result.exit_code == 0, result.output
    assert "note: not written down: training has written another network" in result.stdout
    assert not list(copy.glob("precision-*"))


def test_evaluating_gives_the_score_of_the_run_again(
    detector: Path, command: Command, tmp_path: Path
) -> None:
    copy = shutil.copytree(detector, tmp_path / "copy")
    result = command("detector evaluate --cpu", copy)
    assert result.exit_code == 0, result.output
    summary = json.loads((copy / "summary.json").read_text())
    found = only(copy, "precision-blocks-val-3-images-*.json")
    assert (found["ap50"], found["classes"]) == (summary["ap50"], summary["classes"])
    assert (found["images"], found["split"], found["threshold"]) == (3, "val", 0.85)
    assert command("detector evaluate --cpu --limit 2 --split labeled", copy).exit_code == 0
    assert only(copy, "precision-blocks-labeled-2-images-*.json")["images"] == 2


@pytest.fixture(scope="module")
def weighted(
    detector: Path,
    command: Command,
    tiny: Tiny,
    things: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[Any]]:
    """A finished run with the detector's boxes, and its command up to its folder."""
    out = tmp_path_factory.mktemp("weighted") / "run"
    file = shutil.copy(detector.parent / "boxes.json", out.parent / "boxes.json")
    options = tiny(
        "fixmatch weighted", train_evaluations=1, data_boxes=file, data_box_threshold=0.0
    )
    common = ["train fixmatch --preset demo --cpu --steps 3", "--data", things, *options, "--out"]
    result = command(*common, out)
    assert result.exit_code == 0, result.output
    return out, common


def test_a_run_with_boxes_says_how_many_labels_agree_with_them(
    weighted: tuple[Path, list[Any]],
) -> None:
    lines = logged_steps(weighted[0])
    names = {"agreeing_share", "accuracy/sure", "accuracy/in_boxes", "weight/all", "memory_fill"}
    assert lines[-1].keys() >= names
    assert any(line.get("agreeing_share", 0) > 0 for line in lines)
    config = json.loads((weighted[0] / "config.json").read_text())
    assert len(config["boxes"]) == 12


def test_a_run_with_boxes_goes_on_with_the_same_file_only(
    weighted: tuple[Path, list[Any]], command: Command, refused: Refused, tmp_path: Path
) -> None:
    whole, words = weighted
    copy = shutil.copytree(whole, tmp_path / "run")
    assert command(*words, copy, "--resume").exit_code == 0
    file = whole.parent / "boxes.json"
    before = file.read_text()
    content = json.loads(before)
    next(rows for rows in content["boxes"].values() if rows)[0][1] += 1
    try:
        file.write_text(json.dumps(content))
        assert "was started with another boxes (" in refused(*words, copy, "--resume")
        file.unlink()
        assert "boxes.json does not exist" in refused(*words, copy, "--resume")
    finally:
        file.write_text(before)
    assert journal(copy) == journal(whole)


def test_how_right_pixels_in_boxes_are(
    detector: Path, weighted: tuple[Path, list[Any]], command: Command, tmp_path: Path
) -> None:
    copy = shutil.copytree(detector, tmp_path / "copy")
    words = ["detector evaluate --cpu --threshold 0 --confidence 0", copy, "--run", weighted[0]]
    result = command(*words)
    assert result.exit_code == 0, result.output
    assert "right among pixels of a probability above 0" in result.stdout
    found = only(copy, "precision-blocks-val-3-images-*.json")
    assert list(found["pixels"]) == ["class2", "class1"] and found["confidence"] == 0
    known = [each for each in found["pixels"].values() if each["all"] is not None]
    assert known
    for each in known:
        share = each["in_boxes_share"] / 100
        parts = share * (each["in_boxes"] or 0) + (1 - share) * (each["outside"] or 0)
        assert parts == pytest.approx(each["all"])


class Interrupts:
    """Something happens in a step of the detector's training."""

    def __init__(self, step: int, what: Callable[[], object]) -> None:
        self.step, self.what, self.real = step, what, DetectorTraining.forward

    def __call__(self, method: Any, batch: Any, progress: Any) -> Any:
        if progress.step == self.step:
            self.what()
        return self.real(method, batch, progress)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def crash() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(("what", "code"), [(terminate, 143), (crash, 1)])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    what: Callable[[], object],
    code: int,
    detector: Path,
    command: Command,
    train_words: Words,
    things: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = train_words(things, train_checkpoint_every=1)
    interrupt = Interrupts(1, what)
    with monkeypatch.context() as patch:
        patch.setattr(DetectorTraining, "forward", lambda *given: interrupt(*given))
        result = command(*words)
    out = tmp_path / "runs" / "blocks-detector-1"  # its own choice
    assert result.exit_code == code
    assert not (out / "summary.json").exists() and not (out / "last").exists()
    if code == 143:
        printed = result.stdout.splitlines()[-1]
        assert "stopped after step 2 of 3; go on with: u2pl-semi detector train" in printed
        typed = shlex.split(printed.partition("u2pl-semi ")[2])
        assert typed == ["detector", "train", "--resume", "runs/blocks-detector-1"]
        result = command(shlex.join(typed))  # it can be typed
    else:
        result = command(*words, "--resume")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["blocks-detector-1"]
    for name in ("last/model.safetensors", "resume.safetensors"):
        one, two = load_file(detector / name), load_file(out / name)
        assert one.keys() == two.keys()
        assert [key for key, value in one.items() if not torch.equal(value, two[key])] == []
    assert journal(out) == journal(detector)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["ap50"] == json.loads((detector / "summary.json").read_text())["ap50"]


TYPED = {
    "unknown option": ("--set network.widht=8", ["network.widht", "mean network.width?"]),
    "option of a method": ("--set method.confidence=1", ["method.confidence: there is no such"]),
    "out of range": ("--set network.width=0", ["network.width: ", "greater than 0"]),
    "no value": ("--set objects.least", ["write it as section.key=value"]),
    "unknown preset": ("--preset ligth", ["no preset 'ligth'", "mean light?"]),
    "unknown encoder": ("--set network.encoder=resnet10", ["no encoder of timm", "resnet10t"]),
    "no such weights": ("--set network.encoder_weights=no.pth", ["no file no.pth"]),
    "no such data": ("--data nowhere", ["nowhere has no images/ folder"]),
    "too many labelled": ("--labeled 9", ["labeled 9: blocks has 4 masked images"]),
    "no such split": ("--labeled foo", ["no split of blocks"]),
    "one pixel for BatchNorm": ("--set train.batch=1 --set data.crop=32", ["raise train.batch"]),
    "float16": ("--set train.precision=float16", ["float16 needs a GPU"]),
    "no steps": ("--steps 0", ["--steps"]),
    "nothing to resume": ("--resume", ["holds no run; leave --resume out"]),
}


@pytest.mark.parametrize("case", TYPED)
def test_a_wrong_word_makes_no_folder(
    case: str,
    refused: Refused,
    train_words: Words,
    things: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    typed, expected = TYPED[case]
    line = refused(*train_words(things, "--out", "run", *typed.split()))
    assert all(words in line for words in expected), line
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(
    detector: Path, refused: Refused, train_words: Words, things: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(detector, tmp_path / "copy")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert "is not empty; add --resume" in refused(*train_words(things, "--out", copy))
    resume = train_words(things, "--out", copy, "--resume", "--seed", 7)
    assert "was started with another seed (0 there, 7 here)" in refused(*resume)
    resume = train_words(things, "--out", copy, "--resume", network_width=9)
    assert "another network.width (8 there, 9 here)" in refused(*resume)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_classes_that_nobody_called_things(
    refused: Refused, train_words: Words, things_data: Callable[..., Path], tmp_path: Path
) -> None:
    data = things_data("mine")
    (data / "meta.toml").unlink()
    line = refused(*train_words(data, "--out", tmp_path / "run"))
    assert 'write them into its meta.toml, such as things = ["class3"]' in line
    assert not (tmp_path / "run").exists()


def test_a_broken_image_leaves_no_folder_so_that_the_mended_data_train(
    refused: Refused,
    command: Command,
    train_words: Words,
    things_data: Callable[..., Path],
    tmp_path: Path,
) -> None:
    data = things_data("mine")
    whole = {path: path.read_bytes() for path in (data / "images").iterdir()}
    for path in whole:
        path.write_bytes(b"no image")
    words = train_words(data, "--out", tmp_path / "run", steps=1)
    assert "cannot be decoded" in refused(*words)
    assert not (tmp_path / "run").exists()
    for path, content in whole.items():
        path.write_bytes(content)
    assert command(*words).exit_code == 0


@pytest.mark.parametrize("kind", ["no masks in val", "no val", "no objects", "tiny images"])
def test_poor_data_train_and_predict_all_the_same(
    kind: str,
    command: Command,
    refused: Refused,
    train_words: Words,
    things_data: Callable[..., Path],
    tmp_path: Path,
) -> None:
    data, out = things_data("mine"), tmp_path / "run"
    masks = [data / "masks" / f"{number}.png" for number in range(7)]
    if kind.startswith("no") and kind.endswith("val"):
        for mask in masks[:3]:
            mask.unlink()
        if kind == "no val":
            (data / "splits" / "val.txt").unlink()
    elif kind == "no objects":
        for mask in masks:
            Image.new("L", (40, 36)).save(mask)
    else:
        sizes = [(1, 1), (300, 1), (1, 200), (2, 3)]
        for number, size in enumerate(sizes, 3):
            for folder, mode, value in (("images", "RGB", (9, 9, 9)), ("masks", "L", 1)):
                image = Image.new(mode, size, value)
                image.save(data / folder / f"{number}.png")
    result = command(*train_words(data, "--out", out, steps=1, objects_least=1))
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["ap50"] is None) == (kind != "tiny images")
    assert command("detector predict --cpu --threshold 0", out).exit_code == 0
    if kind.endswith("val"):
        words = "has no split 'val'" if kind == "no val" else "no image of val has a mask"
        assert words in refused("detector evaluate --cpu", out)


def test_what_cannot_be_predicted_or_evaluated(
    detector: Path,
    weighted: tuple[Path, list[Any]],
    refused: Refused,
    things_data: Callable[..., Path],
    tmp_path: Path,
) -> None:
    files = {path: path.read_bytes() for path in detector.rglob("*") if path.is_file()}
    other, to = things_data("other", classes=3), tmp_path / "to.json"
    for words, line in {
        f"predict {detector} --data {other}": "was trained on other classes than other has",
        f"evaluate {detector} --data {other}": "was trained on other classes than other has",
        f"predict {detector} --split foo": "blocks has no split 'foo'",
        f"predict {detector} --threshold 2": "--threshold",
        f"predict {detector} --threshold nan": "--threshold",
        f"predict {tmp_path}": "it has no detector.json",
        f"predict {weighted[0]}": "it has no detector.json",
        f"predict {detector} --data {tmp_path}": "has no images/ folder",
        f"evaluate {detector} --split foo": "blocks has no split 'foo'",
        f"evaluate {detector} --limit -1": "--limit",
        f"evaluate {detector} --run {tmp_path / 'nowhere'}": "no trained network at",
        f"evaluate {detector} --run {detector}": "no trained network",
    }.items():
        out = ["--out", to] if words.startswith("predict") else []
        assert line in refused(f"detector {words} --cpu", *out), words
        assert not to.exists()
    assert "cannot write" in refused("detector predict --cpu", detector, "--out", tmp_path)
    to.write_text("a file")
    below = to / "boxes.json"
    assert "cannot make the folder" in refused("detector predict --cpu", detector, "--out", below)
    assert [path.name for path in tmp_path.iterdir()] == ["to.json"]
    assert {path: path.read_bytes() for path in detector.rglob("*") if path.is_file()} == files


def test_boxes_without_weights_are_refused(
    boxes: Path, refused: Refused, tiny: Tiny, things: Path, tmp_path: Path
) -> None:
    for method in ("fixmatch", "suponly"):
        words = [f"train {method} --preset demo --cpu --steps 2", "--data", things]
        line = refused(*words, *tiny(method, data_boxes=boxes), "--out", tmp_path / "run")
        assert "data.boxes is used by weights of pseudo-labels alone: add --set" in line
    assert not list(tmp_path.iterdir())


def test_boxes_of_other_data_are_refused_before_there_is_a_folder(
    boxes: Path,
    refused: Refused,
    tiny: Tiny,
    things: Path,
    things_data: Callable[..., Path],
    tmp_path: Path,
) -> None:
    other = things_data("other")
    image = Image.open(other / "images" / "9.png").resize((30, 30))
    image.save(other / "images" / "9.png")
    words = ["train fixmatch --preset demo --cpu --steps 2", "--out", tmp_path / "run", "--data"]
    options = tiny("fixmatch weighted", data_boxes=boxes)
    assert "boxes.json was made for other data" in refused(*words, other, *options)
    options = tiny("fixmatch weighted", data_boxes=tmp_path / "no.json")
    assert "no.json does not exist: make it with u2pl-semi detector predict" in refused(
        *words, things, *options
    )
    assert not list(tmp_path.iterdir())


def test_show_prints_every_option(command: Command, refused: Refused) -> None:
    result = command("detector show --preset demo --set network.width=24")
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split()[1] for line in result.stdout.splitlines() if line.split()}
    assert (rows["network.width"], rows["network.encoder"]) == ("24", "resnet10t")
    assert {"objects.least", "train.lr", "data.crop", "network.anchor"} <= rows.keys()
    assert "no preset 'foo'" in refused("detector show --preset foo")
