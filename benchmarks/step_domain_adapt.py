"""The steps of the domain adaptation app's DAFormer and U2PL+.

On the CPU network `light` at 2 + 2 images of 256 pixels; on CUDA `paper` (MiT-B5) at 512 pixels.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import torch
from step_rival import Rival, Stages, made_up

import u2pl_da.methods
from u2pl.data.city_classes import NAMES, CityClasses
from u2pl.losses.supervised import connected_zero, cross_entropy
from u2pl.maps import upsample
from u2pl.methods.method import LabeledMethod, MethodConfig
from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.mixing.photometric import StrongView
from u2pl.networks.config import NetworkConfig
from u2pl.training.config import TrainConfig
from u2pl_da.adaptation import Adaptation
from u2pl_da.batches import DomainBatch
from u2pl_da.feature_distance import FeatureDistanceConfig, ImageNetDistance

RECIPE = tomllib.loads(
    (Path(u2pl_da.__file__).parent / "recipes" / "gta5-cityscapes.toml").read_text(encoding="utf-8")
)


class DomainAdaptRival(Rival):
    """Source and mixed images pass through the networks one group at a time.

    BatchNorm must not mix the two domains' statistics.
    """

    methods = u2pl_da.methods
    networks = {  # noqa: RUF012
        "light": NetworkConfig(
            decoder="daformer", encoder="tf_efficientnet_lite0", encoder_weights="none"
        ),
        "paper": NetworkConfig(**{**RECIPE["network"], "encoder_weights": "none"}),
    }
    train = TrainConfig(**RECIPE["train"])

    @staticmethod
    def defaults(cuda: bool) -> dict[str, Any]:
        shapes = {"network": "paper", "size": 512} if cuda else {"network": "light", "size": 256}
        return {
            "methods": ["daformer", "u2plplus"],
            "batch": 2,
            "classes": len(NAMES),
            "repeats": 5,
            **shapes,
        }

    @staticmethod
    def config(kind: type[MethodConfig], classes: int) -> MethodConfig:
        things = tuple(id for id, name in enumerate(NAMES[:classes]) if name in CityClasses.things)
        return kind(feature_distance=FeatureDistanceConfig(things=things))

    @staticmethod
    def make_batch(options: argparse.Namespace) -> DomainBatch:
        images, labels, valid = made_up(options)
        (image_l, image_t), (label_l, truth_t) = images.chunk(2), labels.chunk(2)
        border = torch.zeros(valid.shape[:2], dtype=torch.bool, device=options.device)
        border[:, : options.size // 16] = True
        return DomainBatch(image_l, label_l, image_t, valid, border, truth_t)

    def bare_loss(self) -> torch.Tensor:
        method, batch, embeds = self.method, self.batch, self.method.uses_embedding
        groups, size = (batch.image_l, batch.image_t), self.batch.label_l.shape[-2:]
        method.teacher(batch.image_t, embed=embeds)
        source, target = (method.student(images, embed=embeds) for images in groups)
        if embeds:  # the teacher sees both groups too, for keys and prototypes
            for images in groups:
                method.teacher(images, learn=False)
        with torch.no_grad():
            method.imagenet.encoder(method.student.prepare(batch.image_l))
        losses = [
            cross_entropy(upsample(out.logits, size), label)
            for out, label in ((source, batch.label_l), (target, batch.truth_t))
        ]
        idle = (
            [out.embed.sum() * 0.0 for out in (source, target)]
            if embeds
            else [connected_zero(source.logits)]
        )
        return torch.stack(losses + idle).sum()

    def inside(self) -> Stages:
        kind, story = type(self.method), self.story
        own: Stages = {
            "supervised loss": (LabeledMethod, "supervised_loss"),
            "ImageNet encoder": (self.method.imagenet.encoder, "forward"),
            "feature distance": (ImageNetDistance, "forward"),
            "pseudo-labels": (Adaptation, "pseudo_labels"),
            "mixing": (Adaptation, "mix"),
            "strong view": (StrongView, "__call__"),
        }
        if self.has(PixelContrast):
            own |= {
                "unsupervised loss": (kind, "unsupervised_loss"),
                "partition": (kind, "partition"),
                "partition scalars": (story, "partition_scalars"),
                "contrast: selection": (story, "select_in_domains"),
            }
        else:
            own |= {
                "unsupervised loss": (story, "cross_entropy"),
                "pseudo-label accuracy": (story, "label_accuracy"),
            }
        return super().inside() | own
