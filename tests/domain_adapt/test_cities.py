"""The commands of U2PL+ sec. 4.2 on folders laid out like the data sets, and their presets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.png import rgb16
from u2pl.data.city_classes import NAMES
from u2pl.run.recipe import Recipe
from u2pl.training.optimizer import set_learning_rate
from u2pl_da.app import APP

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

WIDTH, HEIGHT = 128, 96
#: Nothing but what makes a run small.
SMALL = {
    "network.encoder": "mit_b0",
    "network.encoder_weights": "none",
    "network.width": 16,
    "network.embed_dim": 16,
    "data.crop": 64,
    "data.long_side": 120,
    "data.target_long_side": 112,
    "evaluate.long_side": 112,
    "data.workers": 0,
    "train.evaluations": 1,
    "method.contrast.queue": 50,
    "method.contrast.queue_background": 50,
}
LABEL_IDS = np.array(
    [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33, 0, 1, 34], np.uint8
)


def save(file: Path, pixels: np.ndarray | bytes, palette: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(pixels, bytes):
        file.write_bytes(pixels)
        return
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([5 * i % 256 for i in range(768)])
    image.save(file)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def blocks(seed: int, ids: np.ndarray) -> np.ndarray:
    """Large blocks of ids."""
    drawn = np.random.default_rng(seed).choice(ids, (3, 4))
    return drawn.repeat(32, 0).repeat(32, 1)


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders gta5, synthia and cityscapes."""
    root = tmp_path_factory.mktemp("cities")
    for number in range(1, 4):
        save(root / f"gta5/images/{number:05d}.png", picture(number))
        save(root / f"gta5/labels/{number:05d}.png", blocks(number, LABEL_IDS), palette=True)
        save(root / f"synthia/RGB/{number:07d}.png", picture(number))
        ids = blocks(number, np.arange(23)).astype(np.uint16)
        save(
            root / f"synthia/GT/LABELS/{number:07d}.png",
            rgb16(np.stack([ids, 1000 + ids, 0 * ids], axis=-1)),
        )
    for split, city, count in (
        ("train", "aachen", 2),
        ("train", "bochum", 1),
        ("val", "lindau", 2),
    ):
        for number in range(count):
            stem = f"{split}/{city}/{city}_{number:06d}_000019"
            save(root / f"cityscapes/leftImg8bit/{stem}_leftImg8bit.png", picture(number))
            if split == "val":
                save(
                    root / f"cityscapes/gtFine/{stem}_gtFine_labelIds.png",
                    blocks(50 + number, LABEL_IDS[:-1]),
                )
    return root


def data_words(source: str, cities: Path) -> list[str]:
    target = f"cityscapes:{cities / 'cityscapes'}"
    return ["--source", f"{source}:{cities / source}", "--target", target]


