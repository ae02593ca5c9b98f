"""Two tiny domains of blocks of colour, and the options that make an adaptation between them small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import default_collate
from u2pl.cli.app import App
from u2pl_da.planning import AdaptRequest

from harness.commands import QUEUES, set_words
from harness.contract import TOTAL, Build
from u2pl.methods.method import Method
from u2pl_da.app import APP
from u2pl_da.batches import DomainBatch
from u2pl_da.task import make_plan

CLASSES = ("road", "tree", "car", "person")
META = 'things = ["car", "person"]\nvoid_top = 0.1\nvoid_bottom = 0.15\n'

TINY = {
    "network.decoder": "daformer", "network.encoder": "test_resnet", "network.encoder_weights": "none",
    "network.width": "16", "network.embed_dim": "16",
    "data.crop": "64", "data.workers": "0", "train.batch": "2", "train.reference_batch": "2", "train.lr": "1e-3",
    "train.log_every": "1", "train.evaluations": "2",
}  # fmt: skip
SELF_TRAINING = {
    "method.pseudo.threshold": "0.3", "method.rare_classes.min_pixels": "200",
    "method.feature_distance.weight": "0.05", "method.feature_distance.min_share": "0.5",
}  # fmt: skip
#: What each method needs on top; one that is not here: nothing.
MORE: dict[str, dict[str, str]] = {
    "daformer": SELF_TRAINING,
    "u2plplus": SELF_TRAINING | QUEUES | {"method.contrast.delta_p": "0.2"},
}


def assignments(method: str, **changes: Any) -> list[str]:
    """The `--set` options of a tiny run; `train_lr=1` changes train.lr."""
    return set_words(TINY | MORE.get(method, {}), changes)


def paint(
    root: Path,
    masked: Sequence[int],
    classes: Sequence[str] = CLASSES,
    warm: bool = False,
    meta: str = "",
) -> Path:
    """A data folder of ten images of four blocks each, images 0-2 in the val list; `warm` changes every colour, and no mask."""
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


@pytest.fixture(scope="session")
def tiny() -> Callable[..., list[str]]:
    """The function `assignments`."""
    return assignments


@pytest.fixture(scope="session")
def words() -> Callable[..., list[Any]]:
    """The command of a tiny run: `words("daformer", domains, 4, out, train_lr=1)`."""

    def make(
        method: str, domains: dict[str, Any], steps: int, out: Path, **changes: Any
    ) -> list[Any]:
        data = [word for name, folder in domains.items() for word in (f"--{name}", folder)]
        run = ["--preset", "demo", "--steps", steps, "--cpu", "--out", out]
        return ["train", method, *data, *run, *assignments(method, **changes)]

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


@pytest.fixture
def build(domains: dict[str, str]) -> Build:
    """A method with a tiny network and a warm start of 0.3 if it has one, and a batch of 2 + 2 images."""

    def make(name: str, seed: int = 0, **changes: Any) -> tuple[Method, DomainBatch]:
        warm = {"method_warm_start": 0.3} if name == "u2plplus" else {}
        options = tuple(assignments(name, **(warm | changes))[1::2])
        plan = make_plan(APP, AdaptRequest(name, "demo", options, TOTAL, seed, **domains))
        dataset = plan.build_dataset()
        return plan.build_method().train(), default_collate([dataset[index] for index in range(2)])

    return make
