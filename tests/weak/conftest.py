"""A folder of tiny tagged images, and the options that make a run on them small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import small_mit
from harness.tiny import QUEUES, Options, Tiny
from u2pl.networks.encoders import mit
from u2pl.run.app import App
from u2pl_ws.app import APP

CLASSES = ("sky", "tree", "car", "person")
#: Images of the folder: the first three are val, all others may be trained on.
IMAGES, VAL = 12, 3

TINY = {
    "network.decoder": "segformer",
    "network.encoder": "test_resnet",
    "network.encoder_weights": "none",
    "network.width": 16,
    "network.embed_dim": 16,
    "data.crop": 32,
    "data.workers": 0,
    "train.batch": 2,
    "train.reference_batch": 2,
    "train.lr": 1e-3,
    "train.log_every": 1,
    "train.evaluations": 2,
    "method.host": "afa",
    "method.cam.scales": [1.0, 0.5, 1.5],
    "method.affinity.walk_start": 0.5,
    **QUEUES,
    "method.contrast.queue": 40,
}
SECTIONS: dict[str, Options] = {"affinity": {"network.encoder": small_mit.NAME}}
VARIANTS: dict[str, Options] = {
    "u2plplus on cam": {"method.host": "cam", "network.encoder": "test_resnet"}
}


def paint(root: Path, masked: range = range(VAL + 3)) -> Path:
    """A data folder of images of four blocks each, with masks of `masked` alone.

    Every class is in some tag, the last image has none.
    """
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
    """The small encoder is known to this process for as long as it is needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mit.VARIANTS, small_mit.NAME, small_mit.VARIANT)
        yield


@pytest.fixture(scope="module")
def tiny(app: App) -> Tiny:
    """Options of tiny runs."""
    return Tiny(app, TINY, VARIANTS, SECTIONS)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that most tests only read."""
    return paint(tmp_path_factory.mktemp("data") / "street")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of one's own, to be broken."""
    return paint(tmp_path / "street")


@pytest.fixture(scope="session")
def request_data(folder: Path) -> dict[str, str]:
    """What of a request names the data."""
    return {"data": str(folder)}
