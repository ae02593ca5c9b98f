"""A tiny detector, and data that say which classes are things."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.models.detection.faster_rcnn import FasterRCNN

from u2pl_semi.detector.network import DetectorCard, DetectorConfig, build_detector

#: Options of a detector that is built and run in a moment.
NETWORK = {"encoder": "test_resnet", "width": 8, "hidden": 16, "proposals": 8, "anchor": 8}
TINY = {
    **{f"network.{name}": value for name, value in NETWORK.items()},
    "data.crop": 48,
    "data.workers": 0,
    "train.batch": 2,
    "train.reference_batch": 2,
    "train.log_every": 1,
}


@pytest.fixture(scope="session")
def things_data(
    make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`things_data(name, classes)` is a new folder whose classes 1 and 2 are things."""
    made: dict[int, Path] = {}

    def make(name: str, classes: int = 4) -> Path:
        if classes not in made:
            made[classes] = make_data(tmp_path_factory.mktemp("made") / "data", classes)
            (made[classes] / "meta.toml").write_text('things = ["class2", "class1"]\n')
        return shutil.copytree(made[classes], tmp_path_factory.mktemp("things") / name)

    return make


@pytest.fixture(scope="session")
def things(things_data: Callable[..., Path]) -> Path:
    """A folder that tests only read."""
    return things_data("blocks")


@pytest.fixture
def card() -> DetectorCard:
    """Of a tiny detector of class 3, then of class 1."""
    network = DetectorConfig(**NETWORK)
    return DetectorCard(network=network, classes=tuple("abcd"), things=(3, 1), source="demo")


@pytest.fixture
def network(card: DetectorCard) -> FasterRCNN:
    """In evaluation mode, with weights of its own."""
    torch.manual_seed(5)
    return build_detector(card.network, len(card.things)).eval()


@pytest.fixture(scope="session")
def train_words() -> Callable[..., list[object]]:
    """The command of a run on some data."""

    def make(data: Path, *more: object, steps: int = 3, **changes: object) -> list[object]:
        options = TINY | {key.replace("_", ".", 1): value for key, value in changes.items()}
        words = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
        common = ["detector train --preset demo --cpu", "--data", data, "--steps", steps]
        return [*common, *words, *more]

    return make
