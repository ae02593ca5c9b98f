"""The steps of the semi-supervised app's U2PL and U2PL+.

On the CPU network `light` at 8 + 8 images of 128 pixels; on CUDA `paper` (ResNet-101, output stride
8) at 513 pixels.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from step_rival import Rival, Stages, made_up

import u2pl_semi.methods
from u2pl.losses.supervised import cross_entropy
from u2pl.maps import upsample
from u2pl.memory.prototypes import Prototypes
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import LabeledMethod, MethodConfig
from u2pl.networks.config import NetworkConfig


class SemiRival(Rival):
    """Labelled and unlabelled images pass through the networks together."""

    methods = u2pl_semi.methods
    networks = {  # noqa: RUF012
        "light": NetworkConfig(
            decoder="deeplabv3plus_light",
            encoder="tf_efficientnet_lite0",
            encoder_weights="none",
            output_stride=16,
            atrous_rates=(6, 12, 18),
        ),
        "paper": NetworkConfig(encoder_weights="none"),
    }

    @staticmethod
    def defaults(cuda: bool) -> dict[str, Any]:
        shapes = (
            {"network": "paper", "size": 513, "classes": 21}
            if cuda
            else {"network": "light", "size": 128, "classes": 7}
        )
        return {"methods": ["u2pl", "u2plplus"], "batch": 8, "repeats": 7, **shapes}

    @staticmethod
    def config(kind: type[MethodConfig], classes: int) -> MethodConfig:
        """The paper's, but every step mixes: one that does not saves part of a pass."""
        options = kind().model_dump()
        return kind.model_validate(options | {"mix": options["mix"] | {"probability": 1.0}})

    @staticmethod
    def make_batch(options: argparse.Namespace) -> PairBatch:
        images, labels, valid = made_up(options)
        (image_l, image_u), (label_l, truth_u) = images.chunk(2), labels.chunk(2)
        return PairBatch(image_l, label_l, image_u, valid, truth_u)

    def bare_loss(self) -> torch.Tensor:
        method, batch, size = self.method, self.batch, self.batch.label_l.shape[-2:]
        images = torch.cat([batch.image_l, batch.image_u])
        method.teacher(batch.image_u, embed=self.has(Prototypes))
        method.teacher(images)
        output = method.student(images)
        logits_l, logits_u = upsample(output.logits, size).chunk(2)
        return (
            cross_entropy(logits_l, batch.label_l)
            + cross_entropy(logits_u, batch.truth_u)
            + output.embed.sum() * 0.0
        )

    def inside(self) -> Stages:
        story = self.story
        own: Stages = {
            "supervised loss": (LabeledMethod, "supervised_loss"),
            "mixing": (type(self.method.mix), "__call__"),
            "unsupervised loss": (story, "unsupervised_loss"),
            "partition": (story, "partition"),
            "partition scalars": (story, "partition_scalars"),
            "contrast: selection": (story, "select_candidates"),
        }
        if not self.has(Prototypes):
            own["positive keys"] = (story, "class_means")
        return super().inside() | own
