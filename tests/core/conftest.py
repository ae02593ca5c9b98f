"""Small data sets, a tiny network, two processes played by two threads, files in a registry."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from u2pl import distributed
from u2pl.files import in_memory
from u2pl.model.card import Card
from u2pl.model.folder import folder_files
from u2pl.model.model import Model
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import Segmentor, SegOutput

#: Options of a network that is built and run in a moment.
TINY = {"decoder": "segformer", "encoder": "test_resnet", "encoder_weights": "none", "width": 8}


class Twins:
    """Runs a function as rank 0 and as rank 1 at the same time.

    `gather` and `total` then mean what `u2pl.distributed` says.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._sent: list[Tensor] = [torch.empty(0)] * 2
        self._meeting = threading.Barrier(2, timeout=20)

    def run(self, function: Callable[[int], Any]) -> list[Any]:
        def enter(rank: int) -> Any:
            self._here.rank = rank
            try:
                return function(rank)
            except BaseException:
                self._meeting.abort()
                raise

        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(enter, rank) for rank in (0, 1)]
            return [future.result() for future in futures]

    def rank(self) -> int:
        return self._here.rank

    def gather(self, value: Tensor) -> Tensor:
        return torch.cat(self._exchange(value))

    def total(self, value: Tensor) -> Tensor:
        first, second = self._exchange(value)
        return first + second

    def _exchange(self, value: Tensor) -> list[Tensor]:
        self._sent[self.rank()] = value.detach()
        self._meeting.wait()
        both = list(self._sent)
        self._meeting.wait()
        return both


class Drawn:
    """Eleven images of several sizes; the red channel is the class of each 4x4 block.

    The first two rows of each mask are ignored.
    """

    name, classes = "drawn", ("a", "b", "c")

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.masks = {
            f"{i:02}": draw.integers(0, 3, (3 + i % 3, 4 + i % 2))
            .repeat(4, 0)
            .repeat(4, 1)
            .astype(np.uint8)
            for i in range(11)
        }
        self.decoded: list[str] = []

    def has_mask(self, id: str) -> bool:
        return id in self.masks

    def where_masks_lack(self, advice: str) -> str:
        return advice

    def image(self, id: str) -> Image.Image:
        self.decoded.append(id)
        return Image.fromarray(np.stack([self.masks[id] * 100] * 3, -1))

    def mask(self, id: str) -> np.ndarray:
        mask = self.masks[id].copy()
        mask[:2] = 255
        return mask


class Reader(nn.Module):
    """Reads the class from the red channel, `shift` classes off."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.drop = nn.Dropout(0.9)

    def forward(self, image: Tensor, embed: bool = True) -> SegOutput:
        ids = (image[:, 0, ::4, ::4] * 255 / 100).round().long()
        logits = nn.functional.one_hot((ids + self.shift) % 3, 3).permute(0, 3, 1, 2) * 1000.0
        return SegOutput(self.drop(logits))


@pytest.fixture
def drawn() -> Drawn:
    return Drawn()


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> type[Reader]:
    """`reader(0)` predicts the classes of `drawn`; `reader(1)` is wrong everywhere."""

    def nearest(logits: Tensor, size: tuple[int, int]) -> Tensor:
        full = logits.repeat_interleave(4, -1).repeat_interleave(4, -2)
        return full[..., : size[0], : size[1]]

    # the blocks have hard edges; bilinear upsampling would blur them
    monkeypatch.setattr("u2pl.evaluate.inference.upsample", nearest)
    return Reader


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Segmentor]:
    """`tiny(classes, seed)` is a network that is built and run in a moment, in training mode."""

    def build(classes: int = 3, seed: int = 0, **options: Any) -> Segmentor:
        torch.manual_seed(seed)
        return build_segmentor(NetworkConfig(**TINY, **{"embed_dim": 0, **options}), classes)

    return build


@pytest.fixture
def card() -> Card:
    """Of `tiny()`, with the classes of `make_folder`; it names no data."""
    network = NetworkConfig(**TINY, embed_dim=0)
    return Card(network=network, classes=("background", "cat", "dog"))


@pytest.fixture
@torch.no_grad()
def model(tiny: Callable[..., Segmentor], card: Card) -> Model:
    """Predicts each of its classes somewhere."""
    network, noise = tiny(), torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for _ in range(10):
        network(noise)  # statistics of BatchNorm
    mean = network.eval()(noise).logits.mean(dim=(0, 2, 3))
    network.classifier[-1].bias -= mean
    return Model(network, card)


@pytest.fixture
def cached(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Model, str], str]:
    """`cached(model, "user/name")` is in the hub's cache, as its `main`; returns the commit.

    Laid out as huggingface_hub does it: blobs, and links to them in a folder for each commit.
    """
    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(model: Model, name: str) -> str:
        root = cache / f"models--{name.replace('/', '--')}"
        contents = folder_files(model.network, model.card, name)
        files = {file: in_memory(content) for file, content in contents.items()}
        commit = hashlib.sha1(b"".join(files.values())).hexdigest()
        for folder in ("blobs", "refs", f"snapshots/{commit}"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text(commit)
        for file, content in files.items():
            blob = root / "blobs" / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            (root / "snapshots" / commit / file).symlink_to(Path("../../blobs") / blob.name)
        return commit

    return put


@pytest.fixture
def twins() -> Twins:
    return Twins()


@pytest.fixture
def connected(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> Twins:
    """Twins that `u2pl.distributed` knows of."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for name in ("rank", "gather", "total"):
        monkeypatch.setattr(distributed, name, getattr(twins, name))
    return twins


@pytest.fixture
def add_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[ModuleType, str, str], None]]:
    """`add_file(package, "name", text)` puts a file into a package that is a registry."""
    added: list[tuple[ModuleType, str]] = []

    def add(package: ModuleType, name: str, text: str) -> None:
        folder = tmp_path / package.__name__
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        added.append((package, name))

    yield add
    for package, name in added:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """`make_folder({"a": [0, 1], "b": None})` holds photos a and b of 6x4 pixels.

    The mask of a has stripes of ids 0 and 1; b has none.
    """

    def make(
        held: Mapping[str, list[int] | None], classes: str = "background\ncat\ndog\n", **splits: str
    ) -> Path:
        root = tmp_path / "photos"
        for number, (id, ids) in enumerate(held.items()):
            _save(root / "images" / f"{id}.png", np.full((4, 6, 3), 10 + number, np.uint8))
            if ids is not None:
                _save(root / "masks" / f"{id}.png", np.resize(np.array(ids, np.uint8), (4, 6)))
        (root / "classes.txt").write_text(classes)
        for name, lines in splits.items():
            (root / "splits").mkdir(exist_ok=True)
            (root / "splits" / f"{name}.txt").write_text(lines)
        return root

    return make
