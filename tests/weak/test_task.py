"""The task of a run: its tags and what follows from them; and the users' one command, on VOC."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.commands import logged_steps, losses
from u2pl.counting import silently
from u2pl.data.classes import bit_palette
from u2pl.data.sources.voc import NAMES
from u2pl.run.train import make_task
from u2pl_ws.app import APP
from u2pl_ws.requests import WeakRequest

TRAIN, VAL = 10, 2


def task_of(data: str | Path, *options: str, **words: Any) -> Any:
    return make_task(APP, WeakRequest(set=list(options), data=str(data), **words), silently)


def fingerprint(task: Any) -> str:
    return task.facts()["tags_fingerprint"]


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC devkit of photos with two objects each, all 20 classes annotated.

    Masks, with VOC's palette and white borders, are there for val alone.
    """
    root = tmp_path_factory.mktemp("voc") / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    for path in (root / "JPEGImages", root / "Annotations", root / "SegmentationClass", lists):
        path.mkdir(parents=True)
        rng = np.random.default_rng(0)
    names = [f"2007_{number:06d}" for number in range(TRAIN + VAL)]
    for number, name in enumerate(names):
        shown = [1 + (2 * number + k) % 20 for k in range(2)]
        Image.fromarray(rng.integers(256, size=(60, 80, 3)).astype(np.uint8)).save(
            root / "JPEGImages" / f"{name}.jpg"
        )
        objects = "".join(
            f"<object><name>{NAMES[c]}</name><difficult>0</difficult></object>" for c in shown
        )
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>"
        )
        if number >= TRAIN:
            ids = np.zeros((60, 80), np.uint8)
            ids[10:40, 5:40], ids[10:40, 40:75], ids[10:40, 39:41] = *shown, 255
            mask = Image.fromarray(ids, mode="P")
            mask.putpalette(bit_palette(256).flatten().tolist())
            mask.save(root / "SegmentationClass" / f"{name}.png")
    (lists / "train.txt").write_text("".join(f"{name}\n" for name in names[:TRAIN]))
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in names[TRAIN:]))
    return root.parent.parent


def test_the_preset_is_afa_s_schedule(devkit: Path) -> None:
    task = task_of(f"voc:{devkit}")
    assert (task.recipe.preset, task.request.method) == ("voc", "u2plplus")
    assert (task.total, task.warm_steps) == (20_000, 2_000)
    assert task_of(f"voc:{devkit}", preset="voc").config() == task.config()
    train, data = task.recipe.sections.train, task.recipe.sections.data
    assert (train.batch, train.optimizer) == (8, "adamw")
    assert (train.scaled_lr, train.head_lr_factor, train.weight_decay) == (6e-5, 10, 0.01)
    assert (train.poly_power, round(train.warmup * task.total)) == (1, 1_500)
    assert (data.crop, data.scale) == (512, (0.5, 2.0))
    network = task.network()
    assert (network.encoder, network.decoder) == ("mit_b1", "segformer")
    assert (network.output_stride, network.tag_classes) == (16, 20)
    options = task.recipe.options
    assert (options.host, options.lambda_seg, options.lambda_c) == ("afa", 0.1, 0.1)
    affinity = options.affinity
    assert (affinity.weight, affinity.radius) == (0.1, 8)
    assert round(affinity.walk_start * task.total) == 6_000
    cam = options.cam
    assert (cam.high, cam.low, cam.scales) == (0.55, 0.35, (1.0, 0.5, 1.5))
    assert options.beta == 0.45
    assert (options.contrast.queue, options.contrast.keys) == (5_000, 512)
    assert (options.negatives.untagged, options.negatives.unreliable) == (True, True)


