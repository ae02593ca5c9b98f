"""A folder of tiny tagged images, and the options that make a run on them small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import default_collate
from u2pl.cli.app import App
from u2pl_ws.planning import WeakRequest

from harness.commands import set_words
from harness.contract import TOTAL, Build
from u2pl.methods.method import Method
from u2pl.networks.encoders import mit
from u2pl_ws.app import APP
from u2pl_ws.batches import TagBatch
from u2pl_ws.task import make_plan

CLASSES = ("sky", "tree", "car", "person")
#: Images of the folder: the first three are val, all others may be trained on.
IMAGES, VAL = 12, 3

TINY = {
    "network.decoder": "segformer", "network.encoder": "test_resnet", "network.encoder_weights": "none",
    "network.width": "16", "network.embed_dim": "16",
    "data.crop": "32", "data.workers": "0", "train.batch": "2", "train.reference_batch": "2", "train.lr": "1e-3",
    "train.log_every": "1", "train.evaluations": "2", "method.cam.scales": "[1.0,0.5,1.5]",
}  # fmt: skip
#: An encoder with attention that this process alone knows, see `_small_attention`; others take mit_b0.
ATTENTION = {"network.encoder": "mit_test"}
CONTRAST = {
    "method.contrast.queue": "40",
    "method.contrast.keys": "16",
    "method.contrast.anchors": "8",
    "method.contrast.negatives": "4",
}
#: What each method needs on top; one that is not here: nothing.
MORE: dict[str, dict[str, str]] = {
    "afa": ATTENTION,
    "u2plplus": {**ATTENTION, **CONTRAST, "method.host": "afa"},
    "u2plplus on cam": {**CONTRAST, "method.host": "cam"},
}


def assignments(name: str, **changes: Any) -> list[str]:
    """The `--set` options of a tiny run of a method, or of `u2plplus on cam`; `train_lr=1` changes train.lr."""
    return set_words(TINY | MORE.get(name, {}), changes)


def paint(root: Path, masked: range = range(VAL + 3)) -> Path:
    """A data folder of images of four blocks each, every class in some tag, the last image without one; masks of `masked` alone."""
    rng = np.random.default_rng(1)
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True, exist_ok=True)
    lines = ["image,classes"]
    for number in range(IMAGES):
        shown = (
            rng.choice([0, 0, 1, 2, 3], size=(2, 2))
            if number < IMAGES - 1
            else np.zeros((2, 2), np.int64)
        )
        shown[0, 0] = number % 3 + 1 if number < IMAGES - 1 else 0
        mask = np.kron(shown, np.ones((24, 28), np.int64)).astype(np.uint8)
        colour = np.stack([50 * mask, 220 - 40 * mask, 90 * (mask % 2)], axis=-1)
        Image.fromarray((colour + rng.integers(30, size=colour.shape)).astype(np.uint8)).save(
            root / "images" / f"{number}.png"
        )
        if number in masked:
            Image.fromarray(mask).save(root / "masks" / f"{number}.png")
        if number >= VAL:
            lines.append(f"{number},{' '.join(CLASSES[c] for c in np.unique(mask) if c)}")
    (root / "splits" / "val.txt").write_text("".join(f"{number}\n" for number in range(VAL)))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def app() -> App:
    """The app that is tested here."""
    return APP


@pytest.fixture(scope="session", autouse=True)
def _small_attention() -> Iterator[None]:
    """A MiT of few blocks and channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mit.VARIANTS, "mit_test", mit.Variant((1, 1, 1, 2), (8, 16, 20, 32), "none"))
        yield


@pytest.fixture(scope="session")
def tiny() -> Callable[..., list[str]]:
    """The function `assignments`."""
    return assignments


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that most tests only read."""
    return paint(tmp_path_factory.mktemp("data") / "street")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of one's own, to be broken."""
    return paint(tmp_path / "street")


@pytest.fixture
def build(folder: Path) -> Build:
    """A method with a tiny network, a warm start of 0.3 and a walk from 0.5, and a batch of 2 images, one of which has padding."""

    def make(name: str, seed: int = 0, **changes: Any) -> tuple[Method, TagBatch]:
        method = name.partition(" ")[0]
        usual: Mapping[str, Any] = {
            "method_warm_start": 0.3,
            **({"method_affinity.walk_start": 0.5} if method != "cam" else {}),
        }
        options = tuple(assignments(name, **{**usual, **changes})[1::2])
        plan = make_plan(APP, WeakRequest(method, "demo", options, TOTAL, seed, data=str(folder)))
        dataset = plan.build_dataset()
        return plan.build_method().train(), default_collate([dataset[index] for index in (0, 1)])

    return make
