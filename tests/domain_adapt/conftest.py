"""Two tiny domains of coloured blocks, and options that keep an adaptation between them small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.tiny import QUEUES, Options, Tiny
from u2pl.run.app import App
from u2pl_da.app import APP

CLASSES = ("road", "tree", "car", "person")
META = 'things = ["car", "person"]\nvoid_top = 0.1\nvoid_bottom = 0.15\n'

TINY = {
    "network.decoder": "daformer",
    "network.encoder": "test_resnet",
    "network.encoder_weights": "none",
    "network.width": 16,
    "network.embed_dim": 16,
    "data.crop": 64,
    "data.workers": 0,
    "train.batch": 2,
    "train.reference_batch": 2,
    "train.lr": 1e-3,
    "train.log_every": 1,
    "train.evaluations": 2,
    "method.pseudo.threshold": 0.3,
    "method.rare_classes.min_pixels": 200,
    "method.feature_distance.weight": 0.05,
    "method.feature_distance.min_share": 0.5,
    "method.contrast.delta_p": 0.2,
    **QUEUES,
}
VARIANTS: dict[str, Options] = {
    "daformer without distance": {"method.feature_distance.weight": 0},
    "daformer as released": {"method.classmix": "batch", "method.pseudo.share_of": "batch"},
    "u2plplus without distance": {"method.feature_distance.weight": 0},
    "u2plplus as released": {"method.classmix": "batch", "method.pseudo.share_of": "batch"},
    "u2plplus with the rest": {
        "method.unsupervised.entropy_filter": "true",
        "method.negatives.reliable": "true",
        "method.prototypes.denoise": "false",
        "method.evaluate": "student",
        "method.teacher.statistics": "averaged",
    },
}


def paint(
    root: Path,
    masked: Sequence[int],
    classes: Sequence[str] = CLASSES,
    warm: bool = False,
    meta: str = "",
) -> Path:
    """A data folder of ten images of four blocks each, images 0-2 in the val list.

    `warm` changes every colour, and no mask.
    """
    rng = np.random.default_rng(len(classes) + 10 * warm)
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number in range(10):
        mask = np.kron(rng.integers(len(classes), size=(2, 2)), np.ones((40, 48), np.int64)).astype(
            np.uint8
        )
        colour = np.stack([50 * mask, 220 - 40 * mask, 90 * (mask % 2)], axis=-1)[
            ..., :: -1 if warm else 1
        ]
        noisy = (colour + rng.integers(30, size=colour.shape)).astype(np.uint8)
        Image.fromarray(noisy).save(root / "images" / f"{number}.png")
        if number in masked:
            Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    (root / "splits" / "val.txt").write_text("0\n1\n2\n")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    if meta:
        (root / "meta.toml").write_text(meta)
    return root


def make_source(root: Path, **look: Any) -> Path:
    """A source to be broken: every image has a mask, seven are for training."""
    return paint(root, range(10), **look)


def make_target(root: Path, **look: Any) -> Path:
    """A target to be broken: val alone has masks, seven images are for training."""
    return paint(root, range(3), **{"warm": True, "meta": META, **look})


@pytest.fixture(scope="session")
def app() -> App:
    """The app that is tested here."""
    return APP


@pytest.fixture(scope="module")
def tiny(app: App) -> Tiny:
    """Options of tiny runs."""
    return Tiny(app, TINY, VARIANTS)


@pytest.fixture(scope="module")
def words(tiny: Tiny) -> Callable[..., list[Any]]:
    """The command of a tiny run: `words("daformer", domains, 4, out, train_lr=1)`."""

    def make(
        method: str, domains: dict[str, Any], steps: int, out: Path, **changes: Any
    ) -> list[Any]:
        data = [word for name, folder in domains.items() for word in (f"--{name}", folder)]
        run = ["--preset", "demo", "--steps", steps, "--cpu", "--out", out]
        return ["train", method, *data, *run, *tiny(method, **changes)]

    return make


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folders that most tests only read, as a request names them."""
    root = tmp_path_factory.mktemp("domains")
    return {"source": str(make_source(root / "day")), "target": str(make_target(root / "dusk"))}


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, Path]:
    """Two folders of one's own, to be broken."""
    return {"source": make_source(tmp_path / "day"), "target": make_target(tmp_path / "dusk")}


@pytest.fixture(scope="session")
def request_data(domains: dict[str, str]) -> dict[str, str]:
    """What of a request names the data."""
    return domains
