"""The plan of a run: its tags and what follows from them; and the users' one command, on a small VOC devkit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from u2pl_ws.planning import WeakPlan, WeakRequest

from u2pl.data.classes import bit_palette
from u2pl.data.sources.voc import _CLASSES
from u2pl_ws.app import APP
from u2pl_ws.task import make_plan

TRAIN, VAL = 10, 2


def plan_of(data: str | Path, *options: str, **words: Any) -> WeakPlan:
    return make_plan(APP, WeakRequest(assignments=options, data=str(data), **words))


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC devkit of photos with two objects each: all 20 classes annotated, masks with VOC's palette and white borders for val alone."""
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
            f"<object><name>{_CLASSES[c]}</name><difficult>0</difficult></object>" for c in shown
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
    plan = plan_of(f"voc:{devkit}")
    assert (plan.recipe.preset, plan.request.method, plan.total, plan.warm_steps) == (
        "voc",
        "u2plplus",
        20_000,
        2_000,
    )
    assert plan_of(f"voc:{devkit}", preset="voc").dump() == plan.dump() | {"preset": "voc"}
    train, method, network = plan.sections.train, plan.options, plan.network
    assert (train.batch, train.optimizer, train.scaled_lr, train.head_lr_factor) == (
        8,
        "adamw",
        6e-5,
        10,
    )
    assert (train.weight_decay, train.poly_power, round(train.warmup * plan.total)) == (
        0.01,
        1,
        1_500,
    )
    assert plan.sections.data.crop == 512 and plan.sections.data.scale == (0.5, 2.0)
    assert (network.encoder, network.decoder, network.output_stride, network.tag_classes) == (
        "mit_b1",
        "segformer",
        16,
        20,
    )
    assert (method.host, method.lambda_seg, method.affinity.weight, method.lambda_c) == (
        "afa",
        0.1,
        0.1,
        0.1,
    )
    assert (round(method.affinity.walk_start * plan.total), method.affinity.radius) == (6_000, 8)
    assert (method.cam.high, method.cam.low, method.cam.scales, method.beta) == (
        0.55,
        0.35,
        (1.0, 0.5, 1.5),
        0.45,
    )
    assert (method.contrast.queue, method.contrast.keys) == (5_000, 512)
    assert (method.negatives.untagged, method.negatives.unreliable) == (True, True)


def test_the_users_one_command_on_a_devkit(
    devkit: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    small = {
        "network.encoder": "mit_b0", "network.encoder_weights": "none", "network.width": 16, "network.embed_dim": 16,
        "data.crop": 64, "data.workers": 0, "train.steps": 10, "train.batch": 2, "train.evaluations": 1, "train.log_every": 1,
    }  # fmt: skip
    sets = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    out = tmp_path / "run"
    result = command(
        "train",
        "u2plplus",
        "--preset",
        "voc",
        "--data",
        f"voc:{devkit}",
        "--cpu",
        "--out",
        out,
        *sets,
    )
    assert result.exit_code == 0, result.output
    assert "tags from Annotations" in result.stdout
    assert "10 tagged, 2 to score on, 21 classes" in result.stdout
    summary, config = (
        json.loads((out / name).read_text()) for name in ("summary.json", "config.json")
    )
    assert (summary["split"], summary["steps"], summary["evaluation"]) == (
        *("train, tags from Annotations", 10, "voc val, whole image, single scale"),
    )
    assert config["tags"] is None and config["options"]["method"]["cam"]["most_tags"] == 2
    steps = [
        entry
        for entry in map(json.loads, (out / "journal.jsonl").read_text().splitlines())
        if "lr" in entry
    ]
    terms = [{key for key in entry if key.startswith("loss/")} for entry in steps]
    assert terms == [
        {"loss/tags"},
        *[{"loss/tags", "loss/seg", "loss/affinity", "loss/contrast"}] * 9,
    ]


def test_tags_of_a_devkit_are_its_annotations(devkit: Path) -> None:
    plan = plan_of(f"voc:{devkit}")
    assert plan.tagged_by == "Annotations" and len(plan.tags) == TRAIN
    assert plan.tags["2007_000003"] == {7, 8} and all(len(tags) == 2 for tags in plan.tags.values())
    plan.check()
    assert plan.words() == ["--data", f"voc:{devkit}"]


def test_the_most_tags_are_counted_unless_they_are_told(folder: Path) -> None:
    plan = plan_of(folder, preset="demo")
    most = max(map(len, plan.tags.values()))
    assert (
        plan.options.cam.most_tags == most == plan.dump()["options"]["method"]["cam"]["most_tags"]
    )
    assert plan_of(folder, "method.cam.most_tags=1", preset="demo").options.cam.most_tags == 1


def test_the_fingerprint_follows_the_tags_and_not_their_file(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, preset="demo")
    rows = (folder / "tags.csv").read_text().splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    same = plan_of(folder, preset="demo", tags=str(other))
    assert same.tags == plan.tags and same.tags_fingerprint == plan.tags_fingerprint
    assert same.words() == ["--data", str(folder), "--tags", str(other)]
    moved = replace(plan, tags=plan.tags | {"11": frozenset({1})})
    assert moved.tags_fingerprint != plan.tags_fingerprint


def test_a_batch_holds_the_tags_of_its_images(folder: Path) -> None:
    plan = plan_of(folder, "data.crop=32", preset="demo")
    dataset = plan.build_dataset()
    for position in range(20):
        sample = dataset[position]
        assert sample.image.shape == (3, 32, 32) and sample.valid.shape == (32, 32)
        assert {k + 1 for k in sample.tags.nonzero().flatten().tolist()} == plan.tags[
            dataset.stream.id(position)
        ]


def test_the_demo_is_tagged_by_its_masks() -> None:
    plan = plan_of("demo-tags")
    assert (plan.recipe.preset, plan.tagged_by, plan.options.cam.most_tags) == (
        "demo",
        "its masks",
        2,
    )
    assert plan.tags == {
        id: frozenset(np.unique(plan.source.mask(id)).tolist()) - {0}
        for id in plan.source.split("train")
    }
    plan.check()


def test_presets_follow_the_data(folder: Path) -> None:
    assert plan_of(folder).recipe.preset == "light"
