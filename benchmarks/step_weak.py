"""The steps of the weakly supervised app's cam, AFA and U2PL+, in each phase of a run.

Preset `voc`, with 2 images of 256 pixels on the CPU and 8 of 512 pixels on CUDA. The bare work on
tags alone is that of the encoder and the image-level classifier; later it is that of the whole
network, and the forward passes behind the activation maps. Both losses are the method's own.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import torch
from step_rival import Rival, Stages, made_up
from torch import Tensor

import u2pl_ws.methods
from u2pl.evaluate.inference import evaluating
from u2pl.maps import resize_image
from u2pl.methods.method import MethodConfig
from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.networks.attention import AffinityHead
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import SegOutput
from u2pl.schedules import Progress
from u2pl.training.config import TrainConfig
from u2pl_ws import activation_maps, map_labels
from u2pl_ws.activation_maps import ActivationConfig, scaled_size
from u2pl_ws.batches import TagBatch
from u2pl_ws.methods import cam

RECIPE = tomllib.loads(
    (Path(u2pl_ws.__file__).parent / "recipes" / "voc.toml").read_text(encoding="utf-8")
)
MOST_TAGS = 3


class WeakRival(Rival):
    """Steps on tags alone, on labels from activation maps, and on maps spread by a random walk."""

    methods = u2pl_ws.methods
    networks = {"voc": NetworkConfig(**{**RECIPE["network"], "encoder_weights": "none"})}  # noqa: RUF012
    train = TrainConfig(**RECIPE["train"])
    streams = 1
    shape = "{batch} images of {size} pixels with up to " + f"{MOST_TAGS} tags"

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        super().__init__(name, options)
        self.label = made_up(options)[1][: options.batch].long()

    @staticmethod
    def defaults(cuda: bool) -> dict[str, Any]:
        shapes = {"batch": 8, "size": 512} if cuda else {"batch": 2, "size": 256}
        return {
            "methods": ["cam", "afa", "u2plplus"],
            "network": "voc",
            "classes": 21,
            "repeats": 5,
            **shapes,
        }

    @classmethod
    def network(cls, options: argparse.Namespace) -> NetworkConfig:
        return super().network(options).model_copy(update={"tag_classes": options.classes - 1})

    @staticmethod
    def config(kind: type[MethodConfig], classes: int) -> MethodConfig:
        return kind(cam=ActivationConfig(most_tags=MOST_TAGS))

    @staticmethod
    def make_batch(options: argparse.Namespace) -> TagBatch:
        images, _, valid = made_up(options)
        generator = torch.Generator().manual_seed(options.seed)
        drawn = torch.rand(options.batch, options.classes - 1, generator=generator)
        count = MOST_TAGS - torch.arange(options.batch).unsqueeze(1) % MOST_TAGS
        tags = drawn.argsort(dim=1).argsort(dim=1) < count
        return TagBatch(images[: options.batch], tags.to(options.device), valid)

    def phases(self) -> dict[str, Progress]:
        walk = {"walk": Progress(step=50, total=100)} if self.has(AffinityHead) else {}
        return {"tags": Progress(step=5, total=100), "labels": Progress(step=20, total=100), **walk}

    def bare_loss(self) -> Tensor:
        method, image = self.method, self.batch.image
        if self.progress.after(method.config.warm_start) < 0:
            deep = method.student.encoder(method.student.prepare(image))[-1]
            return method.tag_loss(SegOutput(deep, None, deep), self.batch)
        output = method.student(image, embed=method.uses_embedding)
        self._map_forwards(image.float() / 255)
        loss = method.tag_loss(output, self.batch) + method.segmentation_loss(output, self.label)
        return loss if output.embed is None else loss + output.embed.sum() * 0.0

    @torch.no_grad()
    def _map_forwards(self, image: Tensor) -> None:
        student = self.method.student
        with evaluating([student]):
            for scale in self.method.config.cam.scales:
                view = resize_image(image, scaled_size(image, scale))
                both = student.prepare(torch.cat([view, view.flip(-1)]))
                student.activation(student.encoder(both)[-1])

    def inside(self) -> Stages:
        kind = type(self.method)
        own: Stages = {
            "encoder": (type(self.method.student.encoder), "forward"),
            "tag loss": (cam.Cam, "tag_loss"),
            "segmentation loss": (cam.Cam, "segmentation_loss"),
            "activation maps: the rest": (activation_maps, "multi_scale_cam"),
            "PAR: kernel": (cam, "affinity_kernel"),
            "PAR: iterations": (map_labels, "refine"),
            "labels: the rest": (map_labels, "agreed_label"),
        }
        if self.has(AffinityHead):
            own |= {
                "affinity": (AffinityHead, "forward"),
                "affinity loss": (kind, "affinity_loss"),
                "random walk": (map_labels, "random_walk"),
            }
        if self.has(PixelContrast):
            own["contrast: selection"] = (self.story, "select_by_tags")
        return super().inside() | own
