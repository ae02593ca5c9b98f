"""A method that is taken through whole steps and through bare ones; each app says what of its steps is bare network work."""

from __future__ import annotations

import argparse
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from measure import Stopwatch, blocks

from u2pl.memory.prototypes import DenoisingPrototypes, Prototypes
from u2pl.methods.discovery import load_method
from u2pl.methods.method import Method, MethodConfig
from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.schedules import Progress
from u2pl.training.config import TrainConfig
from u2pl.training.optimizer import build_optimizer

#: A step after the warm start.
PROGRESS = Progress(step=50, total=100)


class Rival(ABC):
    """A method, its optimizer and a batch.

    Args:
        name: of the method.
        options: of the command line; network, classes, device and precision are read here.
    """

    #: the folder of the app's methods
    methods: ClassVar[ModuleType]
    networks: ClassVar[dict[str, NetworkConfig]]
    train: ClassVar[TrainConfig] = TrainConfig()
    #: a step's images, in words
    shape: ClassVar[str] = "{batch} + {batch} images of {size} pixels"

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        kind = load_method(self.methods.__name__, Path(self.methods.__path__[0]), name)
        network = self.network(options)
        student = build_segmentor(
            network if kind.uses_embedding else network.model_copy(update={"embed_dim": 0}),
            options.classes,
        )
        config = self.config(kind.Config, options.classes)
        self.method: Method = kind(config, student, options.classes).to(options.device).train()
        self.optimizer = build_optimizer(self.method, self.train)
        self.batch = self.make_batch(options)
        self.progress = PROGRESS
        self.precision = torch.autocast(
            options.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"
        )
        for module in self.method.modules():
            if isinstance(module, PixelContrast):
                module.queue.filled.copy_(module.queue.length)
                module.queue.rows.fill_(1.0)

    @staticmethod
    @abstractmethod
    def defaults(cuda: bool) -> dict[str, Any]:
        """Methods, network and shapes where none are asked for."""

    @classmethod
    def network(cls, options: argparse.Namespace) -> NetworkConfig:
        """The network that is asked for, with a representation head."""
        return cls.networks[options.network]

    @staticmethod
    def config(kind: type[MethodConfig], classes: int) -> MethodConfig:
        """The method's options: the paper's."""
        return kind()

    @staticmethod
    @abstractmethod
    def make_batch(options: argparse.Namespace) -> Any:
        """What a step is fed."""

    def phases(self) -> dict[str, Progress]:
        """Parts of a run whose steps differ, by name, and a step of each; by default the steps after the warm start, which need no name."""
        return {"": PROGRESS}

    @abstractmethod
    def bare_loss(self) -> torch.Tensor:
        """Forwards that the step cannot do without, and a loss of the student's."""

    def inside(self, story: ModuleType) -> dict[str, tuple[Any, str]]:
        """Functions inside a step, as (owner, attribute) by the name of their stage; `story` is the method's module."""
        return {
            "networks": (Segmentor, "forward"),
            "supervised loss": (Method, "supervised_loss"),
            "unsupervised loss": (story, "unsupervised_loss"),
            "partition": (story, "partition"),
            "partition scalars": (story, "partition_scalars"),
            "prototypes": (Prototypes, "update"),
            "denoising": (DenoisingPrototypes, "denoised_label"),
            "contrast: selection": (PixelContrast, "select"),
            "contrast: the rest": (PixelContrast, "forward"),
        }

    def whole(self, watch: Stopwatch) -> None:
        """As the training loop does it."""
        with watch.stage("everything else"), self.precision:
            loss = self.method(self.batch, self.progress).loss
        self._descend(loss, watch)
        with watch.stage("teacher update"):
            self.method.after_step(self.progress)

    def bare(self, watch: Stopwatch) -> None:
        """The networks' share of it."""
        with watch.stage("everything else"), self.precision:
            loss = self.bare_loss()
        self._descend(loss, watch)

    def _descend(self, loss: torch.Tensor, watch: Stopwatch) -> None:
        with watch.stage("backward"):
            loss.backward()
        with watch.stage("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()

    def stages(self, repeats: int, device: torch.device) -> dict[str, dict[str, dict[str, float]]]:
        """Seconds of each stage of whole and bare steps; functions inside a step are watched by name."""
        inside = self.inside(sys.modules[type(self.method).__module__])
        reports = {}
        for name, step in (("step", self.whole), ("bare", self.bare)):
            watch = Stopwatch(device)
            with watch.watching(
                **{stage: place for stage, place in inside.items() if hasattr(*place)}
            ):
                for _ in range(repeats):
                    step(watch)
                    watch.lap()
            reports[name] = watch.report()
        return reports


def made_up(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of noise for both halves of a batch, uint8 labels in blocks of which 5 % are 255, and where the second half is no padding."""
    generator, size, count = (
        torch.Generator().manual_seed(options.seed),
        options.size,
        options.batch,
    )
    images = torch.randint(256, (2 * count, 3, size, size), generator=generator, dtype=torch.uint8)
    label = blocks(2 * count, options.classes, size, max(1, size // 8), generator)
    label[torch.rand(label.shape, generator=generator) < 0.05] = IGNORE
    valid = torch.ones(count, size, size, dtype=torch.bool)
    valid[:, -max(1, size // 16) :] = False
    return (
        images.to(options.device),
        label.to(options.device, torch.uint8),
        valid.to(options.device),
    )
