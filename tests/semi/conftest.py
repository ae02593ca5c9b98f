"""A folder of tiny images, and the options that make a run on them small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.blocks import make_folder
from harness.tiny import QUEUES, Tiny
from u2pl.run.app import App
from u2pl_semi.app import APP

TINY = {
    "network.decoder": "deeplabv3plus_light",
    "network.encoder": "test_resnet",
    "network.encoder_weights": "none",
    "network.output_stride": 16,
    "network.atrous_rates": [1, 2, 3],
    "network.embed_dim": 16,
    "data.crop": 32,
    "data.workers": 0,
    "train.batch": 2,
    "train.reference_batch": 2,
    "train.log_every": 1,
    "train.evaluations": 2,
    **QUEUES,
}

#: The teacher looks once where nothing is mixed.
UNMIXED = {"method.mix.probability": 0}
#: Pseudo-labels are weighted, by prototypes of pixels that are not very sure yet.
WEIGHTED = {
    "method.pixel_weight.kind": "rank_statistics",
    "method.pixel_weight.confidence": 0.1,
    "method.pixel_weight.memory": 8,
    "method.pixel_weight.channels": 3,
}
#: A Vision Transformer.
TOKENS = {
    "network.encoder": "test_vit",
    "network.decoder": "dpt",
    "network.output_stride": 32,
    "network.width": 8,
}
VARIANTS = {
    "u2plplus unmixed": UNMIXED,
    **{
        f"{name} weighted": WEIGHTED for name in ("fixmatch", "unimatch", "unimatch_v2", "u2plplus")
    },
    "fixmatch on tokens": {**TOKENS, "train.layer_decay": 0.7},
    "suponly on frozen tokens": {**TOKENS, "network.freeze_encoder": "true"},
}


@pytest.fixture(scope="session")
def app() -> App:
    """The app that is tested here."""
    return APP


@pytest.fixture(scope="module")
def tiny(app: App) -> Tiny:
    """Options of tiny runs."""
    return Tiny(app, TINY, VARIANTS)


@pytest.fixture(scope="session")
def make_data() -> Callable[..., Path]:
    """The function `make_folder`."""
    return make_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder that most tests only read."""
    return make_folder(tmp_path_factory.mktemp("data") / "blocks")


@pytest.fixture(scope="session")
def request_data(folder: Path) -> dict[str, str]:
    """What of a request names the data."""
    return {"data": str(folder)}