def test_the_users_one_command_on_a_devkit(
    devkit: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    small = {
        "network.encoder": "mit_test",
        "network.encoder_weights": "none",
        "network.width": 16,
        "network.embed_dim": 16,
        "data.crop": 64,
        "data.workers": 0,
        "train.steps": 10,
        "train.batch": 2,
        "train.evaluations": 1,
        "train.log_every": 1,
    }
    sets = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    out, data = tmp_path / "run", f"voc:{devkit}"
    result = command("train u2plplus --preset voc --cpu", "--data", data, "--out", out, *sets)
    assert result.exit_code == 0, result.output
    assert "tags from Annotations" in result.stdout
    assert "10 tagged, 2 to score on, 21 classes" in result.stdout
    summary, config = (
        json.loads((out / name).read_text()) for name in ("summary.json", "config.json")
    )
    assert (summary["split"], summary["steps"]) == ("train, tags from Annotations", 10)
    assert summary["evaluation"] == "voc val, whole image, single scale"
    assert config["tags"] is None and config["options"]["method"]["cam"]["most_tags"] == 2
    every = {"tags", "seg", "affinity", "contrast"}
    assert [losses(entry) for entry in logged_steps(out)] == [{"tags"}, *[every] * 9]


def test_tags_of_a_devkit_are_its_annotations(devkit: Path) -> None:
    task = task_of(f"voc:{devkit}")
    assert task.tagged_by == "Annotations" and len(task.tags) == TRAIN
    assert task.tags["2007_000003"] == {7, 8} and all(len(tags) == 2 for tags in task.tags.values())
    task.check()
    assert task.request.words() == ["u2plplus", "--data", f"voc:{devkit}"]


def test_the_most_tags_are_counted_unless_they_are_told(folder: Path) -> None:
    task = task_of(folder, preset="demo")
    most = max(map(len, task.tags.values()))
    assert task.recipe.options.cam.most_tags == most
    assert task.config()["options"]["method"]["cam"]["most_tags"] == most
    told = task_of(folder, "method.cam.most_tags=1", preset="demo")
    assert told.recipe.options.cam.most_tags == 1


def test_the_fingerprint_follows_the_tags_and_not_their_file(folder: Path, tmp_path: Path) -> None:
    task = task_of(folder, preset="demo")
    rows = (folder / "tags.csv").read_text().splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    same = task_of(folder, preset="demo", tags=str(other))
    assert same.tags == task.tags and fingerprint(same) == fingerprint(task)
    assert same.request.words("preset")[1:] == ["--data", str(folder), "--tags", str(other)]
    moved = replace(task, tags=task.tags | {"11": frozenset({1})})
    assert fingerprint(moved) != fingerprint(task)


def test_a_batch_holds_the_tags_of_its_images(folder: Path) -> None:
    task = task_of(folder, "data.crop=32", preset="demo")
    dataset = task.dataset()
    for position in range(20):
        sample = dataset[position]
        assert sample.image.shape == (3, 32, 32) and sample.valid.shape == (32, 32)
        shown = {k + 1 for k in sample.tags.nonzero().flatten().tolist()}
        assert shown == task.tags[dataset.stream.id(position)]


def test_the_demo_is_tagged_by_its_masks() -> None:
    task = task_of("demo-tags")
    assert (task.recipe.preset, task.tagged_by) == ("demo", "its masks")
    assert task.recipe.options.cam.most_tags == 2
    assert task.tags == {
        id: frozenset(np.unique(task.source.mask(id)).tolist()) - {0}
        for id in task.source.split("train")
    }
    task.check()


def test_presets_follow_the_data(folder: Path) -> None:
    assert task_of(folder).recipe.preset == "light"


def test_a_class_on_nearly_all_images_is_noted(folder: Path, tmp_path: Path) -> None:
    first, *others = (folder / "tags.csv").read_text().splitlines()
    name = (folder / "classes.txt").read_text().split()[1]
    everywhere = [f"{line} {name}" for line in others]
    for lines, noted in ((everywhere, True), ([others[-1], *everywhere[:-1]], False)):
        (tmp_path / "tags.csv").write_text("\n".join([first, *lines]))
        notes = list(task_of(folder, tags=str(tmp_path / "tags.csv")).own_notes())
        assert any(note.startswith(f"{name}: tagged on 95 % of the images") for note in notes) == (
            noted
        )
