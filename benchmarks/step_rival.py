"""A method that takes whole steps and bare ones; each app defines which of its work is bare."""

from __future__ import annotations

import argparse
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from measure import Stopwatch, blocks
from torch import nn

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

#: Functions inside a step, as (owner, attribute), by the name of their stage.
Stages = dict[str, tuple[Any, str]]


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
    #: images of a step for each one of its batch
    streams: ClassVar[int] = 2
    #: a step's images, in words
    shape: ClassVar[str] = "{batch} + {batch} images of {size} pixels"

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        own, *variant = name.split()
        kind = load_method(self.methods.__name__, Path(self.methods.__path__[0]), own)
        network = self.network(options)
        student = build_segmentor(
            network if kind.uses_embedding else network.model_copy(update={"embed_dim": 0}),
            options.classes,
        )
        config = self.config(kind.Config, options.classes)
        if variant:
            weight = config.pixel_weight.model_copy(update={"kind": "rank_statistics"})
            config = config.model_copy(update={"pixel_weight": weight})
        self.method: Method[Any] = kind(config, student, options.classes)
        self.method.to(options.device).train()
        #: the method's module, where its step finds the functions that it calls
        self.story = sys.modules[kind.__module__]
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
        """Methods, network and shapes if none are given."""

    @classmethod
    def network(cls, options: argparse.Namespace) -> NetworkConfig:
        """The chosen network, with a representation head."""
        return cls.networks[options.network]

    @staticmethod
    def config(kind: type[MethodConfig], classes: int) -> MethodConfig:
        """The method's options: the paper's."""
        return kind()

    @staticmethod
    @abstractmethod
    def make_batch(options: argparse.Namespace) -> Any:
        """The input of a step."""

    def phases(self) -> dict[str, Progress]:
        """A step of each phase of a run, by the phase's name.

        By default there is one phase without a name: everything after the warm start.
        """
        return {"": PROGRESS}

    @abstractmethod
    def bare_loss(self) -> torch.Tensor:
        """The forward passes that the step cannot do without, and a loss of the student's."""

    def inside(self) -> Stages:
        """The stages of a step: an app adds its own to those of the parts that methods share.

        Each of them must exist; see `measure.watched`.
        """
        stages: Stages = {"networks": (Segmentor, "forward")}
        if self.has(Prototypes):
            stages["prototypes"] = (Prototypes, "update")
        if self.has(DenoisingPrototypes):
            stages["denoising"] = (DenoisingPrototypes, "denoised_label")
        if self.has(PixelContrast):
            stages["contrast: the rest"] = (PixelContrast, "forward")
        return stages

    def has(self, kind: type[nn.Module]) -> bool:
        """Whether the method has a part of this kind."""
        return any(isinstance(part, kind) for part in self.method.modules())

    def whole(self, watch: Stopwatch) -> None:
        """A step as the training loop runs it."""
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
        """Seconds of each stage of whole and of bare steps."""
        reports = {}
        for name, step in (("step", self.whole), ("bare", self.bare)):
            watch = Stopwatch(device)
            with watch.watching(**self.inside()):
                for _ in range(repeats):
                    step(watch)
                    watch.lap()
            reports[name] = watch.report()
        return reports


def made_up(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise images and block labels of both halves of a batch, and the second half's valid pixels.

    Returns: images uint8 [2B, 3, H, W], labels uint8 [2B, H, W] of which 5 % are 255, valid bool
    [B, H, W], False on a margin of padding.
    """
    generator = torch.Generator().manual_seed(options.seed)
    size, count = options.size, options.batch
    images = torch.randint(256, (2 * count, 3, size, size), generator=generator, dtype=torch.uint8)
    label = blocks(2 * count, options.classes, size, max(1, size // 8), generator)
    label[torch.rand(label.shape, generator=generator) < 0.05] = IGNORE
    valid = torch.ones(count, size, size, dtype=torch.bool)
    valid[:, -max(1, size // 16) :] = False
    device = options.device
    return images.to(device), label.to(device, torch.uint8), valid.to(device)
