"""Scores of a shared network: a column for each way to ask it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from u2pl.cli.use import evaluate_checkpoint, own_protocol

from u2pl.data.opening import open_source
from u2pl.errors import UserError
from u2pl.model.folder import save_shared
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig

WAYS: tuple[dict[str, Any], ...] = ({}, {"flip": True}, {"flip": True, "crf": True})
WORDS = [
    "whole image, single scale",
    "whole image, single scale, with flip",
    "whole image, single scale, with flip, dense CRF",
]


@pytest.fixture
def shared_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained network for the demo, which has two images to score on."""
    network: dict[str, Any] = {
        "decoder": "segformer",
        "encoder": "test_resnet",
        "encoder_weights": "none",
        "width": 8,
        "embed_dim": 0,
    }
    source = open_source("demo")
    split = type(source).split
    monkeypatch.setattr(type(source), "split", lambda self, name: split(self, name)[:2])
    torch.manual_seed(0)
    info = {
        "network": network,
        "classes": list(source.classes),
        "palette": source.palette.tolist(),
        "source": "demo",
    }
    save_shared(tmp_path / "net", build_segmentor(NetworkConfig(**network), 7), info)
    return tmp_path / "net"


@pytest.fixture
def crf(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether there is a package for the CRF; the one that there is answers class 0 everywhere."""

    class AllBackground:
        def __init__(self, width: int, height: int, classes: int) -> None:
            self.answer = np.eye(1, classes).T.repeat(height * width, axis=1)

        def setUnaryEnergy(self, _: np.ndarray) -> None: ...
        def addPairwiseGaussian(self, **_: Any) -> None: ...
        def addPairwiseBilateral(self, **_: Any) -> None: ...
        def inference(self, _: int) -> np.ndarray:
            return self.answer

    def choose(there: bool) -> None:
        module = ModuleType("pydensecrf.densecrf")
        module.DenseCRF2D = AllBackground  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pydensecrf", ModuleType("pydensecrf") if there else None)
        monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", module if there else None)

    return choose


def scored(path: Path, ways: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], str]:
    text = io.StringIO()
    return evaluate_checkpoint(
        path, None, None, ways, True, Console(file=text, width=200)
    ), text.getvalue()


def test_each_way_is_a_column_and_a_file(shared_network: Path, crf: Callable[[bool], None]) -> None:
    crf(True)
    scores, text = scored(shared_network, WAYS)
    assert list(scores) == WORDS and "left out" not in text
    assert scores[WORDS[2]].per_class_iou[0] == scores[WORDS[2]].pixel_accuracy > 0
    assert not any(scores[WORDS[2]].per_class_iou[1:])
    written = [
        json.loads(path.read_text()) for path in shared_network.glob("evaluation-demo-val-*.json")
    ]
    assert {entry["protocol"]: entry["miou"] for entry in written} == {
        words: score.miou for words, score in scores.items()
    }


def test_a_crf_that_is_missing_leaves_its_column_out_and_says_so(
    shared_network: Path, crf: Callable[[bool], None]
) -> None:
    crf(False)
    scores, text = scored(shared_network, WAYS)
    assert list(scores) == WORDS[:2]
    assert (
        text.count(
            "left out: dense CRF needs the optional package pydensecrf2, which is not installed: pip install 'u2pl[crf]'"
        )
        == 1
    )
    with pytest.raises(UserError, match="dense CRF needs the optional package"):
        scored(shared_network, WAYS[2:])


def test_what_a_command_does_not_say_is_the_networks_own() -> None:
    config = {"protocol": {"mode": "slide", "crop": 32, "flip": True}, "crop": 64}
    assert own_protocol(config, {"crf": True, "scales": None, "flip": None}).model_dump(
        include={"mode", "crop", "flip", "crf"}
    ) == {**{"mode": "slide", "crop": 32, "flip": True, "crf": True}}
    with pytest.raises(UserError):
        own_protocol(config, {"scales": [-1.0]})