@pytest.mark.parametrize("source", ["gta5", "synthia"])
def test_one_command_from_files_to_three_means(
    source: str, cities: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    data = data_words(source, cities)
    sizes = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    out = tmp_path / "run"
    run = f"train u2plplus --preset {source}-cityscapes --steps 2 --cpu"
    result = command(run, *data, *sizes, "--out", out)
    assert result.exit_code == 0, result.output
    for words in ("│ mIoU ", "mIoU, 16 classes (SYNTHIA)", "mIoU, 13 classes (SYNTHIA)"):
        assert words in result.stdout
    assert (
        f"{source} (train; fingerprint" in result.stdout
        and "3 source, 3 target, 2 to score on, 19 classes" in result.stdout
    )

    summary = json.loads((out / "summary.json").read_text())
    assert (summary["data"], summary["preset"]) == (
        f"{source} to cityscapes",
        f"{source}-cityscapes",
    )
    assert (summary["network"], summary["labeled"], summary["unlabeled"]) == ("student", 3, 3)
    assert (
        summary["evaluation"] == "cityscapes val, whole image, single scale, long side at most 112"
    )
    assert summary["options"]["method"]["feature_distance"]["things"] == [6, 7, *range(11, 19)]
    iou = dict(zip(summary["classes"], summary["per_class_iou"], strict=True))
    for count, left_out in (
        (16, ("terrain", "truck", "train")),
        (13, ("terrain", "truck", "train", "wall", "fence", "pole")),
    ):
        found = [iou[name] for name in NAMES if name not in left_out and iou[name] is not None]
        assert summary["subset_miou"]["student"][f"{count} classes (SYNTHIA)"] == pytest.approx(
            sum(found) / len(found)
        )
    terms = {
        key
        for key in json.loads((out / "journal.jsonl").read_text().splitlines()[0])
        if key.startswith("loss/")
    }
    assert terms == {"loss/sup", "loss/unsup", "loss/distance", "loss/contrast"}

    again = command("evaluate", out, "--cpu")
    assert again.exit_code == 0, again.output
    assert "13 classes (SYNTHIA)" in again.stdout
    written = json.loads(next((out / "last").glob("evaluation-*.json")).read_text())
    assert (written["miou"], written["subset_miou"]) == (
        summary["miou_last"],
        summary["subset_miou"]["student"],
    )


@pytest.mark.parametrize("source", ["gta5", "synthia"])
def test_the_source_alone_chooses_its_preset_which_wants_pretrained_weights(
    source: str, cities: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    data = data_words(source, cities)
    run = "train --set network.encoder=mit_b0 --steps 1 --cpu"
    line = refused(run, *data, "--out", tmp_path / "run")
    assert "mit_b0" in line and "weights" in line
    assert not (tmp_path / "run").exists()


#: DAFormer's numbers, and those of U2PL+ sec. 4.2 for the contrast.
PRESET = {
    "network.decoder": "daformer",
    "network.encoder": "mit_b5",
    "network.encoder_weights": "imagenet",
    "network.output_stride": 32,
    "network.atrous_rates": [6, 12, 18],
    "network.width": 256,
    "network.embed_dim": 256,
    "network.dropout": 0.1,
    "data.crop": 512,
    "data.long_side": 1280,
    "data.target_long_side": 1024,
    "data.scale": [1.0, 1.0],
    "data.flip": True,
    "evaluate.mode": "whole",
    "evaluate.long_side": 1024,
    "evaluate.scales": [1.0],
    "evaluate.flip": False,
    "train.steps": 40_000,
    "train.batch": 2,
    "train.reference_batch": 2,
    "train.optimizer": "adamw",
    "train.lr": 6e-5,
    "train.head_lr_factor": 10,
    "train.weight_decay": 0.01,
    "train.norm_decay": False,
    "train.poly_power": 1,
    "train.warmup": 1500 / 40_000,
    "train.clip_norm": 0,
    "method.supervised.loss": "cross_entropy",
    "method.teacher.momentum": 0.999,
    "method.teacher.ramp": True,
    "method.teacher.statistics": "own",
    "method.evaluate": "student",
    "method.pseudo.threshold": 0.968,
    "method.pseudo.share_of": "image",
    "method.classmix": "image",
    "method.strong_view.jitter_probability": 0.8,
    "method.strong_view.strength": 0.2,
    "method.strong_view.blur_probability": 0.5,
    "method.strong_view.sigma": [0.15, 1.15],
    "method.feature_distance.weight": 0.005,
    "method.feature_distance.min_share": 0.75,
    "method.rare_classes.enabled": True,
    "method.rare_classes.temperature": 0.01,
    "method.rare_classes.min_pixels": 3000,
    "method.rare_classes.crop_ratio": 0.5,
    "method.rare_classes.retries": 10,
    "method.warm_start": 0,
    "method.lambda_c": 0.1,
    "method.unsupervised.alpha_0": 0.2,
    "method.unsupervised.xi_1": 1,
    "method.unsupervised.xi_2": 0.1,
    "method.unsupervised.entropy_filter": False,
    "method.negatives": {"source": True, "reliable": False, "unreliable": True},
    "method.prototypes.momentum": 0.999,
    "method.prototypes.denoise": True,
    "method.contrast.anchors": 256,
    "method.contrast.negatives": 50,
    "method.contrast.tau": 0.5,
    "method.contrast.delta_p": 0.3,
    "method.contrast.r_l": 3,
    "method.contrast.r_h": 20,
    "method.contrast.queue": 30_000,
    "method.contrast.queue_background": 30_000,
}


@pytest.mark.parametrize("preset", ["gta5-cityscapes", "synthia-cityscapes"])
def test_the_preset_has_the_papers_numbers(preset: str) -> None:
    dumped: Any = Recipe.of(APP, "u2plplus", preset).dump()
    for key, expected in PRESET.items():
        value = dumped
        for part in key.split("."):
            value = value[part]
        assert value == expected, key


def test_the_learning_rate_is_warmed_up_and_falls_to_zero() -> None:
    train = Recipe.of(APP, "u2plplus", "gta5-cityscapes").sections.train

    class Optimizer:
        param_groups: Any = [{"factor": 1.0}, {"factor": 10.0}]  # noqa: RUF012

    for step in (0, 1, 750, 1499, 1500, 20_000, 39_999):
        expected = (
            6e-5 * (1 - step / 40_000) * (1 - (1 - step / 1500) * (1 - 1e-6) if step < 1500 else 1)
        )
        assert set_learning_rate(Optimizer(), train, step, 40_000) == pytest.approx(expected)  # type: ignore[arg-type]
        assert [group["lr"] for group in Optimizer.param_groups] == pytest.approx(
            [expected, 10 * expected]
        )
